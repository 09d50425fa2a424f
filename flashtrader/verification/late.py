"""One bar late: what a run's own forecasts are worth when they are acted on later than they were made.

Who knows the bar after a decision earns that bar and no other. So where skill over a horizon of many bars is gone after
a single one, forecasts, scores or fills look ahead, or all the skill is in a bar that a trader may well miss.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.stats import norm

from flashtrader.arrays import Floats
from flashtrader.backtest.policy import policy_weights
from flashtrader.backtest.result import run_backtest
from flashtrader.config import Experiment
from flashtrader.forecasting.forecast import Forecasts, forecast_run
from flashtrader.forecasting.scores import long_run_error
from flashtrader.interval import Interval
from flashtrader.market.bars import Bars
from flashtrader.market.store import load_bars
from flashtrader.verification.checks import Check, Figure, Subject

LEVEL = 0.999
"""Of every interval."""
MANY_BARS = 4
"""Of which a horizon is no short one: a forecast of fewer bars may honestly be spent after one."""
IMPLAUSIBLE_IC = 0.5
"""Above it even a forecast of one bar must be worth something a bar later: no market tells so much and then nothing."""
LEAST_KEPT = 0.25
"""Part of the skill that must be there a bar later. Of skill spread evenly over a horizon of h bars, (h − 1) / h is."""

_REACH = float(norm.ppf((1 + LEVEL) / 2))


def one_bar_late(subject: Subject) -> Iterator[Check]:
    """Score and trade the run's test forecasts as they are and later, before costs, which would drown the difference.

    Judged are the information coefficient and, of bars, the mean return: where one is above 0 for sure without delay,
    `LEAST_KEPT` of it must be left after one bar, or at least not surely be gone.
    """
    made = forecast_run(subject.run, subject.data_dir)
    experiment, horizon = subject.experiment, made.horizon_bars
    delays = sorted({0, 1, 2, horizon})
    products = _products(made, delays)
    measures = {"ic": products}
    figures: dict[str, Figure] = {f"ic_{delay}_late": _mean(products[delay]) for delay in delays}
    if experiment.data.kind == "bars":
        returns = _gross_returns(made.forecasts, load_bars(experiment.data, subject.data_dir), experiment, delays)
        measures["return"] = returns
        figures |= {f"gross_sharpe_{delay}_late": _annual_sharpe(returns[delay], experiment) for delay in delays}
    check = Check(
        "one bar late",
        f"acted on the test forecasts up to {delays[-1]} rows after they were made, without costs",
        "passed",
        figures=figures | {"horizon_bars": horizon, "level": LEVEL},
    )
    skilled = [name for name, series in measures.items() if surely_positive(series[0], horizon)]
    gone = [name for name in skilled if collapses(measures[name][0], measures[name][1], horizon)]
    excused = horizon < MANY_BARS and ("ic" not in gone or products[0].mean() <= IMPLAUSIBLE_IC)
    verdict = "none" if not skilled else "gone" if gone else "kept"
    check = replace(check, figures={"skill": verdict, **check.figures})
    if not gone or excused:
        yield check
        return
    told = " and ".join({"ic": "the IC", "return": "the gross return"}[name] for name in gone)
    yield replace(
        check,
        outcome="failed",
        reason=f"{told} of forecasts over {horizon} bars is gone when they are acted on one bar later: they look "
        "ahead, or all their skill is in the one bar after the decision",
    )


def surely_positive(series_T: Floats, horizon_bars: int) -> bool:
    """Return whether the mean of a series, whose values overlap by a horizon, is above 0 at `LEVEL`."""
    return len(series_T) > 1 and series_T.mean() > _REACH * _error(series_T, horizon_bars)


def collapses(at_once_T: Floats, late_T: Floats, horizon_bars: int) -> bool:
    """Return whether what is left a bar later is, at `LEVEL`, less than `LEAST_KEPT` of what there was at once."""
    return surely_positive(LEAST_KEPT * at_once_T - late_T, horizon_bars)


def _error(series_T: Floats, horizon_bars: int) -> float:
    return long_run_error(series_T - series_T.mean(), lags=horizon_bars)


def _products(made: Forecasts, delays: list[int]) -> dict[int, Floats]:
    """Return, for each delay, a series (T,) whose mean is the IC: products of what was forecast and what came.

    Both in standard deviations of each market, the mean over the markets, on the rows that have every delay.
    """
    outcomes = made.outcomes.reindex(made.forecasts.index)
    late = {delay: delayed(made.forecasts, delay) for delay in delays}
    known = outcomes.notna() & np.logical_and.reduce([table.notna() for table in late.values()])
    came = _standardised(outcomes.where(known))
    products = {delay: (_standardised(table.where(known)) * came).mean(axis=1) for delay, table in late.items()}
    rows = known.any(axis=1)
    return {delay: product[rows].fillna(0.0).to_numpy() for delay, product in products.items()}


def delayed(table: pd.DataFrame, delay: int) -> pd.DataFrame:
    """Return what was decided `delay` rows earlier, at the rows that have a decision of their own.

    In the warm-up after an outage there is none, so that nothing decided before one is acted on behind it.
    """
    return table.shift(delay).where(table.notna())


def _standardised(table: pd.DataFrame) -> pd.DataFrame:
    return (table - table.mean()) / table.std(ddof=0).replace(0.0, np.nan)


def _gross_returns(
    forecasts: pd.DataFrame, bars: Mapping[str, Bars], experiment: Experiment, delays: list[int]
) -> dict[int, Floats]:
    """Return the simple returns of equity (T,) before costs, on the bars that every delay trades."""
    weights = policy_weights(forecasts, bars, experiment)
    # Trading's own costs are added again; without these two, nothing else takes from what prices earn.
    rules = experiment.backtest.model_copy(update={"funding_rate": None, "maintenance_margin": 0.0})
    returns = {}
    for delay in delays:
        result = run_backtest(bars, delayed(weights, delay).iloc[delay:], Interval(experiment.data.interval), rules)
        earned = np.diff(result.equity) + result.cost[:-1]
        returns[delay] = pd.Series(earned / result.equity[:-1], index=result.time[1:])
    together = pd.DataFrame(returns).dropna()
    return {delay: together[delay].to_numpy() for delay in delays}


def _annual_sharpe(returns_T: Floats, experiment: Experiment) -> float | None:
    deviation = returns_T.std() if len(returns_T) else 0.0
    if not deviation > 0:
        return None
    bars_per_year = Interval(experiment.data.interval).bars_per_year(experiment.backtest.calendar)
    return float(returns_T.mean() / deviation * math.sqrt(bars_per_year))


def _mean(series_T: Floats) -> float | None:
    return float(series_T.mean()) if len(series_T) and series_T.any() else None
