"""What is known of every run in a directory, from the files that it wrote; loads no model and no market data."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from flashtrader.config import Experiment, first_problem, validate
from flashtrader.errors import ConfigError, DataError
from flashtrader.files import read_json
from flashtrader.manifest import Manifest, Text, read_manifest

_FILES = ("config.yaml", "manifest.json", "backtest.json")


class Status(StrEnum):
    """How far a run has come."""

    UNFINISHED = "unfinished"
    """Training goes on, or was killed."""
    INTERRUPTED = "interrupted"
    DIVERGED = "diverged"
    TRAINED = "trained"
    FORECAST = "forecast"
    BACKTESTED = "backtested"
    DAMAGED = "damaged"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


_Kind = TypeVar("_Kind", bound=_Part)


class Estimated(_Part):
    """A figure of the forecasts and its standard error."""

    value: float | None
    error: float | None


class ForecastFigures(_Part):
    """What the forecasts were worth."""

    ic: Estimated


class SignificanceFigures(_Part):
    """How far a backtest can be trusted."""

    deflated_sharpe: float | None
    trials: int


class Period(_Part):
    """Time that was traded."""

    start: AwareDatetime
    end: AwareDatetime
    bars: int


class BacktestFigures(_Part):
    """What is read of a run's backtest.json; the figures' names are those of the table of a backtest."""

    verdict: Text
    finding: Text
    """The verdict in a word: like_buy_and_hold, …"""
    metrics: Mapping[Text, float | None]
    significance: SignificanceFigures
    forecast: ForecastFigures | None
    period: Period
    experiment: Annotated[Mapping[str, Any], Field(repr=False)]


class Verified(_Part):
    """What came of the attacks on a run: verify.json."""

    passed: bool
    mode: Text
    """quick or full."""


@dataclass(frozen=True)
class RunSummary:
    """What the files of a run tell; None where there is no such file yet."""

    path: Path
    status: Status
    damage: str | None = None
    """What is wrong with its files."""
    experiment: Experiment | None = None
    created: datetime | None = None
    manifest: Manifest | None = None
    """None also of a backtest of anybody's forecasts or weights, for which nothing was trained."""
    backtest: BacktestFigures | None = None
    verified: Verified | None = None

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def validation_skill(self) -> float | None:
        """Of the best weights on the validation bars."""
        outcome = self.manifest.training if self.manifest else None
        return outcome.validation_skill if outcome else None

    def figure(self, name: str) -> float | None:
        """Return a figure by name: `skill` of the validation, `ic` of the test, or one of a backtest's metrics."""
        if name == "skill":
            return self.validation_skill
        if self.backtest is None:
            return None
        if name == "ic":
            return self.backtest.forecast.ic.value if self.backtest.forecast else None
        return self.backtest.metrics.get(name)


def list_runs(runs_dir: Path) -> list[RunSummary]:
    """Return the runs of a directory, the oldest first; those that say nothing of their time come before all."""
    if not runs_dir.is_dir():
        return []
    directories = [path for path in runs_dir.iterdir() if any((path / name).is_file() for name in _FILES)]
    beginning = datetime.min.replace(tzinfo=UTC)
    return sorted(map(summarise, directories), key=lambda run: (run.created or beginning, run.name))


def summarise(path: Path) -> RunSummary:
    """Return what the files of a run tell. One that can't be read makes the run a damaged one, never an error."""
    try:
        manifest = read_manifest(path / "manifest.json") if (path / "manifest.json").is_file() else None
        backtest = _read(BacktestFigures, path / "backtest.json")
        if manifest is not None:
            return RunSummary(
                path,
                _status(path, manifest, backtest),
                experiment=manifest.experiment,
                created=manifest.created,
                manifest=manifest,
                backtest=backtest,
                verified=_read(Verified, path / "verify.json"),
            )
        if backtest is None:
            return RunSummary(path, Status.UNFINISHED, created=_written(path / "config.yaml"))
        experiment = validate(dict(backtest.experiment), f"{path / 'backtest.json'}: experiment")
        created = _written(path / "backtest.json")
        return RunSummary(path, Status.BACKTESTED, experiment=experiment, created=created, backtest=backtest)
    except (ConfigError, DataError) as error:
        return RunSummary(path, Status.DAMAGED, str(error))
    except OSError as error:
        return RunSummary(path, Status.DAMAGED, f"{error.filename or path}: {error.strerror or error}")


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by their dotted paths."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _status(path: Path, manifest: Manifest, backtest: BacktestFigures | None) -> Status:
    if manifest.training is None:
        return Status.UNFINISHED
    if manifest.training.stopped in ("interrupted", "terminated"):
        return Status.INTERRUPTED
    if manifest.training.stopped == "diverged":
        return Status.DIVERGED
    if backtest is not None:
        return Status.BACKTESTED
    return Status.FORECAST if (path / "forecasts.parquet").is_file() else Status.TRAINED


def _read(kind: type[_Kind], path: Path) -> _Kind | None:
    """Return what a file holds, or None where there is none. Raises DataError when it is damaged."""
    if not path.is_file():
        return None
    try:
        return kind.model_validate(read_json(path))
    except DataError as error:
        reason = str(error)
    except ValidationError as error:
        reason = f"{path}: {first_problem(error)}"
    raise DataError(f"{reason}; make it again with `flashtrader {path.stem}`")


def _written(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)
