"""From an experiment to a trained run, of one model or of several: begun, or gone on with."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from flashtrader.config import Experiment
from flashtrader.errors import ConfigError, DivergedError, TrainingError
from flashtrader.files import remove_parts
from flashtrader.models.families import build_model
from flashtrader.models.model import GridModel
from flashtrader.models.plain import save_plain
from flashtrader.models.precision import pick_device
from flashtrader.models.weights import load_tensors
from flashtrader.run import Run, create_run
from flashtrader.training.checkpoint import has_checkpoint
from flashtrader.training.data import LabelledPanel, TrainingData, label, prepare, require_trainable
from flashtrader.training.distributed import team
from flashtrader.training.manifest import (
    check_same_data,
    check_same_experiment,
    describe_data,
    describe_outcome,
    describe_resumption,
    describe_training,
    with_bars_of,
)
from flashtrader.training.members import place_of_member, spread_members
from flashtrader.training.objectives import build_skill
from flashtrader.training.plain import fit_plain_models, train_plain
from flashtrader.training.spread import Spread
from flashtrader.training.stopping import FINISHED, Terminated
from flashtrader.training.summary import TrainingSummary
from flashtrader.training.tracking import Metrics, Watcher, check_installed
from flashtrader.training.trainer import Trainer, update_manifest
from flashtrader.training.walk_forward import (
    Member,
    before,
    describe_members,
    finished,
    outcome_of,
    plan_members,
    summarise,
)

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


@contextmanager
def _alone(run: Run) -> Iterator[None]:
    """Be the only team that trains a run: its writer holds the run's lock."""
    with ExitStack() as held:
        team().from_writer(lambda: held.enter_context(run.alone()))
        yield


def _train(
    experiment: Experiment, data_dir: Path, create: Callable[[], Run], watch: Watcher, over: Spread | None
) -> TrainingSummary:
    if not experiment.has_members:
        return _train_one(experiment, data_dir, create, watch)
    run, members = _begin_members(experiment, data_dir, create)
    return _train_members(run, members, data_dir, watch, over)


def resume_training(
    experiment: Experiment, data_dir: Path, run: Run, watch: Watcher, over: Spread | None = None
) -> TrainingSummary:
    """Go on with a run from its last checkpoint, bit for bit as if it had never stopped (on a CPU).

    The experiment is the run's own, but for when training stops and what it reports. Bars fetched since are left out.
    A run that was killed before its first checkpoint begins at step 0. Of several models, those that are trained stay
    as they are. Raises ConfigError for any other change, DataError when the bars that the run was trained on have
    changed, TrainingError when another process is at work in the run.
    """
    with _alone(run):
        check_same_experiment(run, experiment)
        team().from_writer(partial(remove_parts, run.path))
        if not team().from_writer(lambda: run.has_begun):
            if (run.path / "backtest.json").is_file():
                raise ConfigError(f"{run.path}: a backtest without a model, which can't go on; train one with --config")
            _log.warning("%s: killed as it was made; it begins at step 0", run.path)
            return _train(experiment, data_dir, partial(_begin_anew, run, experiment), watch, over)
        if not experiment.has_members:
            return _resume_one(experiment, data_dir, run, watch)
        return _train_members(run, _go_on_with_members(experiment, data_dir, run), data_dir, watch, over)


def train_in(
    experiment: Experiment, data_dir: Path, run: Run, watch: Watcher, over: Spread | None = None
) -> TrainingSummary:
    """Train as `train_model` does, in a run directory that is there and in which nothing has begun."""
    with _alone(run):
        return _train(experiment, data_dir, partial(_begin_anew, run, experiment), watch, over)


def _begin_members(experiment: Experiment, data_dir: Path, create: Callable[[], Run]) -> tuple[Run, list[Member]]:
    """Return a new run of several models, and what is to be trained in it; the panel is let go of."""
    data = label(experiment, data_dir)
    members = _plan(experiment, data)
    manifest = _describe(experiment, data)

    def begin() -> Run:
        run = create()
        run.write_manifest(manifest | describe_members(run, members))
        return run

    return team().from_writer(begin), members


def _go_on_with_members(experiment: Experiment, data_dir: Path, run: Run) -> list[Member]:
    """Return what is to be trained in a run of several models that goes on; the panel is let go of."""
    check_same_experiment(run, experiment)
    data = label(with_bars_of(run, experiment), data_dir)
    check_same_data(run, data)
    _go_on(run, experiment, after_step=sum(member.steps for member in run.read_manifest().members))
    return _plan(experiment, data)


def _plan(experiment: Experiment, data: LabelledPanel) -> list[Member]:
    """Return the members, once each is known to have bars to train on and to validate by."""
    members = plan_members(experiment, data.panel)
    for member in members:
        require_trainable(experiment, data.panel, member.split)
    return members


def _describe(experiment: Experiment, data: LabelledPanel) -> dict[str, Any]:
    if experiment.plain_family is not None:
        return describe_data(experiment, data, torch.device("cpu"))
    return describe_training(experiment, data, _untrained(experiment, data))


