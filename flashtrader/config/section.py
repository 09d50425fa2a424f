"""What every section of the YAML file is made of."""

from datetime import UTC, date, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator


def utc(moment: object) -> object:
    """Return a date or ISO text as a UTC time; leave anything else to the schema.

    A bare number is read as its text: 20240131 is a date, and 2024 none. The schema would take both for seconds since
    1970.
    """
    if isinstance(moment, int | float):
        moment = str(moment)
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            raise ValueError(f"{moment!r} is not a date such as 2024-01-31 or 2024-01-31T12:00") from None
    if isinstance(moment, date) and not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day)
    if isinstance(moment, datetime):
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment


def _each_once(names: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is listed twice")
    return names


_GREATEST = 2**32 - 1
"""Of whole numbers; the largest seed that every library takes, and more bars than any market has."""
_FARTHEST = 1e15
"""From zero, of other numbers: what is computed of them, squares too, stays a number."""

UtcTime = Annotated[datetime, BeforeValidator(utc)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
EachOnce = AfterValidator(_each_once)
"""Of a list of names or numbers: none is there twice."""


class Section(BaseModel):
    """One section of the YAML file."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
        use_attribute_docstrings=True,
        validate_default=True,
        hide_input_in_errors=True,
    )

    @field_validator("*")
    @classmethod
    def _countable(cls, value: object) -> object:
        if isinstance(value, int) and abs(value) > _GREATEST:
            raise ValueError(f"whole numbers go up to {_GREATEST:,}")
        if isinstance(value, float) and abs(value) > _FARTHEST:
            raise ValueError(f"numbers go up to {_FARTHEST:,.0f}")
        return value
