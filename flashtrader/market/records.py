"""What the JSON of every ledger is made of, and how it is read: anyone may have edited it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from flashtrader.config import first_problem
from flashtrader.errors import DataError, UnreadableError
from flashtrader.files import read_json
from flashtrader.market.parts import PartKind, part_time
from flashtrader.market.spans import Span, from_iso

_ISO_TIME = re.compile(r"-?[0-9]{4,6}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{3})?Z")
T = TypeVar("T")


def _time(text: Any) -> int:
    if not isinstance(text, str) or not _ISO_TIME.fullmatch(text):
        raise ValueError("should be a time such as 2024-01-31T12:00:00Z")
    return from_iso(text)


Time = Annotated[int, BeforeValidator(_time)]
"""Text in JSON, ms here."""
Count = Annotated[int, Field(ge=0, lt=2**63)]


def part_of(kind: PartKind) -> AfterValidator:
    """Return the check that a text is the name of a part."""

    def check(name: str) -> str:
        part_time(name, kind)
        return name

    return AfterValidator(check)


class Record(BaseModel):
    """Values of the types that are declared, no others made into them."""

    model_config = ConfigDict(strict=True)


class SpanRecord(Record):
    """A span of time, alone or with what is known of it."""

    start: Time
    end: Time

    @property
    def span(self) -> Span:
        """The span itself."""
        return Span(self.start, self.end)


def read_ledger_file(path: Path, parse: Callable[[Any], T], advice: str) -> T:
    """Return what `parse` makes of the JSON in a file; it raises ValidationError for what is no ledger.

    Raises DataError, which ends in `advice`, when the file is damaged, and UnreadableError.
    """
    try:
        return parse(read_json(path))
    except UnreadableError:
        raise
    except DataError as error:
        raise DataError(f"{error}; {advice}") from None
    except ValidationError as error:
        raise DataError(f"{path}: not a ledger ({first_problem(error)}); {advice}") from None
