"""How sure a backtest's figures are, as rows of text."""

import math

from flashtrader.backtest.estimates import Significance
from flashtrader.forecasting.skill import DieboldMariano, ForecastSkill
from flashtrader.report.formats import UNKNOWN, counted, estimate, fixed, percent, plain
from flashtrader.report.metric_names import series_name

Row = tuple[str, str]


def sharpe_rows(significance: Significance) -> list[Row]:
    """Return what the Sharpe ratio is worth."""
    sharpe = significance.sharpe
    rows = [
        ("Sharpe ratio, annual", fixed(sharpe.annual, 2)),
        ("95 % interval", interval(sharpe.interval, 2)),
        ("Standard error", fixed(sharpe.standard_error, 2)),
        ("Corrected for autocorrelation", fixed(sharpe.autocorrelation_corrected, 2)),
        ("Skewness and kurtosis of returns", f"{fixed(sharpe.skewness, 2)} and {fixed(sharpe.kurtosis, 1)}"),
        ("Probability that it is above zero", percent(significance.probabilistic_sharpe)),
        (
            f"… above the best of {counted(significance.trials, 'trial')} by chance",
            percent(significance.deflated_sharpe),
        ),
        ("Bars it was estimated from", fixed(sharpe.bars, 0)),
        ("Least record for 95 % confidence", _record(significance)),
    ]
    if significance.overfitting_probability is not None:
        rows.append(("Probability of overfitting", percent(significance.overfitting_probability)))
    elif significance.overfitting_note:
        rows.append(("Probability of overfitting", f"{UNKNOWN}: {significance.overfitting_note}"))
    return [
        *rows,
        ("Mean annual return, 95 %", f"{percent(significance.mean_return.annual, signed=True)}, "
         f"{interval(significance.mean_return.interval, 1, as_percent=True)}"),
        ("Costs at which it would earn nothing", _basis_points(significance.break_even_cost_bps)),
        ("Costs that it paid", _basis_points(significance.cost_bps)),
    ]  # fmt: skip


def difference_rows(significance: Significance) -> list[tuple[str, str, str]]:
    """Return the difference of the Sharpe ratio to each reference's, with its interval."""
    return [
        (series_name(name), fixed(against.difference, 2, signed=True), interval(against.interval, 2))
        for name, against in significance.against.items()
    ]


def skill_rows(skill: ForecastSkill) -> list[Row]:
    """Return what the forecasts of all markets together are worth."""
    rows = [
        ("IC, 95 %", estimate(skill.ic.value, skill.ic.error, 3)),
        ("Rank IC, 95 %", estimate(skill.rank_ic.value, skill.rank_ic.error, 3)),
    ]
    if skill.cross_section_ic is not None:
        rows.append(
            (
                "IC across the markets of a bar, 95 %",
                estimate(skill.cross_section_ic.value, skill.cross_section_ic.error, 3),
            )
        )
    strides = skill.strides
    if strides.count > 1:
        spread = f"{fixed(strides.minimum, 3, signed=True)} to {fixed(strides.maximum, 3, signed=True)}"
        rows.append(
            (
                f"IC of the {strides.count} strides without overlap",
                f"mean {fixed(strides.mean, 3, signed=True)}, {spread}",
            )
        )
    rows += [(f"Diebold–Mariano against persistence, {test.loss} loss", _test(test)) for test in skill.diebold_mariano]
    return [*rows, ("Bars with an outcome", fixed(skill.bars, 0)), ("Horizon", counted(skill.horizon_bars, "bar"))]


def market_rows(skill: ForecastSkill) -> list[tuple[str, ...]]:
    """Return a row of figures for every market."""
    return [
        (
            market.symbol,
            fixed(market.bars, 0),
            estimate(market.ic.value, market.ic.error, 3),
            estimate(market.rank_ic.value, market.rank_ic.error, 3),
            *(_probability(test.p_value) for test in market.diebold_mariano[:1]),
        )
        for market in skill.markets
    ]


def interval(bounds: tuple[float, float], digits: int, *, as_percent: bool = False) -> str:
    """Return `−0.70 to 2.90`; n/a where a bound is not known."""
    if not all(map(math.isfinite, bounds)):
        return UNKNOWN
    low, high = (percent(bound, digits) if as_percent else fixed(bound, digits) for bound in bounds)
    return f"{low} to {high}"


def _test(test: DieboldMariano) -> str:
    if not math.isfinite(test.statistic):
        return UNKNOWN
    return f"{fixed(test.statistic, 2, signed=True)}, p = {_probability(test.p_value)}"


def _probability(value: float) -> str:
    return plain(float(f"{value:.2g}")) if math.isfinite(value) else UNKNOWN


def _record(significance: Significance) -> str:
    bars, years = significance.minimum_track_record_bars, significance.minimum_track_record_years
    return f"{fixed(math.ceil(bars), 0)} bars, {fixed(years, 2)} years" if math.isfinite(bars) else UNKNOWN


def _basis_points(value: float) -> str:
    text = fixed(value, 1)
    return text if text == UNKNOWN else f"{text} bp of traded value"
