"""The figures of a backtest with how sure they are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.backtest.bootstrap import Histories, block_bars, draw_histories, interval95
from flashtrader.backtest.metrics import sharpe, simple_returns
from flashtrader.backtest.overfitting import NUM_BLOCKS, probability_of_overfitting
from flashtrader.backtest.result import BacktestResult, Reference
from flashtrader.backtest.significance import (
    autocorrelated_annual_sharpe,
    break_even_cost_bps,
    deflated_sharpe_ratio,
    minimum_track_record_bars,
    moments,
    probabilistic_sharpe_ratio,
)
from flashtrader.backtest.trials import Trial

Interval95 = tuple[float, float]


@dataclass(frozen=True)
class SharpeEstimate:
    """The annual Sharpe ratio and how sure it is."""

    annual: float
    """As in `metrics`: the bar's, times the root of the bars in a year."""
    standard_error: float
    """Annual, from skewness and kurtosis, for returns that are not autocorrelated."""
    interval: Interval95
    """By the stationary bootstrap, which keeps autocorrelation."""
    autocorrelation_corrected: float
    """Annualised with the returns' autocorrelations (Lo 2002)."""
    skewness: float
    kurtosis: float
    """Not in excess: 3 for a normal distribution."""
    bars: int
    """Returns that it was estimated from."""
    block_bars: float
    """Mean length of the bootstrap's blocks."""


@dataclass(frozen=True)
class Difference:
    """The strategy's annual Sharpe ratio less a reference's over the same bars; a flat curve has a ratio of 0."""

    difference: float
    interval: Interval95
    """Paired: both curves drawn from the same bars."""


@dataclass(frozen=True)
class MeanReturn:
    """Mean return of a bar, times the bars in a year: what a constant stake would earn."""

    annual: float
    interval: Interval95


@dataclass(frozen=True)
class EquityBand:
    """Where equity would have been in 95 of 100 histories drawn from the same returns, at some of the bars."""

    time: tuple[str, ...]
    """Opening times, ISO 8601 in UTC."""
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Significance:
    """How far the figures of a backtest can be trusted; NaN where a figure is not defined."""

    sharpe: SharpeEstimate
    mean_return: MeanReturn
    against: dict[str, Difference]
    """By name of reference: `cash`, `buy_and_hold`, and the plain models."""
    probabilistic_sharpe: float
    """Probability that the true Sharpe ratio is above zero."""
    deflated_sharpe: float
    """Probability that it is above what the best of the trials would show by chance."""
    trials: int
    """Distinct backtests of the same symbols, interval and time that the runs directory has seen, this one included."""
    minimum_track_record_bars: float
    """Bars after which this Sharpe ratio would be above zero with 95 % confidence; NaN where it is not above."""
    minimum_track_record_years: float
    overfitting_probability: float | None
    """Probability that the best trial of one half of the time is below the median in the other; None if unknown."""
    overfitting_note: str | None
    """Why it is not known."""
    break_even_cost_bps: float
    """Cost in basis points of traded value at which the mean return would be zero; negative where it loses at none."""
    cost_bps: float
    """What was paid, in basis points of traded value."""
    equity_band: EquityBand | None
    """None where equity fell to zero."""


MIN_TRIALS = 4
"""Fewer trials have no median worth the name, and their probability of overfitting is not told."""
_BAND_POINTS = 200
_UNKNOWN = (math.nan, math.nan)


