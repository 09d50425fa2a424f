import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from flashtrader.forecasting.scores import horizon_error, mean_score, score_forecasts
from flashtrader.forecasting.skill import diebold_mariano, measure_skill

TIMES = pd.date_range("2024-01-20", periods=4_000, freq="h", tz="UTC", name="time")


def frame(values: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(values, index=TIMES[: len(values)], columns=list("ABCDEFGH")[: values.shape[1]])


def overlapping(generator: np.random.Generator, horizon: int, num_bars: int) -> np.ndarray:
    return np.convolve(generator.normal(size=num_bars + horizon - 1), np.ones(horizon), mode="valid")


def test_the_figures_are_those_of_predict() -> None:
    forecasts, outcomes = (frame(values) for values in np.random.default_rng(0).normal(size=(2, 500, 2)))
    forecasts.iloc[:50, 1] = np.nan
    skill = measure_skill(forecasts, outcomes, 4)
    scores = score_forecasts(forecasts, outcomes, 4)
    for market, score in zip(skill.markets, scores, strict=True):
        assert (market.symbol, market.bars) == (score.symbol, score.bars)
        assert (market.ic.value, market.ic.error) == pytest.approx((score.ic, score.ic_error))
        assert market.rank_ic.value == pytest.approx(score.rank_ic)
        assert market.strides.mean == pytest.approx(score.ic_stride_mean)
    mean = mean_score(forecasts, outcomes, 4)
    assert (skill.ic.value, skill.ic.error) == pytest.approx((mean.ic, mean.ic_error))
    assert skill.bars == 500
    low, high = skill.ic.interval
    assert (high - low) / 2 == pytest.approx(1.96 * skill.ic.error, rel=1e-4)


def test_every_stride_is_the_correlation_of_bars_that_do_not_overlap() -> None:
    forecasts, outcomes = np.random.default_rng(1).normal(size=(2, 301, 1))
    strides = measure_skill(frame(forecasts), frame(outcomes), 3).strides
    expected = [np.corrcoef(forecasts[start::3, 0], outcomes[start::3, 0])[0, 1] for start in range(3)]
    assert (strides.count, strides.minimum, strides.maximum) == pytest.approx((3, min(expected), max(expected)))
    assert strides.mean == pytest.approx(np.mean(expected))


def test_the_cross_section_knows_which_market_does_better_and_not_when() -> None:
    generator = np.random.default_rng(2)
    which, when = generator.normal(size=(1_000, 4)), generator.normal(size=(1_000, 1))
    outcomes = frame(which + 3 * when)
    across = measure_skill(frame(which), outcomes, 1).cross_section_ic
    assert across is not None
    assert across.value == pytest.approx(1)
    over_time = measure_skill(frame(np.repeat(when, 4, axis=1) + 0.01 * generator.normal(size=(1_000, 4))), outcomes, 1)
    assert over_time.ic.value > 0.9
    assert over_time.cross_section_ic is not None
    assert abs(over_time.cross_section_ic.value) < 3 * over_time.cross_section_ic.error < 0.1


def test_two_markets_are_no_cross_section() -> None:
    forecasts, outcomes = np.random.default_rng(3).normal(size=(2, 100, 3))
    assert measure_skill(frame(forecasts[:, :2]), frame(outcomes[:, :2]), 1).cross_section_ic is None
    outcomes[20:, 0] = np.nan
    across = measure_skill(frame(forecasts), frame(outcomes), 1).cross_section_ic
    assert across is not None
    expected = np.mean([np.corrcoef(forecasts[bar], outcomes[bar])[0, 1] for bar in range(20)])
    assert across.value == pytest.approx(expected)


def test_ranks_do_not_mind_an_outlier() -> None:
    forecasts = np.arange(100.0)[:, None]
    outcomes = forecasts.copy()
    outcomes[0] = 1e6
    skill = measure_skill(frame(forecasts), frame(outcomes), 1)
    assert skill.ic.value < 0
    assert skill.rank_ic.value > 0.9


def test_diebold_mariano_is_the_t_test_where_nothing_overlaps() -> None:
    gains = np.random.default_rng(4).normal(0.1, 1, 200)
    statistic, p_value = diebold_mariano(gains, 1)
    assert (statistic, p_value) == pytest.approx(tuple(ttest_1samp(gains, 0)))
    assert diebold_mariano(-gains, 1) == pytest.approx((-statistic, p_value))


def test_diebold_mariano_rejects_equal_forecasts_as_often_as_it_says() -> None:
    generator, rejected = np.random.default_rng(5), 0
    for _ in range(300):
        rejected += diebold_mariano(overlapping(generator, 6, 400), 6)[1] < 0.05
    assert 6 <= rejected <= 30


@pytest.mark.parametrize("gains", [np.zeros(50), np.full(50, 0.1), np.arange(4.0)])
def test_gains_without_variation_or_number_are_no_test(gains: np.ndarray) -> None:
    assert all(map(math.isnan, diebold_mariano(gains, 4)))


def test_good_forecasts_gain_and_bad_ones_lose_beside_persistence() -> None:
    generator = np.random.default_rng(6)
    outcomes = generator.normal(size=(2_000, 2)) * [1, 50]
    good = measure_skill(frame(outcomes * 0.5 + generator.normal(size=(2_000, 2)) * [0.1, 5]), frame(outcomes), 1)
    bad = measure_skill(frame(generator.normal(size=(2_000, 2)) * [1, 50]), frame(outcomes), 1)
    assert [test.loss for test in good.diebold_mariano] == ["squared", "absolute"]
    assert all(test.statistic > 5 and test.p_value < 1e-6 for test in good.diebold_mariano)
    assert all(test.statistic < -5 for test in bad.diebold_mariano)
    # A market fifty times as wild weighs as much as a calm one.
    assert good.diebold_mariano[0].statistic > good.markets[1].diebold_mariano[0].statistic


def test_months_are_scored_apart() -> None:
    generator = np.random.default_rng(7)
    forecasts = frame(generator.normal(size=(1_000, 2)))
    outcomes = forecasts.copy()
    outcomes.loc["2024-02"] *= -1
    months = measure_skill(forecasts, outcomes, 1).months
    assert [(month.start, month.bars) for month in months[:2]] == [("2024-01-01", 12 * 24), ("2024-02-01", 29 * 24)]
    assert [month.ic for month in months[:2]] == pytest.approx([1, -1])


def test_nothing_known_gives_no_figure() -> None:
    skill = measure_skill(frame(np.ones((5, 3))), frame(np.full((5, 3), np.nan)), 2)
    assert skill.bars == 0
    assert math.isnan(skill.ic.value)
    assert skill.cross_section_ic is None
    assert skill.strides.count == 0
    assert all(math.isnan(test.statistic) for test in skill.diebold_mariano)
    assert all(math.isnan(month.ic) for month in skill.months)


def test_an_error_exists_even_where_autocovariances_cancel() -> None:
    alternating = np.tile([1.0, -1.0], 50)
    assert 0 < horizon_error(alternating, 2) < horizon_error(alternating, 1)
