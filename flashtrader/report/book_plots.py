"""The picture of an order-book model's answers: arrays in, a matplotlib Figure out, in the report's style."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from flashtrader.arrays import Floats
from flashtrader.report.formats import fixed, percent
from flashtrader.report.plots import BLUE, INK, STYLE, VERMILION, WIDTH_INCHES, plain_tick
from flashtrader.report.summaries import group_outcomes

_SHARES = LinearSegmentedColormap.from_list("shares", ["white", BLUE])


@STYLE
def plot_directions(
    confusion: Sequence[Sequence[int]], directions: Sequence[str], forecasts_T: Floats, moves_bps_T: Floats
) -> Figure:
    """Draw which answers came of each outcome, and the mean move of the mid by tenths of P(up) − P(down).

    confusion: snapshots by outcome (rows) and answer. forecasts_T, moves_bps_T: in order of time; pairs with a NaN
    don't count. Errors of the means are clustered in time, for horizons overlap.
    """
    figure = Figure(figsize=(WIDTH_INCHES, 3.0))
    answers, moves = figure.subplots(1, 2, width_ratios=(1, 1.35))
    _draw_confusion(answers, np.asarray(confusion), directions)
    groups = group_outcomes(forecasts_T[:, None], moves_bps_T[:, None])
    for place, group in enumerate(groups):
        moves.bar(place, group.mean_outcome, color=BLUE if group.mean_outcome >= 0 else VERMILION, alpha=0.8)
        moves.errorbar(place, group.mean_outcome, group.error, color=INK, linewidth=1.2, capsize=3)
    moves.axhline(0, color=INK, linewidth=0.8)
    labels = [fixed(group.mean_forecast, 2) for group in groups]
    moves.set_xticks(range(len(groups)), labels, rotation=45, fontsize=9)
    moves.grid(visible=False, axis="x")
    moves.yaxis.set_major_formatter(plain_tick)
    moves.set_xlabel("P(up) \N{MINUS SIGN} P(down), tenths and their mean")
    moves.set_ylabel("Mean move of the mid, bp")
    moves.set_title("Forecast and move")
    return figure


def _draw_confusion(
    axes: Axes, confusion: np.ndarray[tuple[int, int], np.dtype[np.int64]], names: Sequence[str]
) -> None:
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap=_SHARES, vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(confusion):
        text = f"{percent(share[row, column], 0)}\n{count:,}"
        colour = "white" if share[row, column] > 0.6 else INK
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.set_xlabel("Answer")
    axes.set_ylabel("Outcome")
    axes.set_title("Answers by outcome")
