"""What the answers of each family depend on: which leaks it can have, and which attacks say something of it."""

from typing import NamedTuple

from flashtrader.config import PlainFamily


class Nature(NamedTuple):
    """What answers of a family depend on."""

    bars: bool = True
    """On the bars before: else it answers one number everywhere."""
    features: bool = True
    """On the features: else on closes at most."""
    targets: bool = True
    """On the targets that it was trained on: else it is a rule of its own, the same in every fold."""

    @property
    def learns(self) -> bool:
        """Whether it could know another outcome by another bar: shuffled targets would show there."""
        return self.bars and self.targets


_PLAIN: dict[PlainFamily, Nature] = {
    "persistence": Nature(bars=False, features=False, targets=False),
    "drift": Nature(bars=False, features=False),
    "momentum": Nature(features=False, targets=False),
    "ridge": Nature(),
    "dlinear": Nature(features=False),
    "boosting": Nature(),
}


def nature_of(family: PlainFamily | None) -> Nature:
    """Return what the answers of a plain model depend on; None is a transformer, which depends on everything."""
    return Nature() if family is None else _PLAIN[family]
