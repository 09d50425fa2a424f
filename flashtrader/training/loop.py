"""From an experiment to a trained run, of one model or of several: begun, or gone on with."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from flashtrader.config import Experiment
from flashtrader.errors import ConfigError
from flashtrader.files import remove_parts
from flashtrader.run import Run, create_run
from flashtrader.training.distributed import team
from flashtrader.training.manifest import check_same_experiment
from flashtrader.training.members import resume_members, train_members
from flashtrader.training.single import alone, begin_anew, resume_one, train_one
from flashtrader.training.spread import Spread
from flashtrader.training.summary import TrainingSummary
from flashtrader.training.tracking import Watcher, check_installed

_log = logging.getLogger(__name__)


def train_model(
    experiment: Experiment, data_dir: Path, runs_dir: Path, watch: Watcher, over: Spread | None = None
) -> TrainingSummary:
    """Train the model, or models, that an experiment describes in a new run directory.

    The plain models beside it come first; one of its own is fitted at once. `watch` gets the metrics of every step as
    they are written to metrics.jsonl; of several models, also which it is: `member` of so many `members`, `fold` of so
    many `folds`, from 1, and `seed`. Several models are trained at once if they are spread `over` something. Where
    torchrun has started its processes again, the run that they began goes on. Until the end no other process can train
    the run, or write into it.
    """
    check_installed(experiment.training)
    begun = team().begun()
    if begun is not None:
        return resume_training(experiment, data_dir, Run(begun), watch, over)
    with ExitStack() as held:
        return _train(experiment, data_dir, partial(_create, runs_dir, experiment, held), watch, over)


def _create(runs_dir: Path, experiment: Experiment, held: ExitStack) -> Run:
    run = create_run(runs_dir, experiment)
    held.enter_context(run.alone())
    team().launch.remember(run.path)
    return run


def _train(
    experiment: Experiment, data_dir: Path, create: Callable[[], Run], watch: Watcher, over: Spread | None
) -> TrainingSummary:
    if experiment.has_members:
        return train_members(experiment, data_dir, create, watch, over)
    return train_one(experiment, data_dir, create, watch)


def resume_training(
    experiment: Experiment, data_dir: Path, run: Run, watch: Watcher, over: Spread | None = None
) -> TrainingSummary:
    """Go on with a run from its last checkpoint, bit for bit as if it had never stopped (on a CPU).

    The experiment is the run's own, but for when training stops and what it reports. Bars fetched since are left out.
    A run that was killed before its first checkpoint begins at step 0. Of several models, those that are trained stay
    as they are. Raises ConfigError for any other change, DataError when the bars that the run was trained on have
    changed, TrainingError when another process is at work in the run.
    """
    with alone(run):
        return _resume(experiment, data_dir, run, watch, over)


def _resume(experiment: Experiment, data_dir: Path, run: Run, watch: Watcher, over: Spread | None) -> TrainingSummary:
    check_same_experiment(run, experiment)
    team().from_writer(partial(remove_parts, run.path))
    if not team().from_writer(lambda: run.has_begun):
        if (run.path / "backtest.json").is_file():
            raise ConfigError(f"{run.path}: a backtest without a model, which can't go on; train one with --config")
        _log.warning("%s: killed as it was made; it begins at step 0", run.path)
        return _train(experiment, data_dir, partial(begin_anew, run, experiment), watch, over)
    if experiment.has_members:
        return resume_members(experiment, data_dir, run, watch, over)
    return resume_one(experiment, data_dir, run, watch)


def train_in(
    experiment: Experiment, data_dir: Path, run: Run, watch: Watcher, over: Spread | None = None
) -> TrainingSummary:
    """Train as `train_model` does, in a run directory that is there; if something has begun in it, that goes on."""
    with alone(run):
        if team().from_writer(lambda: run.has_begun):  # by another process, maybe, while this one waited for its end
            return _resume(experiment, data_dir, run, watch, over)
        return _train(experiment, data_dir, partial(begin_anew, run, experiment), watch, over)
