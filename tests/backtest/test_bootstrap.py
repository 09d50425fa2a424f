import math

import numpy as np
import pytest

from flashtrader.backtest.bootstrap import block_bars, draw_histories, interval95

NOWHERE = np.array([], dtype=np.int64)


def autoregressive(rho: float, num_bars: int, generator: np.random.Generator) -> np.ndarray:
    values = generator.normal(size=num_bars)
    values[0] /= math.sqrt(1 - rho**2)
    for i in range(1, num_bars):
        values[i] += rho * values[i - 1]
    return values


def test_blocks_are_as_long_as_theory_says() -> None:
    """AR(1): (2G²/D)^⅓ · T^⅓ with G = 2ρ/((1 − ρ)²(1 − ρ²)) and D = 2/(1 − ρ)⁴, in units of the noise's variance."""
    rho, num_bars = 0.5, 100_000
    expected = (2 * rho / (1 - rho**2)) ** (2 / 3) * num_bars ** (1 / 3)
    assert block_bars(autoregressive(rho, num_bars, np.random.default_rng(0))) == pytest.approx(expected, rel=0.15)


def test_independent_returns_need_no_blocks() -> None:
    returns = np.random.default_rng(0).normal(size=10_000)
    assert block_bars(returns) < 3
    assert block_bars(np.zeros(100)) == 1


@pytest.mark.parametrize(("rho", "mean_block"), [(0.0, 1.0), (0.0, 20.0), (0.5, 60.0)])
def test_the_mean_varies_as_the_long_run_variance_says(rho: float, mean_block: float) -> None:
    returns = autoregressive(rho, 20_000, np.random.default_rng(1))[:, None]
    drawn = draw_histories(returns, mean_block, num_histories=1_000, at_P=NOWHERE, seed=0)
    assert drawn.mean_HC.std() == pytest.approx(1 / (1 - rho) / math.sqrt(20_000), rel=0.1)


def test_a_history_is_made_of_the_returns_in_blocks() -> None:
    """Powers of a base tell how often each return was drawn, and the growth at every bar tells the order."""
    num_bars = 12
    returns = np.expm1(10.0 ** np.arange(num_bars) / 1e12)[:, None]
    drawn = draw_histories(returns, 3.0, num_histories=400, at_P=np.arange(num_bars + 1), seed=0)
    steps_HT = np.diff(drawn.log_growth_HP * 1e12, axis=1)
    bars_HT = np.log10(np.maximum(steps_HT, 1)).round().astype(int)
    assert np.allclose(steps_HT, 10.0**bars_HT, rtol=1e-2, atol=0.5)
    goes_on = (bars_HT[:, 1:] - bars_HT[:, :-1]) % num_bars == 1
    # A block ends with probability 1/3, and a random start carries on with probability 1/12.
    assert goes_on.mean() == pytest.approx(1 - 1 / 3 * 11 / 12, abs=0.03)
    assert np.bincount(bars_HT.ravel(), minlength=num_bars) / bars_HT.size == pytest.approx(1 / num_bars, abs=0.015)


def test_curves_are_drawn_from_the_same_bars() -> None:
    returns = np.random.default_rng(0).normal(size=(500, 2))
    drawn = draw_histories(np.column_stack([returns, returns[:, 0]]), 5.0, at_P=NOWHERE, seed=0)
    np.testing.assert_array_equal(drawn.sharpe_HC[:, 0], drawn.sharpe_HC[:, 2])
    assert not np.array_equal(drawn.sharpe_HC[:, 0], drawn.sharpe_HC[:, 1])


def test_the_figures_are_those_of_the_history_drawn() -> None:
    returns = np.random.default_rng(0).normal(0.001, 0.01, (300, 1))
    drawn = draw_histories(returns, 5.0, num_histories=50, at_P=np.arange(301), seed=0)
    histories = np.expm1(np.diff(drawn.log_growth_HP, axis=1))
    np.testing.assert_allclose(drawn.mean_HC[:, 0], histories.mean(axis=1))
    np.testing.assert_allclose(drawn.sharpe_HC[:, 0], histories.mean(axis=1) / histories.std(axis=1, ddof=1))


def test_returns_that_do_not_vary_have_a_ratio_of_zero() -> None:
    drawn = draw_histories(np.column_stack([np.zeros(50), np.full(50, 1e-3)]), 2.0, at_P=NOWHERE, seed=0)
    assert not drawn.sharpe_HC.any()


def test_a_seed_gives_the_same_histories() -> None:
    returns = np.random.default_rng(0).normal(size=(200, 1))
    one, same, other = (draw_histories(returns, 4.0, at_P=NOWHERE, seed=seed).sharpe_HC for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("rho", [0.0, 0.3])
def test_the_interval_covers_the_true_ratio_in_about_95_of_100_samples(rho: float) -> None:
    generator, truth = np.random.default_rng(3), 0.05
    deviation = 1 / math.sqrt(1 - rho**2)
    missed = 0
    for sample in range(300):
        returns = (truth * deviation + autoregressive(rho, 1_000, generator))[:, None]
        drawn = draw_histories(returns, block_bars(returns[:, 0]), num_histories=400, at_P=NOWHERE, seed=sample)
        low, high = interval95(drawn.sharpe_HC[:, 0])
        missed += not low < truth < high
    assert 5 <= missed <= 30


def test_the_paired_interval_is_narrow_for_curves_that_move_together() -> None:
    generator = np.random.default_rng(4)
    market = generator.normal(0.0, 0.01, 2_000)
    returns = np.column_stack([market + generator.normal(0, 0.001, 2_000), market])
    drawn = draw_histories(returns, 1.0, at_P=NOWHERE, seed=0)
    low, high = interval95(drawn.sharpe_HC[:, 0] - drawn.sharpe_HC[:, 1])
    alone = interval95(drawn.sharpe_HC[:, 0])
    assert high - low < 0.2 * (alone[1] - alone[0])
