"""The figures of the papers, and what their formulas must obey."""

import math

import numpy as np
import pytest
from scipy.stats import kurtosis, skew

from flashtrader.backtest.metrics import sharpe
from flashtrader.backtest.significance import (
    Moments,
    annualisation_factor,
    autocorrelated_annual_sharpe,
    autocovariances,
    break_even_cost_bps,
    correlated_lags,
    deflated_sharpe_ratio,
    expected_maximum,
    minimum_track_record_bars,
    moments,
    probabilistic_sharpe_ratio,
)
from flashtrader.errors import DataError

DAYS = 250
SELECTED = Moments(2.5 / math.sqrt(DAYS), skewness=-3, kurtosis=10, num_bars=1_250)


def autoregressive(rho: float, num_bars: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=num_bars)
    values = np.empty(num_bars)
    values[0] = noise[0] / math.sqrt(1 - rho**2)
    for i in range(1, num_bars):
        values[i] = rho * values[i - 1] + noise[i]
    return values


def test_the_standard_error_of_a_monthly_sharpe_ratio() -> None:
    assert Moments(0.7079, -0.225, 2.957, 134).standard_error == pytest.approx(0.1028, abs=5e-5)


def test_the_standard_error_is_what_samples_show() -> None:
    """Skewed returns, whose ratio is a fifth less certain than normal ones' would be."""
    samples = 1.6 - np.random.default_rng(0).exponential(size=(1_500, 500))
    ratios = [sharpe(sample, bars_per_year=1) for sample in samples]
    truth = Moments(0.6, -2, 9, 500)
    assert np.std(ratios) == pytest.approx(truth.standard_error, rel=0.05)
    assert truth.standard_error > 1.2 * Moments(0.6, 0, 3, 500).standard_error
    assert np.mean([moments(sample).standard_error for sample in samples[:300]]) == pytest.approx(
        np.std(ratios), rel=0.08
    )


@pytest.mark.parametrize(
    ("of", "expected"),
    [(Moments(0.458, 0, 3, 24), 0.982), (Moments(1.585 / math.sqrt(12), -2.448, 10.164, 24), 0.913)],
)
def test_the_probability_of_a_sharpe_ratio_above_zero(of: Moments, expected: float) -> None:
    assert probabilistic_sharpe_ratio(of) == pytest.approx(expected, abs=5e-4)
    assert probabilistic_sharpe_ratio(of, benchmark=of.sharpe) == 0.5


def test_the_expected_maximum_of_normals() -> None:
    assert expected_maximum(100) == pytest.approx(2.5306, abs=5e-5)
    assert expected_maximum(1) == 0
    drawn = np.random.default_rng(0).normal(size=(20_000, 20)).max(axis=1).mean()
    assert expected_maximum(20) == pytest.approx(drawn, rel=0.02)


def test_a_sharpe_ratio_deflated_by_its_trials() -> None:
    variance = 0.5 / DAYS
    assert math.sqrt(variance) * expected_maximum(100) == pytest.approx(0.1132, abs=5e-5)
    assert deflated_sharpe_ratio(SELECTED, 100, variance) == pytest.approx(0.900, abs=5e-4)
    assert deflated_sharpe_ratio(SELECTED, 46, variance) == pytest.approx(0.9505, abs=5e-5)


def test_one_trial_deflates_nothing() -> None:
    assert deflated_sharpe_ratio(SELECTED, 1, 0.0) == probabilistic_sharpe_ratio(SELECTED)


def test_the_minimum_track_record() -> None:
    daily = Moments(2 / math.sqrt(DAYS), 0, 3, 100)
    needed = minimum_track_record_bars(daily, 1 / math.sqrt(DAYS))
    assert needed / DAYS == pytest.approx(2.731, abs=5e-4)
    at_length = Moments(daily.sharpe, 0, 3, round(needed))
    assert probabilistic_sharpe_ratio(at_length, 1 / math.sqrt(DAYS)) == pytest.approx(0.95, abs=1e-3)
    assert minimum_track_record_bars(daily, daily.sharpe) == math.inf


def test_annualising_autocorrelated_returns() -> None:
    assert annualisation_factor(0.2 ** np.arange(1, 12), 12) == pytest.approx(2.8788, abs=5e-5)
    assert annualisation_factor([], 8_760) == pytest.approx(math.sqrt(8_760))
    assert math.isnan(annualisation_factor([-1.0], 12))


def test_a_year_of_autocorrelated_bars_has_the_sharpe_ratio_that_its_sums_have() -> None:
    bars_per_year = 50
    returns = 0.1 + autoregressive(0.3, 100_000)
    yearly = returns.reshape(-1, bars_per_year).sum(axis=1)
    found = autocorrelated_annual_sharpe(returns, bars_per_year)
    assert found == pytest.approx(yearly.mean() / yearly.std(), rel=0.05)
    assert found < 0.8 * sharpe(returns, bars_per_year)


def test_independent_returns_are_annualised_by_the_root() -> None:
    returns = np.random.default_rng(0).normal(0.1, 1, 5_000)
    assert autocorrelated_annual_sharpe(returns, 250) == pytest.approx(sharpe(returns, 250), rel=0.05)
    assert math.isnan(autocorrelated_annual_sharpe(np.zeros(100), 250))


def test_autocovariances_are_sums_of_products() -> None:
    values = autoregressive(0.5, 300)
    centred = values - values.mean()
    expected = [centred[lag:] @ centred[: len(centred) - lag] / 300 for lag in range(5)]
    np.testing.assert_allclose(autocovariances(values, 4), expected)
    assert autocovariances(np.array([1.0, 2.0]), 3)[2:].tolist() == [0, 0]


def test_autocorrelation_that_lasts_longer_counts_at_more_lags() -> None:
    assert correlated_lags(autoregressive(0.9, 5_000)) > 10 > correlated_lags(autoregressive(0.3, 5_000)) > 0
    assert correlated_lags(np.zeros(100)) == 0


def test_moments_are_those_of_scipy() -> None:
    returns = np.random.default_rng(0).exponential(size=200)
    found = moments(returns)
    assert found.skewness == pytest.approx(skew(returns))
    assert found.kurtosis == pytest.approx(kurtosis(returns, fisher=False))


@pytest.mark.parametrize("returns", [np.array([]), np.array([0.1]), np.full(9, 0.1)])
def test_returns_that_have_no_sharpe_ratio_have_no_moments(returns: np.ndarray) -> None:
    with pytest.raises(DataError) as refused:
        moments(returns)
    assert str(refused.value) == "a Sharpe ratio needs two bars or more whose returns differ"


def test_the_break_even_cost_leaves_nothing() -> None:
    generator = np.random.default_rng(0)
    gross, volume = generator.normal(0.001, 0.01, 500), generator.uniform(0, 2, 500)
    found = break_even_cost_bps(gross - 4e-4 * volume, 4e-4 * volume, volume)
    assert (gross - found / 1e4 * volume).mean() == pytest.approx(0, abs=1e-15)
    assert break_even_cost_bps(-np.abs(gross), 0 * volume, volume) < 0
    assert math.isnan(break_even_cost_bps(gross, 0 * volume, 0 * volume))
