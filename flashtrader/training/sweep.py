"""A sweep: an experiment with each combination of some keys' values, every one a run like any other."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from flashtrader.config import Experiment, first_problem, load_config
from flashtrader.errors import ConfigError, DataError
from flashtrader.files import read_json, write_json
from flashtrader.run import Run, refuse_link, refuse_links, reserve_run
from flashtrader.training.loop import train_in
from flashtrader.training.manifest import check_same_experiment
from flashtrader.training.spread import Finish, Spread, spread
from flashtrader.training.tracking import Follow, Metrics
from flashtrader.training.walk_forward import finished

_COMMA = re.compile(r",(?![^\[{]*[\]}])")  # between values, not within a list


class Trial(BaseModel):
    """One combination."""

    model_config = ConfigDict(frozen=True)

    run: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Its run's name, beside the sweep's file."""
    values: Mapping[str, str]
    """Of the keys that differ, as they were written."""
    experiment: Annotated[Experiment, Field(repr=False)]
    """By which its run is made where a kill came before."""


class _Recorded(BaseModel):
    trials: Annotated[tuple[Trial, ...], Field(min_length=1)]

    @field_validator("trials")
    @classmethod
    def _fit_together(cls, trials: tuple[Trial, ...]) -> tuple[Trial, ...]:
        if len({trial.run for trial in trials}) < len(trials):
            raise ValueError("a run is listed twice")
        if len({frozenset(trial.values) for trial in trials}) > 1:
            raise ValueError("not all have values of the same keys")
        return trials


@dataclass(frozen=True)
class Sweep:
    """What is trained, and the file that tells; the file's name is a contract with users' scripts."""

    path: Path
    trials: tuple[Trial, ...]

    def run(self, trial: Trial) -> Run:
        """Return a trial's run."""
        return Run(self.path.parent / trial.run)


def begin_sweep(config: Path, overrides: Sequence[str], grid: Sequence[str], runs_dir: Path) -> Sweep:
    """Make <name>-sweep-001.json, which lists a run for each combination of `key=value,value…`, and these runs.

    A kill before the file is there leaves empty directories and no run; after it, `read_sweep` makes what is missing.
    Raises ConfigError, before anything is made, when one of them is no experiment.
    """
    combinations = _combinations(grid)
    experiments = [
        load_config(config, [*overrides, *(f"{key}={value}" for key, value in values.items())])
        for values in combinations
    ]
    trials = tuple(
        Trial(run=reserve_run(runs_dir, experiment.name).name, values=values, experiment=experiment)
        for experiment, values in zip(experiments, combinations, strict=True)
    )
    name, number = experiments[0].name, 1
    while (path := runs_dir / f"{name}-sweep-{number:03d}.json").exists():
        number += 1
    write_json(path, _Recorded(trials=trials).model_dump(mode="json"))
    sweep = Sweep(path, trials)
    _make_runs(sweep)
    return sweep


def _make_runs(sweep: Sweep) -> None:
    for trial in sweep.trials:
        run = sweep.run(trial)
        if not (run.path / "config.yaml").is_file():
            run.write_config(trial.experiment)


def read_sweep(path: Path) -> Sweep:
    """Return the sweep that a file lists, with all of its runs made.

    Raises DataError when it is none, ConfigError for a run that is a link or has one inside: the file may be a
    stranger's, and nobody has named its runs.
    """
    try:
        recorded = read_json(path)
    except DataError as error:
        raise DataError(f"{error}; restore it from a copy, or go on with its runs one by one") from None
    try:
        sweep = Sweep(path, _Recorded.model_validate(recorded).trials)
    except ValidationError as error:
        raise DataError(f"{path}: {first_problem(error)}; give the file of a sweep, or a run") from None
    for trial in sweep.trials:
        refuse_link(sweep.run(trial).path)
        refuse_links(sweep.run(trial).path)
    _make_runs(sweep)
    return sweep


def train_sweep(sweep: Sweep, data_dir: Path, watch: Callable[[Metrics], None], over: Spread) -> Finish:
    """Train every run of a sweep that is not trained yet, each in a process of its own.

    `watch` gets the metrics of each step, with its `trial`, and which `member` of so many `members` that is, from 1.
    """
    runs = [sweep.run(trial) for trial in sweep.trials]
    follows = [
        Follow(run, {"trial": run.name, "member": number, "members": len(runs)}, watch)
        for number, run in enumerate(runs, start=1)
    ]

    def look() -> None:
        for follow in follows:
            follow()

    tasks = {trial.run: partial(_train_trial, sweep.run(trial), trial.experiment, data_dir) for trial in sweep.trials}
    return spread(tasks, over, look)


def _train_trial(run: Run, planned: Experiment, data_dir: Path, watch: Callable[[Metrics], None]) -> None:
    check_same_experiment(run, planned)  # else its figures would be shown for other values than it has
    experiment = run.experiment
    if finished(run, experiment) is None:
        train_in(experiment, data_dir, run, watch)


def _combinations(grid: Sequence[str]) -> list[dict[str, str]]:
    """Return each combination of values, the last key's going round fastest."""
    axes: dict[str, list[str]] = {}
    for text in grid:
        key, _, values = text.partition("=")
        axis = [value.strip() for value in _COMMA.split(values)]
        if not key or "" in axis:
            raise ConfigError(f"--sweep {text}: write it as section.key=value,value")
        if key in axes or len(set(axis)) < len(axis):
            raise ConfigError(f"--sweep {text}: give each key, and each of its values, once")
        axes[key] = axis
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
