"""Section `split`: what is trained on, and what is forecast without having been seen."""

from datetime import datetime
from typing import Literal, Self

from pydantic import NonNegativeInt, PositiveInt, model_validator

from flashtrader.config.section import Fraction, Section, UtcTime


class WalkForwardConfig(Section):
    """Several trainings one after the other, each forecasting the bars that follow what it has seen."""

    train: PositiveInt
    """Bars of the first fold that are trained on."""
    validation: PositiveInt
    """Bars after them by which the best weights are chosen, in every fold."""
    test: PositiveInt
    """Bars after these that a fold forecasts; the last fold's run to the end of the history, as many as there are."""
    step: PositiveInt | None = None
    """Bars from one fold to the next; null is `test`. Where it is less, the newer fold's forecast counts."""
    mode: Literal["expanding", "rolling"] = "expanding"
    """Whether a later fold trains on all bars before its validation, or on the last `train` of them."""
    warm_start: bool = False
    """Whether a fold begins with the best weights of the one before, of the same seed, instead of new ones."""

    @model_validator(mode="after")
    def _no_holes(self) -> Self:
        if self.step_bars > self.test:
            raise ValueError(
                f"step ({self.step}) is longer than test ({self.test}): the bars between would have no forecast"
            )
        return self

    @property
    def step_bars(self) -> int:
        """Bars from one fold to the next."""
        return self.test if self.step is None else self.step


class SplitConfig(Section):
    """How the history is divided by time: training, then validation, then test."""

    train: UtcTime | None = None
    """The date on which training begins: bars before it give context and no label; null is the oldest bar."""
    validation: Fraction | UtcTime = 0.15
    """Share of the bars, or the date on which validation begins; not with `walk_forward`."""
    test: Fraction | UtcTime = 0.15
    """Share of the bars, or the date on which the test begins; not with `walk_forward`."""
    embargo_bars: NonNegativeInt = 0
    """Bars dropped before each boundary beside those whose outcome reaches across it."""
    walk_forward: WalkForwardConfig | None = None
    """Several splits in place of one."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        match self.validation, self.test:
            case float(), float() if self.validation + self.test >= 1:
                raise ValueError("validation and test leave no bars for training: their sum must be below 1")
            case datetime(), datetime() if self.validation >= self.test:
                raise ValueError("validation must begin before test")
            case (float(), datetime()) | (datetime(), float()):
                raise ValueError("give validation and test both as fractions or both as dates")
        if self.train and isinstance(self.validation, datetime) and self.train >= self.validation:
            raise ValueError("train must begin before validation")
        return self

    @model_validator(mode="after")
    def _one_way_to_divide(self) -> Self:
        # A run's config.yaml writes the defaults out, so a key that holds its default can't be told from none.
        given = [key for key in ("train", "validation", "test") if getattr(self, key) != _default(key)]
        if self.walk_forward and given:
            raise ValueError(f"{given[0]}: walk_forward says how long each part is; leave the one or the other out")
        return self


def _default(key: str) -> object:
    return SplitConfig.model_fields[key].default
