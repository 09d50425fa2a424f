"""How sure a Sharpe ratio can be: what it is worth in a year, beside chance, and beside the luckiest of many tries.

Sharpe ratios are per bar and not annual unless a name says so; `kurtosis` is the non-excess one, 3 for a normal
distribution.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from flashtrader.arrays import Floats
from flashtrader.backtest.metrics import sharpe
from flashtrader.errors import DataError


@dataclass(frozen=True)
class Moments:
    """What the error of an estimated Sharpe ratio depends on."""

    sharpe: float
    """Mean over sample standard deviation of the returns of a bar."""
    skewness: float
    kurtosis: float
    num_bars: int

    @property
    def variance_factor(self) -> float:
        """(T − 1) times the variance of the estimated ratio, 1 + SR²/2 for normal returns: Mertens (2002)."""
        return max(1 - self.skewness * self.sharpe + (self.kurtosis - 1) / 4 * self.sharpe**2, 0.0)

    @property
    def standard_error(self) -> float:
        """Standard error of the ratio: Bailey & López de Prado (2012), The Sharpe Ratio Efficient Frontier, (7)."""
        return math.sqrt(self.variance_factor / (self.num_bars - 1))


def moments(returns_T: Floats) -> Moments:
    """Return the moments of simple returns per bar.

    Raises DataError for fewer than two returns, and for returns that do not vary.
    """
    ratio = sharpe(returns_T, bars_per_year=1)
    if math.isnan(ratio):
        raise DataError("a Sharpe ratio needs two bars or more whose returns differ")
    standardised_T = (returns_T - returns_T.mean()) / returns_T.std()
    return Moments(
        sharpe=ratio,
        skewness=float((standardised_T**3).mean()),
        kurtosis=float((standardised_T**4).mean()),
        num_bars=len(returns_T),
    )


def probabilistic_sharpe_ratio(of: Moments, benchmark: float = 0.0) -> float:
    """Return the probability that the true Sharpe ratio exceeds `benchmark`, a ratio per bar.

    Bailey & López de Prado (2012), The Sharpe Ratio Efficient Frontier, equation 11.
    """
    excess = of.sharpe - benchmark
    if of.standard_error == 0:
        return float(excess > 0)
    return float(ndtr(excess / of.standard_error))


def expected_maximum(num_trials: int) -> float:
    """Return the expected largest of so many independent unit normals, 0 for one.

    Bailey & López de Prado (2014), The Deflated Sharpe Ratio, equation 1: exact in the limit, within 2 % from 5 on.
    """
    if num_trials < 2:
        return 0.0
    high, higher = ndtri(1 - 1 / num_trials), ndtri(1 - 1 / (num_trials * math.e))
    return float((1 - np.euler_gamma) * high + np.euler_gamma * higher)


def deflated_sharpe_ratio(of: Moments, num_trials: int, trials_variance: float) -> float:
    """Return the probability that the true Sharpe ratio exceeds what the luckiest of the trials would show by chance.

    trials_variance: of the trials' Sharpe ratios per bar. Bailey & López de Prado (2014), equation 2.
    """
    return probabilistic_sharpe_ratio(of, math.sqrt(trials_variance) * expected_maximum(num_trials))


def minimum_track_record_bars(of: Moments, benchmark: float = 0.0, confidence: float = 0.95) -> float:
    """Return after how many bars this Sharpe ratio would exceed `benchmark` with that confidence; ∞ if it never would.

    Bailey & López de Prado (2012), equation 13.
    """
    if of.sharpe <= benchmark:
        return math.inf
    return float(1 + of.variance_factor * (ndtri(confidence) / (of.sharpe - benchmark)) ** 2)


def annualisation_factor(autocorrelations: ArrayLike, bars_per_year: float) -> float:
    """Return what makes a Sharpe ratio per bar annual: √bars_per_year where returns are not autocorrelated.

    autocorrelations: at lags 1, 2, …; those not given are zero. NaN where they leave the year no variance.
    Lo (2002), The Statistics of Sharpe Ratios, equation 20.
    """
    rho = np.asarray(autocorrelations, np.float64)
    weights = np.maximum(bars_per_year - np.arange(1, len(rho) + 1), 0)
    variance = bars_per_year + 2 * float(weights @ rho)
    return bars_per_year / math.sqrt(variance) if variance > 0 else math.nan


def autocovariances(values_T: Floats, num_lags: int) -> Floats:
    """Return the autocovariances at lags 0 … num_lags, each a sum over T; zero beyond lag T − 1."""
    centred_T = values_T - values_T.mean()
    spectrum = np.fft.rfft(centred_T, 2 * len(values_T))
    found = np.fft.irfft(np.abs(spectrum) ** 2)[: min(num_lags + 1, len(values_T))] / len(values_T)
    return np.pad(found, (0, num_lags + 1 - len(found)))


def correlated_lags(values_T: Floats) -> int:
    """Return the lag after which no autocorrelation matters, 0 where none does.

    The empirical rule of Politis (2003): the smallest lag that is followed by several within twice √(log₁₀T / T).
    """
    num_bars = len(values_T)
    run = max(5, math.ceil(math.sqrt(math.log10(num_bars))))
    longest = math.ceil(math.sqrt(num_bars)) + run
    covariance = autocovariances(values_T, longest)
    if covariance[0] <= 0:
        return 0
    small = np.abs(covariance[1:] / covariance[0]) < 2 * math.sqrt(math.log10(num_bars) / num_bars)
    for lag in range(longest - run + 1):
        if small[lag : lag + run].all():
            return lag
    return longest - run


def tapered_autocovariances(values_T: Floats) -> Floats:
    """Return the autocovariances that matter, from lag 0 on: whole to the lag where they cease to, then fading to zero.

    The flat-top window of Politis & Romano (1995), as wide as Politis (2003) proposes.
    """
    bandwidth = 2 * max(correlated_lags(values_T), 1)
    taper = np.minimum(1.0, 2 * (1 - np.arange(bandwidth + 1) / bandwidth))
    return taper * autocovariances(values_T, bandwidth)


def autocorrelated_annual_sharpe(returns_T: Floats, bars_per_year: float) -> float:
    """Return the annual Sharpe ratio with the returns' autocorrelations that matter: Lo (2002), equation 20.

    NaN where there is no ratio, or the autocorrelations leave a year no variance.
    """
    ratio = sharpe(returns_T, bars_per_year=1)
    if math.isnan(ratio):
        return math.nan
    covariance = tapered_autocovariances(returns_T)
    return ratio * annualisation_factor(covariance[1:] / covariance[0], bars_per_year)


def break_even_cost_bps(returns_T: Floats, cost_T: Floats, volume_T: Floats) -> float:
    """Return the cost in basis points of traded value at which the mean return, and so the Sharpe ratio, is zero.

    returns_T: net, of a bar. cost_T, volume_T: paid and traded at the bar's start, in multiples of equity. What was
    held and traded stays as it was; only its price changes: mean(returns + cost) / mean(volume). Negative where even
    no cost would leave a loss; NaN where nothing was traded.
    """
    volume = float(volume_T.sum())
    return float((returns_T + cost_T).sum()) / volume * 1e4 if volume > 0 else math.nan
