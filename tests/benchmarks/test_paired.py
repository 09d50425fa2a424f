import numpy as np
import pytest

from flashtrader.benchmarks.paired import Difference, paired_difference


def test_the_interval_holds_the_true_difference_as_often_as_it_says() -> None:
    """Differences vary from stretch to stretch and from seed to seed; a naive error sees neither."""
    generator = np.random.default_rng(0)
    held, widths = 0, []
    for _ in range(400):
        stretch_G, seed_S = generator.normal(size=16), generator.normal(scale=0.3, size=4)
        stretches_SG = 1.0 + stretch_G + seed_S[:, None] + generator.normal(scale=0.3, size=(4, 16))
        found = paired_difference(stretches_SG.mean(axis=1), stretches_SG, 0.9)
        held += found.low <= 1.0 <= found.high
        widths.append(found.high - found.low)
    assert 0.87 <= held / 400 <= 0.98
    assert np.mean(widths) < 1.5


def test_one_seed_leaves_the_error_of_time() -> None:
    """16 stretches: Student's t of 15 degrees is 2.131 at 97.5 %."""
    stretches_SG = np.tile([0.0, 2.0], 8)[None]
    found = paired_difference(np.array([1.0]), stretches_SG, 0.95)
    reach = 2.131 * stretches_SG.std(ddof=1) / 4
    assert (found.low, found.high) == pytest.approx((1 - reach, 1 + reach), rel=1e-3)


def test_equal_trainings_do_not_differ() -> None:
    assert paired_difference(np.zeros(2), np.zeros((2, 16)), 0.95) == Difference(0.0, 0.0, 0.0)
