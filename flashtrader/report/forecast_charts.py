"""The charts of forecasts beside what came of them: calibration, tenths, and the information coefficient over time."""

import math
from collections.abc import Sequence

import numpy as np

from flashtrader.arrays import Floats
from flashtrader.forecasting.skill import Estimate, PeriodSkill
from flashtrader.report.chart import BLUE, GREY, VERMILION, Chart, axis_title, faint, legend, level, times, values
from flashtrader.report.formats import counted, estimate, fixed
from flashtrader.report.summaries import Group

_BP = 1e4  # basis points in 1


def decile_chart(groups: Sequence[Group]) -> Chart:
    """Draw the mean outcome of each tenth of the forecasts, lowest to highest."""
    outcomes = np.array([group.mean_outcome for group in groups]) * _BP
    num_pairs = sum(group.num_pairs for group in groups)
    overall = sum(group.mean_outcome * group.num_pairs for group in groups) / num_pairs * _BP
    lowest, highest = fixed(outcomes[0], 1, signed=True), fixed(outcomes[-1], 1, signed=True)
    return Chart(
        name="deciles",
        title="Outcome by tenth of the forecasts",
        unit="mean outcome, basis points",
        caption=f"{fixed(num_pairs, 0)} forecasts of all markets, sorted by size and cut into equal groups. Whiskers "
        "span 95 %, with errors clustered in time because horizons overlap; dashed is the mean of all outcomes. A "
        "useful forecast climbs from left to right.",
        alt=f"The lowest group's mean outcome is {lowest} basis points, the highest group's {highest}.",
        traces=[
            {
                "type": "bar", "x": list(range(1, len(groups) + 1)), "y": values(outcomes),
                "marker": {"color": [BLUE if outcome >= 0 else VERMILION for outcome in outcomes]},
                "error_y": _whiskers([group.error for group in groups], _BP),
                "hovertemplate": "group %{x}: %{y:+.1f} bp<extra></extra>",
            }
        ],
        layout={
            "bargap": 0.3, "hovermode": "closest", "shapes": [level(0), level(overall, dashed=True)],
            "xaxis": {"dtick": 1, **axis_title("from the lowest forecasts to the highest")},
        },
    )  # fmt: skip


def calibration_chart(groups: Sequence[Group]) -> Chart:
    """Draw the mean outcome of each tenth of the forecasts against their mean forecast, beside equality."""
    forecasts = np.array([group.mean_forecast for group in groups]) * _BP
    outcomes = np.array([group.mean_outcome for group in groups]) * _BP
    ends = [float(forecasts.min()), float(forecasts.max())]
    slope = _slope(forecasts, outcomes, np.array([group.num_pairs for group in groups], dtype=np.float64))
    told = "is not defined" if np.isnan(slope) else f"is {fixed(slope, 2)}"
    return Chart(
        name="calibration",
        title="Calibration",
        unit="mean outcome, basis points",
        caption="The same groups by the size of their forecasts, with the same whiskers. On the dashed line, forecasts "
        f"come true on average; flatter than it, they promise too much. The slope through the groups {told}.",
        alt=f"The slope of outcome on forecast through the groups {told}; 1 is calibrated.",
        traces=[
            {
                "type": "scatter", "mode": "lines", "x": values(ends), "y": values(ends), "hoverinfo": "skip",
                "name": "Calibrated", "line": {"color": GREY, "width": 1, "dash": "dash"},
            },
            {
                "type": "scatter", "mode": "lines+markers", "x": values(forecasts), "y": values(outcomes),
                "name": "Outcome", "marker": {"color": BLUE, "size": 8},
                "line": {"color": faint(BLUE, 0.5), "width": 1.5},
                "error_y": _whiskers([group.error for group in groups], _BP),
                "hovertemplate": "forecast %{x:+.1f} bp, came %{y:+.1f} bp<extra></extra>",
            },
        ],
        layout={
            "hovermode": "closest", "shapes": [level(0)],
            "xaxis": {"showgrid": True, **axis_title("mean forecast, basis points")},
        },
        legend=legend([("Calibrated", GREY), ("Forecasts", BLUE)]),
    )  # fmt: skip


def ic_chart(months: Sequence[PeriodSkill], overall: Estimate) -> Chart:
    """Draw the information coefficient of every month, with its interval, beside that of the entire period."""
    known = [month for month in months if math.isfinite(month.ic)]
    positive = sum(month.ic > 0 for month in known)
    above = f"above zero in {positive} of {counted(len(known), 'month')}"
    whole = estimate(overall.value, overall.error, 3)
    return Chart(
        name="ic",
        title="Information coefficient by month",
        unit="correlation of forecast and outcome",
        caption="Mean over the markets of the correlation of forecast and outcome within each month, before any cost. "
        f"Whiskers span 95 % with overlapping horizons allowed for. The dashed line is the entire period's, {whole}.",
        alt=f"{above[0].upper()}{above[1:]}; {whole} over the entire period.",
        traces=[
            {
                "type": "scatter", "mode": "markers", "name": "IC",
                "x": times(np.array([month.start for month in known], dtype="datetime64[ms]").astype(np.int64)),
                "y": values([month.ic for month in known]), "error_y": _whiskers([month.error for month in known]),
                "marker": {"size": 7, "color": [BLUE if month.ic >= 0 else VERMILION for month in known]},
                "hovertemplate": "%{y:+.3f} ± %{error_y.array:.3f}<extra></extra>",
            }
        ],
        layout={"shapes": [level(0), level(overall.value, dashed=True)], "yaxis": {"tickformat": "~f"}},
        timed=True,
        fit=False,
    )  # fmt: skip


def _whiskers(errors: Sequence[float], unit: float = 1.0) -> dict[str, object]:
    """Return error bars of 95 %, of standard errors that are to be multiplied by `unit`."""
    half_widths = 1.96 * unit * np.array(errors)
    return {"type": "data", "array": values(half_widths), "color": GREY, "thickness": 1.3, "width": 4}


def _slope(x: Floats, y: Floats, weights: Floats) -> float:
    if len(x) < 2 or not np.ptp(x) > 0:
        return float("nan")
    x_mean, y_mean = np.average(x, weights=weights), np.average(y, weights=weights)
    return float((weights * (x - x_mean) * (y - y_mean)).sum() / (weights * (x - x_mean) ** 2).sum())
