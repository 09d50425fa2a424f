"""A candle's scores are what their formulas say, and can't flatter a forecast that repeats the price."""

import math
from dataclasses import astuple

import numpy as np
import pytest

from flashtrader.forecasting.candle_scores import (
    CANDLE,
    LEVELS,
    SPACES,
    CandleScaler,
    central_coverage,
    errors_of,
    mean_errors,
    score_candles,
    skill,
)
from panels import random_bars

BARS = random_bars(3_000)[list(CANDLE)].to_numpy(copy=True)
BARS[:, 0] *= np.random.default_rng(0).uniform(0.9995, 1.0005, size=len(BARS))  # an open is not quite the last close
THIS, NEXT = BARS[:-1], BARS[1:]
SCALER = CandleScaler.fit(THIS[:1_500])


def scores(forecast, scaler=SCALER):
    return {(score.space, score.feature): score for score in score_candles(THIS, forecast, NEXT, scaler)}


def test_errors_worked_by_hand():
    errors = errors_of(np.array([1.0, 3.0, 2.0]), np.array([2.0, 4.0, 0.0]))
    assert errors.mse == pytest.approx((1 + 1 + 4) / 3)
    assert errors.rmse == pytest.approx(math.sqrt(2))
    assert errors.mae == pytest.approx(4 / 3)
    assert errors.mape == pytest.approx((1 / 2 + 1 / 4) / 2), "a row that came as zero has no relative error"
    assert errors.r2 == pytest.approx(1 - 6 / 8)


def test_what_is_not_defined_is_not_a_number():
    assert all(math.isnan(value) for value in astuple(errors_of(np.empty(0), np.empty(0))))
    constant = errors_of(np.ones(4), np.zeros(4))
    assert math.isnan(constant.r2)
    assert math.isnan(constant.mape)
    assert constant.mae == 1
    assert math.isnan(skill(np.ones(5), np.zeros(5))[0])


def test_persistence_has_no_skill_and_the_truth_has_all():
    repeated, known = scores(THIS), scores(NEXT)
    assert list(repeated) == [(space, feature) for space in SPACES for feature in CANDLE]
    for (space, feature), score in repeated.items():
        assert score.bars == len(THIS)
        if space != "return" or feature in ("close", "volume"):
            assert (score.mse_skill, score.mae_skill) == pytest.approx((0, 0), abs=1e-12)
            assert score.mse_skill_error == pytest.approx(0, abs=1e-12)
    for score in known.values():
        assert (score.mse_skill, score.mae_skill, score.model.r2) == (1, 1, 1)


def test_a_price_level_looks_forecast_and_its_return_does_not():
    repeated = scores(THIS)
    assert repeated["price", "close"].model.r2 > 0.97
    assert repeated["z", "close"].model.r2 > 0.97
    assert repeated["return", "close"].model.r2 <= 0
    assert repeated["return", "close"].persistence.mape == 1, "no change misses every move by all of it"


def test_no_change_from_this_close_is_the_harder_reference_of_an_open():
    """This candle's open is a bar old, so that to beat it takes no more than to know this close."""
    at_close = np.column_stack([np.repeat(THIS[:, 3:4], 4, axis=1), THIS[:, 4]])
    made = scores(at_close)
    assert made["price", "open"].mse_skill > 0.9
    assert made["return", "open"].persistence.mse == made["return", "open"].model.mse


def test_skill_does_not_depend_on_the_scaler():
    noisy = NEXT * np.exp(np.random.default_rng(1).normal(scale=0.002, size=NEXT.shape))
    other = CandleScaler(SCALER.mean + 3, SCALER.std * 7)
    for key, score in scores(noisy).items():
        assert score.mse_skill == pytest.approx(scores(noisy, other)[key].mse_skill)
        assert score.mae_skill == pytest.approx(scores(noisy, other)[key].mae_skill)


def test_the_scaler_gives_training_candles_no_mean_and_unit_deviation():
    z = SCALER.z(THIS[:1_500])
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(z.std(axis=0), 1)
    np.testing.assert_array_equal(CandleScaler.fit(np.ones((5, 5))).std, 1)


def test_a_row_with_anything_unknown_counts_nowhere():
    forecast, came = THIS.copy(), NEXT.copy()
    forecast[:100, 4] = np.nan
    came[-1] = np.nan
    part = score_candles(THIS, forecast, came, SCALER)
    assert part == score_candles(THIS[100:-1], THIS[100:-1], NEXT[100:-1], SCALER)
    assert part[0].bars == len(THIS) - 101


def test_the_mean_over_features_is_of_each_measure():
    made = [score.model for score in scores(THIS * 1.01).values()]
    assert mean_errors(made).mae == pytest.approx(np.mean([errors.mae for errors in made]))
    assert math.isnan(mean_errors([*made, errors_of(np.ones(2), np.ones(2))]).r2)


def test_the_error_of_a_skill_is_how_much_it_scatters_where_losses_cluster():
    generator = np.random.default_rng(3)
    skills, errors = [], []
    for _ in range(200):
        noise = generator.normal(size=(2_003, 2))
        smooth = noise[3:] + noise[2:-1] + noise[1:-2] + noise[:-3]
        made, error = skill(np.exp(smooth[:, 0] / 2), np.exp(smooth[:, 1] / 2))
        skills.append(made)
        errors.append(error)
    assert np.mean(errors) == pytest.approx(np.std(skills), rel=0.15)


def test_uniform_ranks_cover_their_levels_and_overconfident_ones_less():
    generator = np.random.default_rng(4)
    pit = generator.random((20_000, 3))
    pit[:, 1] = np.where(generator.random(20_000) < 0.5, pit[:, 1] * 0.05, 1 - pit[:, 1] * 0.05)
    pit[:, 2] = np.nan
    pit[:500, 0] = np.nan
    calibrated, overconfident, unknown = central_coverage(pit).T
    np.testing.assert_allclose(calibrated, LEVELS, atol=0.012)
    np.testing.assert_allclose(overconfident, [0, 0, 0.5], atol=0.02)
    assert np.isnan(unknown).all()