def _train_members(
    run: Run, members: Sequence[Member], data_dir: Path, watch: Watcher, over: Spread | None
) -> TrainingSummary:
    """Train each member that is not trained yet, one after the other, until it is asked to stop or one diverges.

    Spread `over` something, all that can be trained are; then TrainingError tells which could not, and why.
    """
    if over is not None:
        finish = spread_members(run, members, data_dir, _train_member, watch, over)
        trained = [summary for member in members if (summary := outcome_of(run.member(member.name))) is not None]
        summary = _conclude(run, members, trained, finish.outcome)
        if finish.failures:
            raise TrainingError(f"{run.path}: {finish.told}; go on with: flashtrader train --resume {run.path}")
        return summary
    summaries: list[TrainingSummary] = []
    stopped = "completed"
    try:
        for member in members:
            earlier = before(member, members) if run.experiment.warm_starts else None
            begins_as = run.member(earlier.name) if earlier else None
            own_watch = partial(_watch_member, watch, place_of_member(member, members))
            summaries.append(_train_member(run.member(member.name), member, begins_as, data_dir, own_watch))
            update_manifest(run, lambda: describe_members(run, members))
            if summaries[-1].stopped not in FINISHED:
                stopped = summaries[-1].stopped
                break
    except KeyboardInterrupt as stop:  # outside of its steps, of which none is ever cut in two
        stopped = "terminated" if isinstance(stop, Terminated) else "interrupted"
    except DivergedError:
        _conclude(run, members, summaries, "diverged")
        raise
    return _conclude(run, members, summaries, stopped)


def _conclude(
    run: Run, members: Sequence[Member], summaries: Sequence[TrainingSummary], stopped: str
) -> TrainingSummary:
    """Return what came of the members so far, once it is in the run's manifest."""
    summary = summarise(run, summaries, build_skill(run.experiment).name, stopped=stopped)
    update_manifest(run, lambda: describe_members(run, members) | describe_outcome(summary))
    return summary


def _watch_member(watch: Watcher, place: Metrics, metrics: Metrics) -> None:
    watch(metrics | place)


def _train_member(run: Run, member: Member, earlier: Run | None, data_dir: Path, watch: Watcher) -> TrainingSummary:
    """Train one member, or go on with it; what it has before its first checkpoint is made again."""
    done = team().from_writer(lambda: finished(run, member.experiment))
    if done is not None:
        return done
    with _alone(run):
        if team().from_writer(lambda: has_checkpoint(run.checkpoints)):
            return _resume_one(member.experiment, data_dir, run, watch)
        return _train_one(member.experiment, data_dir, partial(_begin_anew, run, member.experiment), watch, earlier)


def _begin_anew(run: Run, experiment: Experiment) -> Run:
    """Return a run that was killed before its first checkpoint as if it had just been made."""
    run.metrics.unlink(missing_ok=True)
    run.write_config(experiment)
    return run


def _train_one(
    experiment: Experiment, data_dir: Path, create: Callable[[], Run], watch: Watcher, earlier: Run | None = None
) -> TrainingSummary:
    """Train one model in the run directory that `create` makes, from the best weights of an `earlier` run if given."""
    if experiment.plain_family is not None:
        return team().from_writer(partial(train_plain, experiment.plain_family, experiment, data_dir, create))
    return _begin(experiment, prepare(experiment, data_dir), create, watch, earlier)


def _begin(
    experiment: Experiment, data: TrainingData, create: Callable[[], Run], watch: Watcher, earlier: Run | None = None
) -> TrainingSummary:
    """Fit the plain models beside a transformer, then train it, from its first step on."""
    model = _untrained(experiment, data)
    if earlier is not None:
        tensors, _ = load_tensors(earlier.checkpoints / "best.safetensors")
        learned = {name: tensor for name, tensor in tensors.items() if not name.startswith("standardiser.")}
        unfit = set(learned) ^ {name for name in model.state_dict() if not name.startswith("standardiser.")}
        if unfit:
            raise TrainingError(
                f"{earlier.path}: its weights do not fit a warm start: {', '.join(sorted(unfit))} "
                "missing or unknown; train that fold anew"
            )
        model.load_state_dict(learned, strict=False)  # the standardiser is the fold's own
    manifest = describe_training(experiment, data, model) | ({"begins_as": earlier.name} if earlier else {})

    def begin() -> Run:
        beside = fit_plain_models(experiment, data, experiment.plain_models)
        run = create()
        for family, fitted in beside.items():
            save_plain(run.plain_model(family), fitted.model)
        scores = {family: asdict(fitted.score) for family, fitted in beside.items()}
        run.write_manifest(manifest | {"plain_models": scores})
        return run

    return Trainer(experiment, data, model, team().from_writer(begin)).train(watch)


def _resume_one(experiment: Experiment, data_dir: Path, run: Run, watch: Watcher) -> TrainingSummary:
    """Go on with a run of one model."""
    if experiment.plain_family is not None:
        raise ConfigError(
            f"{run.path}: {experiment.plain_family} is fitted at once and has nothing to go on with; train a new run "
            "with --config"
        )
    check_same_experiment(run, experiment)
    data = prepare(with_bars_of(run, experiment), data_dir)
    check_same_data(run, data)
    if not team().from_writer(lambda: has_checkpoint(run.checkpoints)):
        _log.warning("%s: killed before its first checkpoint; it begins at step 0", run.path)
        return _begin(experiment, data, partial(_begin_anew, run, experiment), watch)
    trainer = Trainer(experiment, data, _untrained(experiment, data), run)
    trainer.restore()
    if trainer.is_over:  # and what was made of the model stays right
        to_go_on = "to go on, raise training.max_steps or training.patience"
        _log.warning("%s: trained to its end already, at step %d; %s", run.path, trainer.progress.step, to_go_on)
    else:
        _go_on(run, experiment, after_step=trainer.progress.step)
    return trainer.train(watch)


def _go_on(run: Run, experiment: Experiment, after_step: int) -> None:
    """Write into a run by what experiment it goes on, and drop what was made of its models as they were."""

    def write() -> None:
        run.write_manifest(run.manifest | describe_resumption(run, experiment, after_step))
        run.write_config(experiment)
        run.drop_results()

    team().from_writer(write)


def _untrained(experiment: Experiment, data: LabelledPanel) -> GridModel:
    model = build_model(experiment, data.scaler)
    return model.to(pick_device(experiment.training))
