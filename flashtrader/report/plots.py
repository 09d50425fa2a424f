"""The pictures that are files: their style, and that of a training. Rows in, a matplotlib Figure out.

All are drawn in one style: colours of Okabe & Ito (2008) that stay apart for every kind of colour vision and in grey,
a white ground for print, units on every axis, times in UTC. Long series are thinned to what the pixels can show.
"""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import DAILY, AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flashtrader.arrays import Floats
from flashtrader.files import replacing
from flashtrader.interval import DAY_MS
from flashtrader.report.formats import fixed, plain
from flashtrader.report.metric_names import SKILL_LABELS
from flashtrader.report.summaries import Timestamps
from flashtrader.report.thinning import thin

BLUE, ORANGE, VERMILION, GREEN, GREY = "#0072b2", "#e69f00", "#d55e00", "#009e73", "#7a7a7a"
INK, RULE = "#1f2328", "#e4e6e9"

WIDTH_INCHES = 6.5
PIXELS_PER_INCH = 200

STYLE = mpl.rc_context(
    {
        "font.family": ["DejaVu Sans"],
        "font.size": 10.5,
        "text.color": INK,
        "axes.titlesize": 12,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 10,
        "axes.labelsize": 10,
        "axes.labelcolor": INK,
        "axes.edgecolor": "#9aa0a6",
        "axes.linewidth": 0.8,
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.unicode_minus": True,
        "grid.color": RULE,
        "grid.linewidth": 0.8,
        "xtick.color": "#9aa0a6",
        "ytick.color": "#9aa0a6",
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "legend.frameon": False,
        "legend.fontsize": 10,
        "lines.linewidth": 1.5,
        "lines.solid_joinstyle": "round",
        "agg.path.chunksize": 10_000,
        "figure.constrained_layout.use": True,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "timezone": "UTC",
    }
)


@STYLE
def write_png(figure: Figure, path: Path) -> bytes:
    """Replace `path` by the figure as a PNG, in one step, and return its bytes; the same figure gives the same ones."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PIXELS_PER_INCH, metadata={"Software": None})
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return buffer.getvalue()


@STYLE
def plot_loss_curves(rows: Iterable[Mapping[str, Any]]) -> Figure:
    """Draw training and validation loss by step, and the validation skill under them.

    rows: of metrics.jsonl, with `step` and any of `train_loss`, `validation_loss` and the one other `validation_…`,
    which is the skill; null is left out.
    """
    rows = list(rows)
    evaluated = {key.removeprefix("validation_") for row in rows for key in row}
    name = next((name for name in SKILL_LABELS if name in evaluated), "ic")
    figure = Figure(figsize=(WIDTH_INCHES, 4.4))
    loss, skill = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    steps, train = _series(rows, "train_loss")
    chosen = thin(train)
    loss.plot(steps[chosen], train[chosen], color=GREY, alpha=0.6, linewidth=1, label="Training", **_dot(train))
    steps, validation = _series(rows, "validation_loss")
    label = "Validation"
    if len(validation):
        best = int(validation.argmin())
        label = f"Validation, best {fixed(validation[best], 4)} at step {steps[best]:,.0f}"
        loss.plot(steps[best], validation[best], "o", color=VERMILION, markersize=7, zorder=3)
    loss.plot(steps, validation, color=BLUE, marker=".", label=label)
    loss.set_ylabel("Loss")
    write_title(loss, "Training")
    steps, values = _series(rows, f"validation_{name}")
    skill.plot(steps, values, color=BLUE, marker=".")
    skill.axhline(0, color=INK, linewidth=0.8)
    skill.yaxis.set_major_formatter(plain_tick)
    skill.set_ylabel(f"Validation\n{SKILL_LABELS[name]}")
    skill.set_xlabel("Optimiser step")
    skill.xaxis.set_major_locator(MaxNLocator(integer=True))
    skill.xaxis.set_major_formatter(plain_tick)
    figure.align_ylabels()
    return figure


def _dot(values: Floats) -> dict[str, Any]:
    """Return the marker that makes a line of a single point visible."""
    return {"marker": "o"} if len(values) == 1 else {}


def days(timestamps: Timestamps) -> Floats:
    """Return times as matplotlib counts them: days since the epoch."""
    return timestamps / DAY_MS


def time_axis(axes: Axes, *timestamps: Timestamps) -> None:
    """Span the times with the axis below, in UTC."""
    shown = days(np.concatenate(timestamps))
    margin = 1 if shown.min() == shown.max() else 0
    axes.set_xlim(shown.min() - margin, shown.max() + margin)
    locator = AutoDateLocator(minticks=3, maxticks=9)  # type: ignore[no-untyped-call]
    locator.intervald[DAILY] = [1, 2, 7, 14]  # every fourth day, its own choice, would put the 29th beside the 1st
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.set_xlabel("Time, UTC")


def write_title(axes: Axes, title: str) -> None:
    """Write the title, and between it and the picture the legend."""
    num_entries = len(axes.get_legend_handles_labels()[0])
    num_columns = 4 if num_entries <= 4 else 3
    axes.set_title(title, pad=11 + 15 * math.ceil(num_entries / num_columns))
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 0.985), ncols=num_columns, borderaxespad=0, handlelength=1.4)


def plain_tick(value: float, _: float) -> str:
    """Return the text of a number on an axis, as matplotlib asks for it."""
    return plain(value)


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[Floats, Floats]:
    pairs = [(row["step"], row[key]) for row in rows if row.get(key) is not None and math.isfinite(row[key])]
    steps_values = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return steps_values[:, 0], steps_values[:, 1]
