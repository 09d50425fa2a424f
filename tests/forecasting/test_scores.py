import math
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from flashtrader.forecasting.scores import correlation_error, mean_score, score_forecasts
from flashtrader.training.correlation import information_coefficient

TIMES = pd.date_range("2024-01-01", periods=4_000, freq="h", tz="UTC", name="time")


def table(values: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"AAA": values}, index=TIMES[: len(values)])


def overlapping(generator: np.random.Generator, horizon: int, num_bars: int) -> np.ndarray:
    """Sums of the next `horizon` independent returns."""
    return np.convolve(generator.normal(size=num_bars + horizon - 1), np.ones(horizon), mode="valid")


def test_no_change_as_a_forecast_scores_zero() -> None:
    outcomes = np.random.default_rng(0).normal(size=500)
    score = score_forecasts(table(np.zeros(500)), table(outcomes), horizon_bars=1)[0]
    assert score.r2 == 0
    assert score.skill == 0
    assert math.isnan(score.ic)


def test_a_perfect_forecast_scores_one() -> None:
    outcomes = np.random.default_rng(0).normal(size=500)
    score = score_forecasts(table(outcomes), table(outcomes), horizon_bars=4)[0]
    assert score.ic == pytest.approx(1)
    assert score.ic_stride_mean == pytest.approx(1)
    assert score.rank_ic == pytest.approx(1)
    assert (score.r2, score.skill, score.direction, score.rmse) == (1, 1, 1, 0)


def test_bars_are_joined_by_time_and_unknown_outcomes_do_not_count() -> None:
    outcomes = table(np.random.default_rng(0).normal(size=300))
    forecasts = outcomes.iloc[100:].copy()
    forecasts.iloc[5] = np.nan
    known = outcomes.copy()
    known.iloc[-10:] = np.nan
    score = score_forecasts(forecasts, known, horizon_bars=1)[0]
    assert score.bars == 200 - 1 - 10
    assert score.ic == pytest.approx(1)


def test_nothing_known_yet_gives_no_number() -> None:
    score = score_forecasts(table(np.ones(3)), table(np.full(3, np.nan)), horizon_bars=2)[0]
    assert score.bars == 0
    assert math.isnan(score.ic)


def test_without_overlap_the_error_is_the_textbook_one() -> None:
    generator = np.random.default_rng(1)
    forecast, outcome = generator.normal(size=(2, 4_000, 1))
    assert correlation_error(forecast, outcome, horizon_bars=1) == pytest.approx(1 / math.sqrt(4_000), rel=0.1)


def test_the_error_covers_zero_where_overlapping_horizons_only_look_related() -> None:
    """Slow forecasts of overlapping outcomes: the naive error rejects truth far too often, this one about 1 in 20."""
    horizon, num_bars, generator = 24, 2_000, np.random.default_rng(2)
    naive, honest = 0, 0
    for _ in range(200):
        forecast, outcome = overlapping(generator, horizon, num_bars), overlapping(generator, horizon, num_bars)
        score = score_forecasts(table(forecast), table(outcome), horizon)[0]
        naive += abs(score.ic) > 1.96 / math.sqrt(num_bars)
        honest += abs(score.ic) > 1.96 * score.ic_error
    assert naive > 100
    assert 2 <= honest <= 20


@pytest.mark.parametrize("num_markets", [1, 3])
def test_a_dozen_horizons_are_enough_for_the_error(num_markets: int) -> None:
    horizon, num_bars, generator = 24, 300, np.random.default_rng(5)
    alarms, tries = 0, 400
    for _ in range(tries):
        forecast, shared, own = (overlapping(generator, horizon, num_bars) for _ in range(3))
        forecasts = np.stack([forecast] * num_markets, axis=1)
        outcomes = np.stack([shared + market * own for market in range(num_markets)], axis=1)
        ic = information_coefficient(forecasts, outcomes).mean()
        alarms += abs(ic) > 1.96 * correlation_error(forecasts, outcomes, horizon)
    assert 0.02 < alarms / tries < 0.08


def test_markets_that_move_together_make_the_mean_no_surer_and_independent_ones_do() -> None:
    generator = np.random.default_rng(3)
    forecasts, outcomes = (pd.DataFrame(generator.normal(size=(4_000, 4)), index=TIMES) for _ in range(2))
    one = mean_score(forecasts[[0]], outcomes[[0]], horizon_bars=3)
    assert one.ic_error == pytest.approx(score_forecasts(forecasts[[0]], outcomes[[0]], 3)[0].ic_error)
    together = mean_score(
        pd.DataFrame(dict.fromkeys("ABCD", forecasts[0])), pd.DataFrame(dict.fromkeys("ABCD", outcomes[0])), 3
    )
    assert asdict(together) == pytest.approx(asdict(one))
    apart = mean_score(forecasts, outcomes, horizon_bars=3)
    assert apart.ic_error == pytest.approx(one.ic_error / 2, rel=0.1)
    assert apart.ic == pytest.approx(np.mean([score.ic for score in score_forecasts(forecasts, outcomes, 3)]))


def test_the_error_of_a_mean_grows_where_bars_are_missing() -> None:
    generator = np.random.default_rng(4)
    forecasts, outcomes = (pd.DataFrame(generator.normal(size=(4_000, 1)), index=TIMES) for _ in range(2))
    whole = mean_score(forecasts, outcomes, horizon_bars=1).ic_error
    forecasts.iloc[1_000:] = np.nan
    assert mean_score(forecasts, outcomes, horizon_bars=1).ic_error == pytest.approx(2 * whole, rel=0.1)


def test_a_forecast_without_a_sign_has_no_direction() -> None:
    forecasts = np.array([0.0, 0.0, 1.0, -1.0])
    score = score_forecasts(table(forecasts), table(np.array([1.0, -1.0, 2.0, 1.0])), horizon_bars=1)[0]
    assert score.direction == 0.5
    assert math.isnan(mean_score(table(np.zeros(4)), table(np.ones(4)), horizon_bars=1).direction)
