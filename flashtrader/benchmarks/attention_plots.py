"""Pictures of the attention benchmark: time, memory, and the traffic of the IO model, log against log."""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from flashtrader.attention import BACKENDS
from flashtrader.benchmarks.attention import DIRECTION_NAMES, AttentionBenchmark, Row
from flashtrader.benchmarks.io_model import IoModel
from flashtrader.benchmarks.machine import Machine
from flashtrader.benchmarks.references import REFERENCES
from flashtrader.files import replacing

_PANEL_INCHES = (4.3, 3.7)
_DPI = 130
# Okabe & Ito (2008), told apart with every kind of colour vision.
_COLOURS = ("#d55e00", "#e69f00", "#0072b2", "#56b4e9", "#009e73", "#cc79a7", "#000000", "#8c6d31")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*", "<")  # one more than colours: no two lines look the same
STANDARD, FLASH = _COLOURS[0], _COLOURS[2]
_GREY = "#7a7a7a"


def plot_measured(measured: AttentionBenchmark, directory: Path) -> list[Path]:
    """Write attention_time.png and attention_memory.png, and return their paths."""
    quantities: list[tuple[str, str, Callable[[Row], float | None], Callable[[float], str]]] = [
        ("time", "time of one call", lambda row: row.milliseconds, duration),
        ("memory", "peak memory above the inputs", lambda row: row.peak_bytes or None, size),
    ]
    return [
        _plot(measured, label, value, unit, directory / f"attention_{name}.png")
        for name, label, value, unit in quantities
    ]


def duration(milliseconds: float) -> str:
    """Return a time in the unit that suits it."""
    if milliseconds >= 1e3:
        return f"{milliseconds / 1e3:,.3g} s"
    return f"{milliseconds:.3g} ms" if milliseconds >= 1 else f"{milliseconds * 1e3:.3g} µs"


def size(number: float) -> str:
    """Return bytes in the binary unit that suits them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:,.3g} TiB"


def tokens(length: float) -> str:
    """Return a length as it is spoken of: 512, 2K, 128K."""
    return f"{length / 1024:g}K" if length >= 1024 and length % 1024 == 0 else f"{length:g}"


def _plot(
    measured: AttentionBenchmark,
    label: str,
    value: Callable[[Row], float | None],
    unit: Callable[[float], str],
    path: Path,
) -> Path:
    rows = measured.rows
    panels = list(dict.fromkeys((row.pattern, row.direction) for row in rows))
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(_PANEL_INCHES[0] * columns + 1.7, _PANEL_INCHES[1] * lines), layout="constrained")
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axis, (pattern, direction) in zip(axes, panels, strict=False):
        of_panel = [row for row in rows if (row.pattern, row.direction) == (pattern, direction)]
        for number, backend in enumerate((*BACKENDS, *REFERENCES)):  # a backend has its colour in every picture
            points = [
                (row.length, measured_value)
                for row in of_panel
                if row.backend == backend and (measured_value := value(row)) is not None
            ]
            if points:
                axis.plot(
                    *zip(*points, strict=True),
                    label=backend,
                    color=_COLOURS[number % len(_COLOURS)],
                    marker=_MARKERS[number % len(_MARKERS)],
                    markersize=4.5,
                    linewidth=1.6,
                    linestyle="--" if backend in REFERENCES else "-",
                )
        axis.set_title(f"{pattern}, {DIRECTION_NAMES[direction]}", fontsize=10, loc="left")
        _dress(axis, sorted({row.length for row in rows}), unit)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis in axes[::columns]:
        axis.set_ylabel(label)
    for axis in axes[-columns:]:
        axis.set_xlabel("tokens")
    handles = {name: handle for axis in axes for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside right upper", frameon=False, fontsize=9)
    figure.suptitle(_caption(rows, measured.machine), fontsize=10, x=0.01, ha="left")
    return _save(figure, path)


def plot_io(model: IoModel, rows: Sequence[Row], machine: Machine, directory: Path) -> Path:
    """Write attention_io.png: bytes moved by the model on the left; on the right the time they bound, and measured."""
    figure = Figure(figsize=(2 * _PANEL_INCHES[0] + 1.2, _PANEL_INCHES[1] + 0.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    training = [row for row in model.rows if row.work == "training"]
    lengths = [row.length for row in training]
    standard_bytes = [row.standard.total_bytes for row in training]
    flash_bytes = [row.flash.total_bytes for row in training]
    left.plot(lengths, standard_bytes, color=STANDARD, marker="o", markersize=4.5, label="standard (algorithms 0, 3)")
    left.plot(lengths, flash_bytes, color=FLASH, marker="D", markersize=4.5, label="flash (algorithms 1, 4)")
    left.set_title("Moved to and from device memory: the model", fontsize=10, loc="left")
    _dress(left, lengths, size)
    for level in (level.level for level in model.longest):
        if left.get_ylim()[0] < level.bytes < left.get_ylim()[1]:
            left.axhline(level.bytes, color=_GREY, linewidth=0.8, linestyle=":")
            left.annotate(
                f"{level.name}, {size(level.bytes)}",
                (0, level.bytes),
                xycoords=("axes fraction", "data"),
                xytext=(4, 3),
                textcoords="offset points",
                fontsize=7.5,
                color=_GREY,
            )
    left.legend(frameon=False, fontsize=8.5, loc="lower right")
    for colour, marker, name, bound, found in (
        (STANDARD, "o", "naive", [row.standard_bound_ms for row in training], [row.standard_ms for row in training]),
        (FLASH, "D", model.flash_backend, [row.flash_bound_ms for row in training], [row.flash_ms for row in training]),
    ):
        right.plot(lengths, bound, color=colour, linestyle=":", linewidth=1.4, label=f"{name}: lower bound")
        points = [(length, ms) for length, ms in zip(lengths, found, strict=True) if ms is not None]
        if points:
            right.plot(
                *zip(*points, strict=True), color=colour, marker=marker, markersize=4.5, label=f"{name}: measured"
            )
    right.set_title("Time of one call: bound and measured", fontsize=10, loc="left")
    _dress(right, lengths, duration)
    right.legend(frameon=False, fontsize=8.5, loc="upper left")
    for axis in (left, right):
        axis.set_xlabel("tokens")
    figure.suptitle(f"{_caption(rows, machine)}\n{model.pattern}, forward + backward", fontsize=10, x=0.01, ha="left")
    return _save(figure, directory / "attention_io.png")


def _dress(axis: Axes, lengths: Sequence[int], unit: Callable[[float], str]) -> None:
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2 if unit is size else 10)
    axis.set_xticks(lengths, labels=[tokens(length) for length in lengths])
    axis.xaxis.set_minor_locator(NullLocator())
    if unit is size:  # every second power of two: 1 MiB, 4 MiB, 16 MiB
        axis.yaxis.set_major_locator(LogLocator(base=4, numticks=16))
        axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda number, _: unit(number)))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(labelsize=8.5)
    axis.grid(visible=True, which="major", color="#e4e6e9")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _caption(rows: Sequence[Row], machine: Machine) -> str:
    row = rows[0]
    where = (
        f"{machine.cpu}, {machine.threads} thread{'s' * (machine.threads > 1)}"
        if machine.device == "cpu"
        else machine.device
    )
    return (
        f"Attention, {row.dtype}, batch {row.batch}, {row.heads} heads of {row.head_dim} · {where} · "
        f"torch {machine.torch}"
    )


def _save(figure: Figure, path: Path) -> Path:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI)
    return path
