"""A run of several models, one for each walk-forward fold and seed: what each is trained as, and how far it is.

Each *member* is a run of its own in the run's members/, with the dates and the seed that make it: trained alone from
its config.yaml, it would be the same, but for a warm start. It reads no bar after its fold's test part.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from flashtrader.config import Experiment, SplitConfig
from flashtrader.errors import ConfigError, TrainingError
from flashtrader.panel.loading import load_panel
from flashtrader.panel.panel import Panel
from flashtrader.panel.splits import Split, split_by_time, split_into_folds
from flashtrader.run import Run
from flashtrader.training.stopping import FINISHED
from flashtrader.training.summary import SeedSpread, TrainingSummary


@dataclass(frozen=True)
class Member:
    """One of a run's models. `fold` counts from 1."""

    name: str
    fold: int
    seed: int
    experiment: Experiment
    split: Split
    """Of the whole panel's rows; the member's own panel ends where its test part does."""


@dataclass(frozen=True)
class Fold:
    """Trained models, one of each seed, and since when they are the newest that a bar may be forecast with."""

    test_start_ms: int
    members: tuple[Run, ...]


def plan_members(experiment: Experiment, panel: Panel) -> list[Member]:
    """Return what is trained, in order: each fold, and in it each seed. Raises ConfigError for too short a history."""
    divided_by = (panel, experiment.split, experiment.reach_bars)
    splits = split_into_folds(*divided_by) if experiment.split.walk_forward else [split_by_time(*divided_by)]
    return [
        _member(experiment, panel, split, fold, seed)
        for fold, split in enumerate(splits, start=1)
        for seed in _seeds(experiment)
    ]


def num_members(experiment: Experiment, data_dir: Path) -> int:
    """Return how many models are trained. Of folds, that depends on the stored bars; raises as `plan_members`."""
    if experiment.split.walk_forward is None:
        return len(_seeds(experiment))
    return len(plan_members(experiment, load_panel(experiment, data_dir).panel))


def _member(experiment: Experiment, panel: Panel, split: Split, fold: int, seed: int) -> Member:
    walks, first = experiment.split.walk_forward is not None, seed == _seeds(experiment)[0]
    parts = (f"fold-{fold:02}" if walks else "", "" if experiment.plain_family else f"seed-{seed}")
    name = "-".join(filter(None, parts))
    bounds = split.boundaries
    period = {"start": _time(int(panel.timestamps[0])), "end": _time(bounds.end_ms)}
    dates = SplitConfig(
        train=_time(bounds.train_start_ms),
        validation=_time(bounds.validation_start_ms),
        test=_time(bounds.test_start_ms),
        embargo_bars=bounds.embargo_bars,
    )
    # Plain models have no seed: they stand beside the fold's first member.
    training = {"seed": seed, "seeds": ()} | ({} if first else {"plain_models": ()})
    alone = experiment.model_copy(
        update={
            "name": f"{experiment.name}-{name}",
            "data": experiment.data.model_copy(update=period),
            "split": dates,
            "training": experiment.training.model_copy(update=training),
        }
    )
    return Member(name, fold, seed, alone, split)


def _seeds(experiment: Experiment) -> tuple[int, ...]:
    training = experiment.training
    return training.seeds if training.seeds and experiment.plain_family is None else (training.seed,)


def _time(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC)


def before(member: Member, members: Sequence[Member]) -> Member | None:
    """Return the member of the fold before, of the same seed."""
    return next((other for other in members if (other.fold, other.seed) == (member.fold - 1, member.seed)), None)


def finished(run: Run, experiment: Experiment) -> TrainingSummary | None:
    """Return what came of a member, if it was trained to its end by this very experiment."""
    outcome = outcome_of(run)
    if outcome is None or outcome.stopped not in FINISHED or run.experiment != experiment:
        return None
    return outcome


