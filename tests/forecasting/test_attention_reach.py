import math

import numpy as np
import pytest

from flashtrader.forecasting.attention_maps import AttentionMap
from flashtrader.forecasting.attention_reach import (
    ages,
    entities,
    mean_profiles,
    profile,
    profiles,
    quantile_age,
    reaches,
)


def weights(heads: int = 2, asking: int = 3, steps: int = 40, seen: int = 3) -> np.ndarray:
    drawn = np.random.default_rng(0).random((heads, asking, steps, seen)) ** 4
    return (drawn / drawn.sum(axis=(2, 3), keepdims=True)).astype(np.float32)


def test_a_head_that_looks_at_everything_alike() -> None:
    even = np.full((1, 2, 10, 2), 1 / 20, dtype=np.float32)
    ((reach,),) = reaches({"layer 1": profile(even)}).values()
    assert reach.mean_bars == pytest.approx(4.5)
    assert reach.median_bars == 4
    assert math.exp(reach.entropy_nats) == pytest.approx(20)
    assert [(band.from_bars, band.to_bars) for band in reach.bands] == [(0, 0), (1, 9)]
    assert [band.share for band in reach.bands] == pytest.approx([0.1, 0.9])


def test_a_head_that_looks_at_one_bar() -> None:
    one = np.zeros((1, 1, 100, 1), dtype=np.float32)
    one[..., 29, :] = 1
    ((reach,),) = reaches({"layer 1": profile(one)}).values()
    assert reach.mean_bars == reach.median_bars == 70
    assert reach.entropy_nats == 0
    assert [(band.from_bars, band.to_bars, band.share) for band in reach.bands] == [
        (0, 0, 0),
        (1, 15, 0),
        (16, 63, 0),
        (64, 99, 1),
    ]


def test_a_profile_keeps_what_it_sums_over() -> None:
    drawn = weights()
    kept = profile(drawn)
    np.testing.assert_allclose(kept.by_age.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(kept.by_entity.sum(axis=2), 1, atol=1e-6)
    np.testing.assert_allclose(kept.by_age[1, 0], drawn[1, :, -1].sum(axis=-1).mean(), atol=1e-6)
    np.testing.assert_allclose(kept.by_entity[0, 1, 2], drawn[0, 1, :, 2].sum(), atol=1e-6)


@pytest.mark.parametrize("longest", [1, 2, 16, 17, 64, 65, 767])
def test_bands_hold_every_age_once(longest: int) -> None:
    ((reach,),) = reaches({"layer 1": profile(weights(1, 1, longest, 1))}).values()
    ages_of_bands = [age for band in reach.bands for age in range(band.from_bars, band.to_bars + 1)]
    assert ages_of_bands == list(range(longest))
    assert sum(band.share for band in reach.bands) == pytest.approx(1, abs=1e-6)


def test_the_mean_over_bars_counts_ages_and_not_places() -> None:
    """The age of a bar is counted from the decision, however much history lies before it."""
    short, long = profile(weights(steps=5)), profile(weights(steps=9))
    mean = mean_profiles([{"layer 1": short}, {"layer 1": long}])["layer 1"]
    np.testing.assert_allclose(mean.by_age[:, :5], (short.by_age + long.by_age[:, :5]) / 2)
    np.testing.assert_allclose(mean.by_age[:, 5:], long.by_age[:, 5:] / 2)


def test_what_looks_back_and_what_looks_across() -> None:
    found = profiles(
        AttentionMap(
            times_ms=np.arange(40),
            entities=("A", "B", "C"),
            forecasts={},
            weights={"layer 1 time": weights(seen=1), "layer 1 across": weights(steps=1)},
            rollout=weights(heads=1)[0],
            prices={},
        )
    )
    assert list(ages(found)) == ["layer 1 time"]
    assert list(entities(found)) == ["layer 1 across", "rollout"]


@pytest.mark.parametrize(("share", "age"), [(0.25, 0), (0.5, 1), (0.51, 2), (1.0, 3)])
def test_quantiles_of_the_age(share: float, age: int) -> None:
    assert quantile_age(np.full(4, 0.25), share) == age
