"""The models of a run of several, trained one after the other or at once; one process writes the run's manifest."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from flashtrader.config import Experiment
from flashtrader.errors import DivergedError, TrainingError
from flashtrader.run import Run
from flashtrader.training.checkpoint import has_checkpoint
from flashtrader.training.data import LabelledPanel, label, require_trainable
from flashtrader.training.distributed import team
from flashtrader.training.manifest import (
    check_same_data,
    check_same_experiment,
    describe_data,
    describe_outcome,
    describe_training,
    with_bars_of,
)
from flashtrader.training.objectives import build_skill
from flashtrader.training.single import TO_GO_ON, alone, begin_anew, record_resumption, resume_one, train_one, untrained
from flashtrader.training.spread import Spread, spread
from flashtrader.training.stopping import FINISHED, Terminated
from flashtrader.training.summary import TrainingSummary
from flashtrader.training.tracking import Follow, Metrics, Watcher
from flashtrader.training.trainer import update_manifest
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


def train_members(
    experiment: Experiment, data_dir: Path, create: Callable[[], Run], watch: Watcher, over: Spread | None
) -> TrainingSummary:
    """Train the models that an experiment describes in the run directory that `create` makes.

    Spread `over` something, those that don't need each other are trained at once, and one that fails stops no other.
    """
    run, members = _begin(experiment, data_dir, create)
    return _train(run, members, data_dir, watch, over)


def resume_members(
    experiment: Experiment, data_dir: Path, run: Run, watch: Watcher, over: Spread | None
) -> TrainingSummary:
    """Go on with a run of several models; those that are trained stay as they are."""
    return _train(run, _continue(experiment, data_dir, run), data_dir, watch, over)


def _begin(experiment: Experiment, data_dir: Path, create: Callable[[], Run]) -> tuple[Run, list[Member]]:
    """Return a new run of several models, and what is to be trained in it; the panel is let go of."""
    data = label(experiment, data_dir)
    members = _plan(experiment, data)
    manifest = _describe(experiment, data)

    def begin() -> Run:
        run = create()
        run.write_manifest(manifest | describe_members(run, members))
        return run

    return team().from_writer(begin), members


def _continue(experiment: Experiment, data_dir: Path, run: Run) -> list[Member]:
    """Return what is to be trained in a run of several models that goes on; the panel is let go of."""
    check_same_experiment(run, experiment)
    data = label(with_bars_of(run, experiment), data_dir)
    check_same_data(run, data)
    members = _plan(experiment, data)
    if team().from_writer(lambda: all(finished(run.member(member.name), member.experiment) for member in members)):
        _log.warning("%s: all %d models are trained to their end already; %s", run.path, len(members), TO_GO_ON)
    else:
        record_resumption(run, experiment, after_step=sum(member.steps for member in run.read_manifest().members))
    return members


def _plan(experiment: Experiment, data: LabelledPanel) -> list[Member]:
    """Return the members, once each is known to have bars to train on and to validate by."""
    members = plan_members(experiment, data.panel)
    for member in members:
        require_trainable(experiment, data.panel, member.split)
    return members


def _describe(experiment: Experiment, data: LabelledPanel) -> dict[str, Any]:
    if experiment.plain_family is not None:
        return describe_data(experiment, data, torch.device("cpu"))
    return describe_training(experiment, data, untrained(experiment, data))


def _train(run: Run, members: Sequence[Member], data_dir: Path, watch: Watcher, over: Spread | None) -> TrainingSummary:
    """Train each member that is not trained yet."""
    if over is None:
        return _train_in_turn(run, members, data_dir, watch)
    return _train_at_once(run, members, data_dir, watch, over)


def _train_in_turn(run: Run, members: Sequence[Member], data_dir: Path, watch: Watcher) -> TrainingSummary:
    """Train one member after the other, until one is asked to stop or diverges."""
    summaries: list[TrainingSummary] = []
    stopped = "completed"
    try:
        for member in members:
            own_watch = partial(_watch_member, watch, _place(member, members))
            summaries.append(_train_member(run, member, members, data_dir, own_watch))
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


def _train_at_once(
    run: Run, members: Sequence[Member], data_dir: Path, watch: Watcher, over: Spread
) -> TrainingSummary:
    """Train all members that can be, those that don't need each other at once.

    With warm starts the folds of a seed need each other, and are one task. Raises TrainingError, which tells what could
    not be trained by the name of a task's first member, and why.
    """
    chains = _chains(members, linked=run.experiment.warm_starts)
    tasks = {chain[0].name: partial(_train_chain, run, chain, data_dir) for chain in chains}
    follows = [Follow(run.member(member.name), _place(member, members), watch) for member in members]
    seen: list[str] = []
    run.write_manifest(run.manifest | {"threads": over.threads})  # by which the same bits can be made again

    def look() -> None:
        for follow in follows:
            follow()
        described = describe_members(run, members)
        statuses = [member["status"] for member in described["members"]]
        if statuses != seen:
            seen[:] = statuses
            run.write_manifest(run.manifest | described)

    finish = spread(tasks, over, look)
    trained = [summary for member in members if (summary := outcome_of(run.member(member.name))) is not None]
    summary = _conclude(run, members, trained, finish.outcome)
    if finish.failures:
        raise TrainingError(f"{run.path}: {finish.told}; go on with: flashtrader train --resume {run.path}")
    return summary


def _chains(members: Sequence[Member], *, linked: bool) -> list[tuple[Member, ...]]:
    """Return the members in groups that are trained one after the other."""
    if not linked:
        return [(member,) for member in members]
    seeds = dict.fromkeys(member.seed for member in members)
    return [tuple(member for member in members if member.seed == seed) for seed in seeds]


def _train_chain(run: Run, chain: Sequence[Member], data_dir: Path, watch: Watcher) -> None:
    for member in chain:
        if _train_member(run, member, chain, data_dir, watch).stopped not in FINISHED:
            return


def _train_member(
    run: Run, member: Member, members: Sequence[Member], data_dir: Path, watch: Watcher
) -> TrainingSummary:
    """Train one of a run's members, or go on with it; what it has before its first checkpoint is made again.

    With warm starts it begins as the best weights of the fold before, which are to be there.
    """
    own, experiment = run.member(member.name), member.experiment
    done = team().from_writer(lambda: finished(own, experiment))
    if done is not None:
        return done
    with alone(own):
        if team().from_writer(lambda: has_checkpoint(own.checkpoints)):
            return resume_one(experiment, data_dir, own, watch)
        earlier = before(member, members) if run.experiment.warm_starts else None
        begins_as = run.member(earlier.name) if earlier else None
        return train_one(experiment, data_dir, partial(begin_anew, own, experiment), watch, begins_as)


def _conclude(
    run: Run, members: Sequence[Member], summaries: Sequence[TrainingSummary], stopped: str
) -> TrainingSummary:
    """Return what came of the members so far, once it is in the run's manifest."""
    summary = summarise(run, summaries, build_skill(run.experiment).name, stopped=stopped)
    update_manifest(run, lambda: describe_members(run, members) | describe_outcome(summary))
    return summary


def _place(member: Member, members: Sequence[Member]) -> Metrics:
    """Return what the metrics of a member say of which it is."""
    number = members.index(member) + 1
    folds = {"fold": member.fold, "folds": members[-1].fold}
    return {"member": number, "members": len(members), **folds, "seed": member.seed}


def _watch_member(watch: Watcher, place: Metrics, metrics: Metrics) -> None:
    watch(metrics | place)
