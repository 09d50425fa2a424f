"""How far back a model looks: attention weights by age, over all chosen bars, in a few numbers.

Shapes: H heads, E entities, K steps seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.forecasting.attention_maps import AttentionMap

_FIRST_BAND_BARS, _BAND_GROWTH = 16, 4


@dataclass(frozen=True, eq=False)
class Profile:
    """The weights of one attention, or of the rollout (H = 1), as the mean over entities that ask, and over bars."""

    by_age: Floats
    """(H, K): 0 bars back, the bar itself, comes first; sums to one."""
    by_entity: Floats
    """(H, E asking, E seen), all times together; sums to one."""
    entropy_nats: Floats
    """(H,) of the weights of one query: exp of it keys, alike, would have the same."""


@dataclass(frozen=True)
class Band:
    """The share of the weight that is on bars so far back."""

    from_bars: int
    to_bars: int
    share: float


@dataclass(frozen=True)
class Reach:
    """How far back one head looks, or what attention of all layers reaches. Ages in bars; the bar itself is 0 back."""

    mean_bars: float
    median_bars: int
    """Half of the weight is at most so far back."""
    entropy_nats: float
    bands: tuple[Band, ...]
    """All ages, in the same bands for every head."""


def profile(weights_HEKE: NDArray[np.float32]) -> Profile:
    """Return what is kept of one bar's weights."""
    weights = weights_HEKE.astype(np.float64)
    entropy_HE = -np.einsum("heko,heko->he", weights, np.log(np.where(weights > 0, weights, 1.0)))
    return Profile(
        by_age=weights.sum(axis=3).mean(axis=1)[:, ::-1],
        by_entity=weights.sum(axis=2),
        entropy_nats=entropy_HE.mean(axis=1),
    )


def profiles(attention: AttentionMap) -> dict[str, Profile]:
    """Return the profile of every attention, and of the `rollout`."""
    layers = {name: profile(weights) for name, weights in attention.weights.items()}
    return layers | {"rollout": profile(attention.rollout[None])}


def mean_profiles(of_bars: Sequence[Mapping[str, Profile]]) -> dict[str, Profile]:
    """Return the mean over bars; a bar near the beginning of its run has nothing at the ages that it lacks."""
    return {name: _mean([bar[name] for bar in of_bars]) for name in of_bars[0]}


def ages(profiles: Mapping[str, Profile]) -> dict[str, Floats]:
    """Return `by_age` of every attention that looks back."""
    layers = {name: profile.by_age for name, profile in profiles.items() if name != "rollout"}
    return {name: by_age for name, by_age in layers.items() if by_age.shape[1] > 1} or layers


def entities(profiles: Mapping[str, Profile]) -> dict[str, Floats]:
    """Return `by_entity` of the rollout and every attention that looks at several entities; of one entity, nothing."""
    return {name: profile.by_entity for name, profile in profiles.items() if profile.by_entity.shape[2] > 1}


def reaches(profiles: Mapping[str, Profile]) -> dict[str, list[Reach]]:
    """Return how far back every head looks, in bands of ages that are the same for all."""
    longest = max(profile.by_age.shape[1] for profile in profiles.values())
    return {
        name: [
            _reach(ages, float(entropy), longest)
            for ages, entropy in zip(profile.by_age, profile.entropy_nats, strict=True)
        ]
        for name, profile in profiles.items()
    }


def _mean(profiles: Sequence[Profile]) -> Profile:
    longest = max(profile.by_age.shape[1] for profile in profiles)
    padded = [np.pad(profile.by_age, ((0, 0), (0, longest - profile.by_age.shape[1]))) for profile in profiles]
    return Profile(
        by_age=np.mean(padded, axis=0),
        by_entity=np.mean([profile.by_entity for profile in profiles], axis=0),
        entropy_nats=np.mean([profile.entropy_nats for profile in profiles], axis=0),
    )


def _reach(by_age_K: Floats, entropy_nats: float, longest: int) -> Reach:
    return Reach(
        mean_bars=float(by_age_K @ np.arange(len(by_age_K))),
        median_bars=quantile_age(by_age_K, 0.5),
        entropy_nats=entropy_nats,
        bands=tuple(Band(start, stop - 1, float(by_age_K[start:stop].sum())) for start, stop in _bands(longest)),
    )


def quantile_age(by_age_K: Floats, share: float) -> int:
    """Return the least age such that so much of the weight is at most so far back."""
    return int(np.searchsorted(by_age_K.cumsum(), share * by_age_K.sum()))


def _bands(longest: int) -> list[tuple[int, int]]:
    """Return half-open ranges of ages below `longest`: the bar itself, the next few, then each four times as far."""
    edges = [0, 1]
    stop = _FIRST_BAND_BARS
    while edges[-1] < longest:
        edges.append(min(stop, longest))
        stop *= _BAND_GROWTH
    return list(pairwise(edges))
