import numpy as np
import pytest

from flashtrader.backtest.overfitting import probability_of_overfitting
from flashtrader.errors import DataError


def test_choosing_among_noise_is_overfitted_half_of_the_time() -> None:
    found = [
        probability_of_overfitting(np.random.default_rng(seed).normal(size=(500, num_trials)), num_blocks=10)
        for seed in range(60)
        for num_trials in (4, 15)
    ]
    assert np.mean(found) == pytest.approx(0.5, abs=0.07)


def test_a_trial_that_is_truly_better_is_not_overfitted() -> None:
    returns = np.random.default_rng(0).normal(size=(2_000, 10))
    returns[:, 3] += 0.3
    assert probability_of_overfitting(returns) == 0


def test_a_trial_that_was_good_once_is_overfitted() -> None:
    """Each is very good in one block of its own and bad elsewhere: what was best in one half loses in the other."""
    returns = np.random.default_rng(0).normal(size=(1_600, 16)) - 0.1
    for trial in range(16):
        returns[trial * 100 : trial * 100 + 100, trial] += 2
    assert probability_of_overfitting(returns) > 0.95


def test_trials_that_are_the_same_are_neither() -> None:
    assert probability_of_overfitting(np.repeat(np.random.default_rng(0).normal(size=(200, 1)), 5, axis=1)) == 0.5
    assert probability_of_overfitting(np.zeros((200, 4))) == 0.5


def test_the_order_and_scale_of_trials_do_not_matter() -> None:
    returns = np.random.default_rng(1).normal(size=(400, 6))
    expected = probability_of_overfitting(returns, 8)
    assert probability_of_overfitting(returns[:, ::-1] * np.array([1, 5, 0.1, 2, 3, 4]), 8) == expected


@pytest.mark.parametrize("shape", [(1_000, 1), (31, 5)])
def test_too_little_to_divide_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(DataError) as refused:
        probability_of_overfitting(np.ones(shape))
    num_bars, num_trials = shape
    assert str(refused.value) == f"{num_trials} trials of {num_bars} bars: needs 2 trials and 32 bars"