def estimate(result: BacktestResult, trials: Sequence[Trial] = (), seed: int = 0) -> Significance:
    """Return how sure the figures of a backtest are.

    trials: every distinct backtest of its symbols, interval and time, itself included; none stands for itself alone.
    seed: of the bootstrap; the same one gives the same figures.
    """
    per_year = result.interval.bars_per_year(result.config.calendar)
    returns_T = simple_returns(result.equity)
    num_bars = len(returns_T)
    equity_T = result.equity[:num_bars]
    cost_T, volume_T = result.cost[:num_bars] / equity_T, np.abs(result.traded[:num_bars]).sum(axis=1) / equity_T
    paid_bps = float(cost_T.sum() / volume_T.sum()) * 1e4 if volume_T.any() else math.nan
    probability, note = _overfitting(trials)
    break_even = break_even_cost_bps(returns_T, cost_T, volume_T)
    if math.isnan(sharpe(returns_T, per_year)):
        return Significance(
            sharpe=SharpeEstimate(math.nan, math.nan, _UNKNOWN, math.nan, math.nan, math.nan, num_bars, math.nan),
            mean_return=MeanReturn(float(returns_T.mean()) * per_year if num_bars else math.nan, _UNKNOWN),
            against={},
            probabilistic_sharpe=math.nan,
            deflated_sharpe=math.nan,
            trials=max(1, len(trials)),
            minimum_track_record_bars=math.nan,
            minimum_track_record_years=math.nan,
            overfitting_probability=probability,
            overfitting_note=note,
            break_even_cost_bps=break_even,
            cost_bps=paid_bps,
            equity_band=None,
        )

    found = moments(returns_T)
    beside = {name: _returns(reference, num_bars) for name, reference in (result.references | result.plain).items()}
    returns_TC = np.column_stack([returns_T, *beside.values()])
    block = max(block_bars(curve_T) for curve_T in returns_TC.T)
    points_P = np.unique(np.linspace(0, num_bars, _BAND_POINTS + 1).astype(np.int64))
    drawn = draw_histories(returns_TC, block, at_P=points_P, seed=seed)
    annual = math.sqrt(per_year)
    track_record = minimum_track_record_bars(found)
    return Significance(
        sharpe=SharpeEstimate(
            annual=found.sharpe * annual,
            standard_error=found.standard_error * annual,
            interval=interval95(drawn.sharpe_HC[:, 0] * annual),
            autocorrelation_corrected=autocorrelated_annual_sharpe(returns_T, per_year),
            skewness=found.skewness,
            kurtosis=found.kurtosis,
            bars=num_bars,
            block_bars=block,
        ),
        mean_return=MeanReturn(float(returns_T.mean()) * per_year, interval95(drawn.mean_HC[:, 0] * per_year)),
        against={
            name: Difference(
                difference=(found.sharpe - _ratio(curve_T)) * annual,
                interval=interval95((drawn.sharpe_HC[:, 0] - drawn.sharpe_HC[:, c]) * annual),
            )
            for c, (name, curve_T) in enumerate(beside.items(), start=1)
        },
        probabilistic_sharpe=probabilistic_sharpe_ratio(found),
        deflated_sharpe=deflated_sharpe_ratio(found, len(trials), _variance(trials)),
        trials=max(1, len(trials)),
        minimum_track_record_bars=track_record if math.isfinite(track_record) else math.nan,
        minimum_track_record_years=track_record / per_year if math.isfinite(track_record) else math.nan,
        overfitting_probability=probability,
        overfitting_note=note,
        break_even_cost_bps=break_even,
        cost_bps=paid_bps,
        equity_band=_band(result, points_P, drawn),
    )


def _returns(reference: Reference, num_bars: int) -> Floats:
    """Return as many returns of a reference, zero after it was ruined."""
    returns_T = simple_returns(reference.equity)[:num_bars]
    return np.pad(returns_T, (0, num_bars - len(returns_T)))


def _ratio(returns_T: Floats) -> float:
    ratio = sharpe(returns_T, bars_per_year=1)
    return 0.0 if math.isnan(ratio) else ratio


def _variance(trials: Sequence[Trial]) -> float:
    """Return the variance of the trials' Sharpe ratios per bar; one that never traded has a ratio of 0."""
    return float(np.var([_ratio(trial.returns) for trial in trials], ddof=1)) if len(trials) > 1 else 0.0


def _overfitting(trials: Sequence[Trial]) -> tuple[float | None, str | None]:
    """Return the probability of overfitting over the bars that all trials share, or why there is none."""
    if len(trials) < MIN_TRIALS:
        return None, f"{max(1, len(trials))} of at least {MIN_TRIALS} trials"
    times = set.intersection(*(set(trial.timestamps.tolist()) for trial in trials))
    if len(times) < 2 * NUM_BLOCKS:
        return None, f"the {len(trials)} trials share {len(times)} bars of at least {2 * NUM_BLOCKS}"
    shared = np.array(sorted(times))
    columns = [trial.returns[np.searchsorted(trial.timestamps, shared)] for trial in trials]
    return probability_of_overfitting(np.column_stack(columns)), None


def _band(result: BacktestResult, points_P: NDArray[np.int64], drawn: Histories) -> EquityBand | None:
    if result.ruined_at is not None:
        return None
    low_P, high_P = np.quantile(drawn.log_growth_HP, [0.025, 0.975], axis=0)
    return EquityBand(
        time=tuple(moment.isoformat() for moment in result.time[points_P]),
        low=tuple((result.equity[0] * np.exp(low_P)).tolist()),
        high=tuple((result.equity[0] * np.exp(high_P)).tolist()),
    )
