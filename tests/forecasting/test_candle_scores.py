"""A candle's scores are what their formulas say, and can't flatter a forecast that repeats the price."""

import math
from dataclasses import astuple

import numpy as np
import pytest

from flashtrader.forecasting.candle_scores import (
    FEATURES,
    CandleScaler,
    calibrate,
    crps,
    errors_of,
    mean_errors,
    ranks,
    score_bands,
    score_candles,
    skill,
)
from flashtrader.panel.candles import log_candles
from panels import random_bars

BARS = random_bars(3_000)[list(FEATURES)].to_numpy(copy=True)
BARS[:, 0] *= np.random.default_rng(0).uniform(0.9995, 1.0005, size=len(BARS))  # an open is not quite the last close
THIS, NEXT = BARS[:-1], BARS[1:]
LOGS = log_candles(THIS[:1_500])
SCALER = CandleScaler(LOGS.mean(axis=0), LOGS.std(axis=0))


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
    assert list(repeated) == [(space, feature) for space in ("z", "price", "return") for feature in FEATURES]
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
    other = CandleScaler(SCALER.mean_C + 3, SCALER.std_C * 7)
    for key, score in scores(noisy).items():
        assert score.mse_skill == pytest.approx(scores(noisy, other)[key].mse_skill)
        assert score.mae_skill == pytest.approx(scores(noisy, other)[key].mae_skill)


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


def test_forecasts_of_the_true_distribution_are_calibrated_and_narrow_ones_are_not():
    """A bar in its own chosen distribution: wide in one half of the time, narrow in the other."""
    generator = np.random.default_rng(4)
    scale = np.where(np.arange(8_000) % 2, 0.1, 2.0)[:, None] * np.ones(5)
    came = generator.standard_t(4, scale.shape) * scale
    draws = generator.standard_t(4, (60, *scale.shape)) * scale
    unconditional = np.broadcast_to(np.quantile(came, (np.arange(60) + 0.5) / 60, axis=0)[:, None], draws.shape)
    reference = crps(unconditional, came)

    pit = ranks(draws, came, generator)
    for made in calibrate(pit, crps(draws, came), reference):
        assert (made.coverage_50, made.coverage_80, made.coverage_95) == pytest.approx((0.5, 0.8, 0.95), abs=0.02)
        assert made.crps_skill > 10 * made.crps_skill_error
    np.testing.assert_allclose(np.histogram(pit, 20, (0, 1))[0] / pit.size, 0.05, atol=0.004)

    for made in calibrate(ranks(draws / 3, came, generator), crps(draws / 3, came), reference):
        assert made.coverage_50 < 0.25
        assert made.crps > crps(draws, came).mean()


def test_ties_do_not_spoil_ranks():
    """Half of all volumes are exactly 0, and forecast to be."""
    generator = np.random.default_rng(5)
    draws, came = (generator.exponential(size=(*size, 5)) for size in ((50, 4_000), (4_000,)))
    draws[generator.random(draws.shape) < 0.5] = 0
    came[generator.random(came.shape) < 0.5] = 0
    pit = ranks(draws, came, generator)
    np.testing.assert_allclose(np.histogram(pit, 10, (0, 1))[0] / pit.size, 0.1, atol=0.006)


def test_crps_is_the_formulas_of_a_normal_and_does_not_depend_on_the_number_of_draws():
    """Of a standard normal at its mean: (√2 − 1) / √π."""
    generator = np.random.default_rng(6)
    expected = (math.sqrt(2) - 1) / math.sqrt(math.pi)
    for num_draws in (2, 5, 100):
        score = crps(generator.normal(size=(num_draws, 40_000, 1)), np.zeros((40_000, 1)))
        assert score.mean() == pytest.approx(expected, abs=0.012)


def test_bands_count_the_known_steps_and_each_rollout_once():
    pit = np.full((4, 6, 5), 0.5)
    pit[1] = 0.1  # in the outer band alone
    pit[2] = 0.99  # in neither
    pit[3] = np.nan
    pit[0, 3:] = np.nan
    scores = score_bands(pit)
    assert [score.feature for score in scores] == list(FEATURES)
    for score in scores:
        assert score.rollouts == 3
        assert score.coverage_50 == pytest.approx(3 / 15)
        assert score.coverage_90 == pytest.approx(9 / 15)
    one = score_bands(pit[:1])[0]
    assert (one.coverage_50, math.isnan(one.coverage_50_error)) == (1, True)
    assert math.isnan(score_bands(pit[3:])[0].coverage_90)


def test_the_bands_of_few_paths_hold_their_share_and_its_error_is_how_much_that_scatters():
    """Random walks, 20 paths each; neighbouring steps go together."""
    generator = np.random.default_rng(7)
    shares, errors = [], []
    for _ in range(100):
        walks = np.cumsum(generator.normal(size=(21, 30, 20, 5)), axis=2)
        score = score_bands(ranks(walks[1:], walks[0], generator))[3]
        shares.append((score.coverage_50, score.coverage_90))
        errors.append(score.coverage_50_error)
    np.testing.assert_allclose(np.mean(shares, axis=0), [0.5, 0.9], atol=0.02)
    assert np.mean(errors) == pytest.approx(np.std(shares, axis=0)[0], rel=0.2)
