"""What a backtest shows, how sure that is, and the verdict in plain words."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from flashtrader.backtest.estimates import Significance, estimate
from flashtrader.backtest.result import BacktestResult
from flashtrader.backtest.trials import Trial
from flashtrader.backtest.verdict import Finding, find, tell
from flashtrader.forecasting.skill import ForecastSkill, measure_skill


@dataclass(frozen=True)
class Assessment:
    """The verdict on a backtest, and what it rests on."""

    verdict: str
    """One or two plain sentences."""
    finding: Finding
    """What they come to; `beats_buy_and_hold` alone claims skill."""
    significance: Significance
    forecast: ForecastSkill | None
    """None for weights, given or learned."""


def assess(
    result: BacktestResult,
    trials: Sequence[Trial] = (),
    *,
    forecasts: pd.DataFrame | None = None,
    outcomes: pd.DataFrame | None = None,
    horizon_bars: int = 1,
    seed: int = 0,
) -> Assessment:
    """Return how sure a backtest's figures are, what its forecasts were worth, and the verdict.

    trials: every distinct backtest of its symbols, interval and time, as `record_trial` counts them; none stands for
    this one alone. forecasts, outcomes: index `time`, a column per symbol, log return over `horizon_bars`; joined by
    time. seed: of the bootstrap; the same one gives the same figures.
    """
    significance = estimate(result, trials, seed)
    finding = find(result, significance)
    skill = None
    if forecasts is not None and outcomes is not None:
        skill = measure_skill(forecasts, outcomes, horizon_bars)
    return Assessment(
        verdict=tell(finding, result, significance),
        finding=finding,
        significance=significance,
        forecast=skill,
    )
