"""What came of a training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flashtrader.run import Run


@dataclass(frozen=True)
class SeedSpread:
    """How a figure differs between models that differ in their seed alone."""

    mean: float
    deviation: float
    """Of the sample: with a denominator of one less than there are models."""
    minimum: float
    maximum: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> "SeedSpread":
        """Return the spread of two figures or more; NaN throughout if one is."""
        if not np.isfinite(figures).all():
            return cls(math.nan, math.nan, math.nan, math.nan)
        return cls(float(np.mean(figures)), float(np.std(figures, ddof=1)), min(figures), max(figures))

    @classmethod
    def read(cls, recorded: Mapping[str, float | None]) -> "SeedSpread":
        """Return the spread that a manifest holds, where null is NaN."""
        return cls(**{name: math.nan if value is None else value for name, value in recorded.items()})


@dataclass(frozen=True)
class TrainingSummary:
    """What came of a training. Losses are in units of the objective on standardised targets."""

    run: Run
    steps: int
    best_step: int
    validation_loss: float
    skill: str
    """What the validation skill is: ic, …"""
    validation_skill: float
    seconds: float
    stopped: str
    """completed, early, interrupted, terminated or diverged."""
