"""Section `split`: what is trained on, and what is forecast without having been seen."""

from datetime import datetime
from typing import Self

from pydantic import NonNegativeInt, model_validator

from flashtrader.config.section import Fraction, Section, UtcTime


class SplitConfig(Section):
    """How the history is divided by time: training, then validation, then test."""

    validation: Fraction | UtcTime = 0.15
    """Share of the bars, or the date on which validation begins."""
    test: Fraction | UtcTime = 0.15
    """Share of the bars, or the date on which the test begins."""
    embargo_bars: NonNegativeInt = 0
    """Bars dropped before each boundary beside those whose target reaches across it."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        match self.validation, self.test:
            case float(), float() if self.validation + self.test >= 1:
                raise ValueError("validation and test leave no bars for training: their sum must be below 1")
            case datetime(), datetime() if self.validation >= self.test:
                raise ValueError("validation must begin before test")
            case (float(), datetime()) | (datetime(), float()):
                raise ValueError("give validation and test both as fractions or both as dates")
        return self