def describe_members(run: Run, members: Sequence[Member]) -> dict[str, Any]:
    """Return what the run's manifest says of its folds, and of the members so far.

    That is each of them, the spread over the seeds, and the mean over the folds of the plain models beside them.
    """
    described = []
    plain: dict[str, list[dict[str, Any]]] = {}
    for member in members:
        own = run.member(member.name)
        outcome = outcome_of(own)
        progress = {name: value for name, value in vars(outcome).items() if name != "run"} if outcome else {}
        status = progress.pop("stopped", "waiting")
        described.append({"name": member.name, "fold": member.fold, "seed": member.seed, "status": status} | progress)
        for family, score in (own.manifest.get("plain_models", {}) if outcome else {}).items():
            plain.setdefault(family, []).append(score)
    folds = {member.fold: member.split.boundaries.model_dump() for member in members}
    means = {
        family: {name: _mean([score[name] for score in scores]) for name in scores[0]}
        for family, scores in plain.items()
    }
    return {
        "folds": list(folds.values()),
        "members": described,
        "spread": {
            figure: asdict(_spread_over_seeds([member for member in described if figure in member], figure))
            for figure in ("validation_loss", "validation_skill")
            if len(_seeds_of(described)) > 1
        },
    } | ({"plain_models": means} if means else {})


def _spread_over_seeds(trained: Sequence[dict[str, Any]], figure: str) -> SeedSpread:
    """Return how a figure of the members, averaged over the folds, differs from seed to seed."""
    return SeedSpread.of(
        [_mean([member[figure] for member in trained if member["seed"] == seed]) for seed in _seeds_of(trained)]
    )


def _seeds_of(described: Sequence[dict[str, Any]]) -> list[int]:
    return sorted({member["seed"] for member in described if "steps" in member})


def summarise(run: Run, summaries: Sequence[TrainingSummary], skill: str, *, stopped: str) -> TrainingSummary:
    """Return what came of the members so far: steps and seconds are sums, the best step, loss and skill means."""
    return TrainingSummary(
        run=run,
        steps=sum(summary.steps for summary in summaries),
        best_step=round(_mean([summary.best_step for summary in summaries])) if summaries else 0,
        validation_loss=_mean([summary.validation_loss for summary in summaries]),
        skill=skill,
        validation_skill=_mean([summary.validation_skill for summary in summaries]),
        seconds=sum(summary.seconds for summary in summaries),
        stopped=stopped,
    )


def trained_folds(run: Run) -> tuple[Fold, ...]:
    """Return the folds of a run of several models, oldest first; any other run is a fold of itself.

    Raises TrainingError while a member is not trained to its end.
    """
    manifest = run.read_manifest()
    if not manifest.members:
        return (Fold(manifest.split.test_start_ms, (run,)),)
    waiting = [member.name for member in manifest.members if member.status not in FINISHED]
    if waiting:
        raise TrainingError(
            f"{run.path}: models not trained to their end yet: {len(waiting)} of {len(manifest.members)}, from "
            f"{waiting[0]} on; go on with: flashtrader train --resume {run.path}"
        )
    return tuple(
        Fold(
            boundaries.test_start_ms,
            tuple(run.member(member.name) for member in manifest.members if member.fold == fold),
        )
        for fold, boundaries in enumerate(manifest.folds, start=1)
    )


def refuse_members(run: Run) -> None:
    """Raise ConfigError if a run is of several models, where one is needed."""
    members = run.read_manifest().members
    if members:
        raise ConfigError(
            f"{run.path}: a run of {len(members)} models, where one is needed; give --run "
            f"{run.member(members[-1].name).path}, or another of them"
        )


def outcome_of(run: Run) -> TrainingSummary | None:
    """Return what a member's manifest says came of its training; None before its end."""
    recorded = run.read_manifest().training if run.has_begun else None
    if recorded is None:
        return None
    figures: dict[str, Any] = {name: math.nan if value is None else value for name, value in recorded}
    return TrainingSummary(run, **figures)


def _mean(figures: Sequence[float | None]) -> float:
    known = [figure for figure in figures if figure is not None and math.isfinite(figure)]
    return float(np.mean(known)) if known else math.nan
