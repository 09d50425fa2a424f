"""The run directory: everything that came of one experiment, and the manifest that reproduces it."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from flashtrader.config import Experiment, PlainFamily, load_config, to_yaml
from flashtrader.errors import ConfigError, DataError, TrainingError
from flashtrader.files import read_json_lines, write_json, write_text
from flashtrader.manifest import Manifest, read_manifest, read_recorded

_RESULTS = (
    *("forecasts.parquet", "latest*.parquet", "live.parquet", "plain/*.parquet"),
    *("candles.parquet", "rollout.parquet", "directions.parquet", "direction_scores.json", "attention", "*.png"),
    *("equity.parquet", "trades.parquet", "weights.parquet", "backtest.json", "report.html", "verify.json"),
)
"""What `predict`, `backtest` and `verify` write into a run."""

_PATIENCE_SECONDS = 10.0
"""How long to wait for another process in a run: one that goes on may meet what is left of the one before."""
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class Run:
    """A run directory. The files' names are a contract with users' scripts."""

    path: Path

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def experiment(self) -> Experiment:
        """The resolved experiment, as it was trained."""
        return load_config(self.path / "config.yaml")

    @property
    def has_begun(self) -> bool:
        """Whether training has: the manifest is written last of what is made before its first step."""
        return (self.path / "manifest.json").is_file()

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest as it is written, for who adds to it or shows it; `read_manifest` checks it."""
        self._require_beginning()
        return read_recorded(self.path / "manifest.json")

    def read_manifest(self) -> Manifest:
        """Return what the manifest tells, checked. Raises DataError when nothing was trained here, or for damage."""
        self._require_beginning()
        return read_manifest(self.path / "manifest.json")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only process that trains the run or writes results into it; its members are runs of their own.

        The system takes the lock back from a process that dies. Where this one may write nothing, there is nothing to
        lock. Raises TrainingError when another process is still there after a while.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock", timeout=_PATIENCE_SECONDS, mode=0o666)  # of all who may write here
        try:
            lock.acquire()
        except Timeout:
            raise TrainingError(
                f"{self.path}: another process trains this run or writes results into it; wait for its end, or stop "
                "it, and give the command again"
            ) from None
        except OSError as error:
            if error.errno not in _NOT_WRITABLE:
                raise
        try:
            yield
        finally:
            lock.release()

    def write_config(self, experiment: Experiment) -> None:
        """Replace the experiment."""
        write_text(self.path / "config.yaml", to_yaml(experiment))

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Replace the manifest."""
        write_json(self.path / "manifest.json", manifest)

    def _require_beginning(self) -> None:
        if not self.has_begun:
            raise DataError(
                f"{self.path}: nothing was trained in it; if its training was killed, begin it with: "
                f"flashtrader train --resume {self.path}"
            )

    @property
    def checkpoints(self) -> Path:
        """Holds `best` and `last`."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One JSON object a line: steps and evaluations."""
        return self.path / "metrics.jsonl"

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the lines of `metrics` that are whole. Raises DataError for anything else than a step's numbers."""
        rows = read_json_lines(self.metrics)
        for number, row in enumerate(rows, start=1):
            if type(row.get("step")) is not int or not all(isinstance(value, int | float) for value in row.values()):
                raise DataError(f"{self.metrics}: line {number}: not the numbers of a step; take the line out")
        return rows

    @property
    def forecasts(self) -> Path:
        """What `predict` wrote last of the test bars, or of all."""
        return self.path / "forecasts.parquet"

    @property
    def latest(self) -> Path:
        """What `predict` wrote last of the newest bar alone, apart from what a backtest trades."""
        return self.path / "latest.parquet"

    def drop_results(self) -> None:
        """Remove what other commands made of the model, once the model is another: forecasts, tests, pictures."""
        for pattern in _RESULTS:
            for path in self.path.glob(pattern):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def member(self, name: str) -> "Run":
        """Return one of the models of a run of several: a run of its own inside this one.

        Raises DataError for a name that is none, which could lead out of the run.
        """
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
            raise DataError(
                f"{self.path / 'manifest.json'}: members: {name!r} names no model of a run; restore it from a copy, or "
                "train the run again"
            )
        return Run(self.path / "members" / name)

    def plain_model(self, family: PlainFamily) -> Path:
        """Return where a plain model that stands beside the run's own is."""
        return self.path / "plain" / f"{family}.safetensors"

    def plain_forecasts(self, family: PlainFamily) -> Path:
        """Return where its forecasts of the bars of `forecasts` are."""
        return self.path / "plain" / f"{family}.parquet"


def create_run(runs_dir: Path, experiment: Experiment) -> Run:
    """Make the next free directory `<experiment>-001`, `-002`, … and write the resolved config to it."""
    run = reserve_run(runs_dir, experiment.name)
    run.write_config(experiment)
    return run


def reserve_run(runs_dir: Path, experiment: str) -> Run:
    """Make the next free directory of an experiment's name; no command takes it for a run without a config."""
    runs_dir.mkdir(parents=True, exist_ok=True)
    taken = [int(match[1]) for path in runs_dir.iterdir() if (match := _numbered(experiment, path.name))]
    number = max(taken, default=0) + 1
    while True:
        run = Run(runs_dir / f"{experiment}-{number:03d}")
        try:
            run.path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return run


def find_run(runs_dir: Path, name: str | None = None) -> Run:
    """Return a run by its name or path, or the newest trained one.

    Raises ConfigError when there is none, and for links inside it. One that is named may be a link itself, to another
    disk say: who names it knows it.
    """
    if name is not None:
        for path in (Path(name), runs_dir / name):
            if (path / "config.yaml").is_file():
                refuse_links(path)
                return Run(path)
        raise ConfigError(f"no run {name!r} here or in {runs_dir}{_known(runs_dir)}")
    runs = _trained(runs_dir)
    if not runs:
        raise ConfigError(f"no trained run in {runs_dir}; make one with `flashtrader train --config …`, or give --run")
    refuse_link(runs[-1])
    refuse_links(runs[-1])
    return Run(runs[-1])


def refuse_link(run: Path) -> None:
    """Refuse a run that is a link where no person has named it: in a stranger's directory it could be any run."""
    if run.is_symlink():
        raise ConfigError(
            f"{run}: a link, which is followed only where you name the run itself; name it, or move it here"
        )


def refuse_links(run: Path) -> None:
    """Refuse links inside a run: through one, what is written or removed in the run would be so anywhere."""
    for folder, folders, files in os.walk(run):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink():
                raise ConfigError(f"{path}: a link, which can lead out of the run; put a copy in its place")


def _numbered(experiment: str, directory: str) -> re.Match[str] | None:
    return re.fullmatch(rf"{re.escape(experiment)}-(\d+)", directory)


def _trained(runs_dir: Path) -> list[Path]:
    """Return the directories of trained runs, oldest first."""
    manifests = runs_dir.glob("*/manifest.json")
    return [manifest.parent for manifest in sorted(manifests, key=lambda manifest: manifest.stat().st_mtime_ns)]


def _known(runs_dir: Path) -> str:
    names = [path.name for path in _trained(runs_dir)[-5:]]
    return f"; the newest are {', '.join(names)}" if names else ""
