"""What a run's manifest tells to whoever reads it: typed, checked, and without a line that could do harm."""

from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from flashtrader.config import Experiment, first_problem, validate
from flashtrader.errors import ConfigError, DataError
from flashtrader.files import read_json

_AGAIN = "restore it from a copy, or train the run again"


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds characters that can't be printed")
    return text


Printable = Annotated[str, AfterValidator(_printable)]
"""Of anybody's file, and safe to print."""
Text = Annotated[Printable, Field(max_length=1_000)]
"""In a table, or a sentence."""


Milliseconds = Annotated[int, Field(ge=-62_135_596_800_000, le=253_402_300_799_000)]
"""Since the epoch, and of a time that a calendar can tell: the years 1 to 9999."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class Fingerprint(_Part):
    """What identifies the stored bars, or snapshots, of a symbol."""

    rows: int
    first: AwareDatetime
    last: AwareDatetime
    sha256: Text

    def changed_to(self, now: "Fingerprint | None") -> str | None:
        """Return in words what is not as it was, as far as a digest of the whole can tell; None where nothing is."""
        if now == self:
            return None
        if now is None:
            return f"{self.extent} then, none now"
        if now.model_copy(update={"sha256": self.sha256}) == self:
            return f"other values in the same {self.extent}"
        return f"{self.extent} then, {now.extent} now"

    @property
    def extent(self) -> str:
        """How many rows, and of what time."""
        return f"{self.rows:,} rows from {self.first:%Y-%m-%d %H:%M} to {self.last:%Y-%m-%d %H:%M}"


class Boundaries(_Part):
    """What divides any panel as the run's own was divided. Times in ms are opening times of bars."""

    train_start_ms: Milliseconds
    validation_start_ms: Milliseconds
    test_start_ms: Milliseconds
    end_ms: Milliseconds
    """Close of the newest bar, or the moment after the newest snapshot, when the split was made; the test part of a
    panel that goes on goes on with it."""
    reach_bars: NonNegativeInt
    """Bars from a decision to the last one that has a part in what came of it."""
    embargo_bars: NonNegativeInt


class MemberState(_Part):
    """How far one model of a run of several is."""

    name: Text
    fold: PositiveInt
    """Counted from 1."""
    seed: int
    status: Text
    """waiting, or how its training stopped."""
    steps: int = 0


class Outcome(_Part):
    """How a training ended."""

    steps: int
    best_step: int
    stopped: Text
    """completed, early, interrupted, terminated or diverged."""
    seconds: float
    validation_loss: float | None
    skill: Text
    """What the validation skill is: ic, …"""
    validation_skill: float | None


class Attention(_Part):
    """Which kernel attention ran on."""

    backend: Text


class Resumption(_Part):
    """Where a training went on, and how long it was to be until then."""

    after_step: int
    max_steps: int
    patience: int | None


class Machine(_Part):
    """What the bits of a training depend on besides the experiment and its data."""

    versions: Mapping[Text, Text]
    commit: Text | None
    """Of the sources that ran; None of an installed copy."""
    device: Text
    instructions: Text
    """The CPU's widest that were used: sums of other widths round otherwise."""
    threads: PositiveInt

    @property
    def parts(self) -> dict[str, str]:
        """What has to be the same for the same bits, each with its name; threads, which can be chosen, aside."""
        named = {"sources": self.commit or "installed", "device": self.device, "CPU instructions": self.instructions}
        return {**self.versions, **named}


class Manifest(Machine):
    """Enough to make a run again, and to say what is no longer as it was."""

    created: AwareDatetime
    command: Printable
    """As it was given, however long: of a hundred symbols, say."""
    experiment: Experiment
    """Resolved: every key has its value."""
    data: Annotated[Mapping[Text, Fingerprint], Field(min_length=1)]
    split: Boundaries
    """Of a walk-forward: the first fold's, but that its test part holds all that is forecast."""
    folds: tuple[Boundaries, ...] = ()
    members: tuple[MemberState, ...] = ()
    """Empty of a run of one model."""
    processes: PositiveInt = 1
    """Among which each batch was shared."""
    attention: Attention | None = None
    """None for a plain model."""
    training: Outcome | None = None
    """None until it ended."""
    weights: Mapping[Text, Text] = {}
    """Digest of every model that was fitted, by its file's path within the run."""
    resumed: tuple[Resumption, ...] = ()
    begins_as: Text | None = None
    """The member of a walk-forward whose best weights this one began with, if it did."""

    @field_validator("members")
    @classmethod
    def _each_fold_has_each_seed(
        cls, members: tuple[MemberState, ...], info: ValidationInfo
    ) -> tuple[MemberState, ...]:
        folds = range(1, len(info.data.get("folds", ())) + 1)
        if sorted((member.fold, member.seed) for member in members) != sorted(
            product(folds, {member.seed for member in members})
        ):
            raise ValueError("not one of each seed in each of the folds")
        return members

    @property
    def extents(self) -> dict[str, str]:
        """What identifies the data of each symbol, in words."""
        return {symbol: f"{bars.extent}, {bars.sha256[:12]}" for symbol, bars in self.data.items()}

    @property
    def period(self) -> dict[str, datetime]:
        """`start` and `end` of the bars that the run saw, as section `data` has them."""
        return {
            "start": min(bars.first for bars in self.data.values()),
            "end": datetime.fromtimestamp(self.split.end_ms / 1000, UTC),
        }

    @property
    def was_on_cpu(self) -> bool:
        """Whether the training ran where the same sums give the same bits."""
        return self.device.endswith(" CPU")


def read_recorded(path: Path) -> dict[str, Any]:
    """Return what a manifest's file holds. Raises DataError for a file that is damaged or something else."""
    try:
        recorded = read_json(path)
    except DataError as error:
        raise DataError(f"{error}; {_AGAIN}") from None
    if not isinstance(recorded, dict) or not isinstance(recorded.get("experiment"), dict):
        raise DataError(f"{path}: not the manifest of a run, which holds an experiment; {_AGAIN}")
    return recorded


def read_manifest(path: Path) -> Manifest:
    """Return the manifest in a file. Raises DataError, on one line, for one in which anything that is read is wrong."""
    recorded = read_recorded(path)
    try:
        return Manifest.model_validate(recorded | {"experiment": validate(recorded["experiment"], "experiment")})
    except ConfigError as error:
        reason = str(error)
    except ValidationError as error:
        reason = first_problem(error)
    raise DataError(f"{path}: {reason}; {_AGAIN}")
