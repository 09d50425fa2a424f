"""The members of a run trained at once, by as many processes as there is room for; one writes the run's manifest."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from flashtrader.run import Run
from flashtrader.training.spread import Finish, Spread, spread
from flashtrader.training.stopping import FINISHED
from flashtrader.training.summary import TrainingSummary
from flashtrader.training.tracking import Metrics, Watcher
from flashtrader.training.walk_forward import Member, describe_members

TrainMember = Callable[[Run, Member, Run | None, Path, Watcher], TrainingSummary]
"""Trains a member, or goes on with it, in the run directory given; from the best weights of the other, if given."""


def place_of_member(member: Member, members: Sequence[Member]) -> Metrics:
    """Return what the metrics of a member say of which it is."""
    number = members.index(member) + 1
    folds = {"fold": member.fold, "folds": members[-1].fold}
    return {"member": number, "members": len(members), **folds, "seed": member.seed}


def spread_members(
    run: Run, members: Sequence[Member], data_dir: Path, train: TrainMember, watch: Watcher, over: Spread
) -> Finish:
    """Train every member that is not trained yet, those that don't need each other at once.

    With warm starts the folds of a seed need each other, and are one task. Failures are by the name of a task's first
    member.
    """
    chains = _chains(members, linked=run.experiment.warm_starts)
    tasks = {chain[0].name: partial(_train_chain, run, chain, data_dir, train) for chain in chains}
    follows = [Follow(run.member(member.name), place_of_member(member, members), watch) for member in members]
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

    return spread(tasks, over, look)


def _chains(members: Sequence[Member], *, linked: bool) -> list[tuple[Member, ...]]:
    """Return the members in groups that are trained one after the other."""
    if not linked:
        return [(member,) for member in members]
    seeds = dict.fromkeys(member.seed for member in members)
    return [tuple(member for member in members if member.seed == seed) for seed in seeds]


def _train_chain(run: Run, chain: Sequence[Member], data_dir: Path, train: TrainMember, watch: Watcher) -> None:
    """Train one member after the other, each from the best weights of the one before."""
    earlier: Run | None = None
    for member in chain:
        own = run.member(member.name)
        if train(own, member, earlier, data_dir, watch).stopped not in FINISHED:
            return
        earlier = own


class Follow:
    """Passes on the metrics that a training elsewhere writes, from its newest step at the beginning on."""

    def __init__(self, run: Run, place: Metrics, watch: Watcher) -> None:
        self._path, self._place, self._watch = run.metrics, place, watch
        self._step = max((row["step"] for row in run.read_metrics()), default=0)
        self._position = 0

    def __call__(self) -> None:
        """Pass on what is new: whole lines alone."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as lines:
            lines.seek(min(self._position, self._path.stat().st_size))
            self._position = lines.tell()
            text = lines.read()
        whole = text[: text.rfind(b"\n") + 1]
        try:
            rows = [json.loads(line) for line in whole.splitlines()]
        except ValueError:  # within a line: a training that went on has written the file anew
            self._position = 0
            return
        self._position += len(whole)
        for metrics in rows:
            if metrics["step"] > self._step:
                self._step = metrics["step"]
                self._watch(metrics | self._place)
