"""Attacks on what a run was trained on: nothing of a later part may have a part in it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flashtrader.config import Experiment
from flashtrader.forecasting.forecast import forecast_run
from flashtrader.manifest import Boundaries
from flashtrader.market.spans import iso_time
from flashtrader.models.weights import load_tensors
from flashtrader.panel.splits import Rows
from flashtrader.run import Run
from flashtrader.training.data import LabelledPanel, label, prepare
from flashtrader.training.loop import train_model
from flashtrader.training.manifest import with_bars_of
from flashtrader.training.walk_forward import trained_folds
from flashtrader.verification.checks import Check, Subject
from flashtrader.verification.families import nature_of
from flashtrader.verification.histories import (
    Tables,
    between,
    clock_of,
    store_tables,
    stored_tables,
    with_other_future,
)

Arrays = Mapping[str, NDArray[Any]]

_NEWEST_SEGMENTS = 16
_STEPS = 2


def training_noise(subject: Subject) -> Iterator[Check]:
    """Replace every bar of the parts after one that is trained on; what training gets of it must stay, bit for bit.

    Of a run of several models the last fold's first is attacked, in full every one.
    """
    folds = trained_folds(subject.run)
    members = [member for fold in folds for member in fold.members] if subject.full else [folds[-1].members[0]]
    for member in members:
        of = f" of {member.name}" if member != subject.run else ""
        yield from _attack(subject, member, of)


def _attack(subject: Subject, run: Run, of: str) -> Iterator[Check]:
    experiment = with_bars_of(run, run.experiment)
    boundaries = run.read_manifest().split
    tables = stored_tables(experiment.data, subject.data_dir)
    stored = _stored(subject, experiment, tables)
    made = _labelled(experiment, stored)
    for part, name, start_ms in (
        ("train", "training rows", boundaries.validation_start_ms),
        ("validation", "validation rows", boundaries.test_start_ms),
    ):
        other = _labelled(experiment, _stored(subject, experiment, _replaced_from(tables, start_ms)))
        changed = _changed(_learned_from(made, part), _learned_from(other, part))
        void = not _changed({"": made.panel.targets}, {"": other.panel.targets})
        yield Check(
            name=f"future noise: {name}{of}",
            tried=(
                f"replaced every bar from {iso_time(start_ms)} on, where the next part begins; compared split, "
                f"scaler, features and targets of the {name}, bit for bit"
            ),
            outcome="failed" if changed or void else "passed",
            reason=f"{', '.join(changed)} changed" if changed else "no target changed at all: void" if void else "",
            figures={"rows": len(getattr(made.split, part))},
        )
    test_start_ms = boundaries.test_start_ms
    changed = _changed(
        _trained(subject, experiment, stored),
        _trained(subject, experiment, _stored(subject, experiment, _replaced_from(tables, test_start_ms))),
    )
    yield Check(
        name=f"future noise: trained weights{of}",
        tried=(
            f"replaced every bar from {iso_time(test_start_ms)} on, where the test begins; trained {_STEPS} steps on "
            "each history, and compared weights, losses and plain models, bit for bit"
        ),
        outcome="failed" if changed else "passed",
        reason=f"{', '.join(changed)} changed" if changed else "",
        figures={"steps": _STEPS},
    )


def walk_forward_noise(subject: Subject) -> Iterator[Check]:
    """Train folds on a history and on one with another future from within the first fold's test on.

    What was forecast before must stay: no bar may be forecast by a model that learned from later ones. So many folds
    are trained that the newest did learn from the bars that are replaced; else it would be the same on both histories,
    and could stand in for the first unnoticed.
    """
    name, tried = "future noise: walk-forward", "trained folds on two histories that part within the first's test"
    folds = subject.run.read_manifest().folds
    if len(folds) < 2:
        yield Check(name, tried, "skipped", "the run is no walk-forward of several folds")
        return
    if not nature_of(subject.experiment.plain_family).targets:
        yield Check(name, tried, "skipped", f"{subject.experiment.model.family} learns nothing, whatever fold it is of")
        return
    experiment = with_bars_of(subject.run, subject.experiment)
    tables = stored_tables(experiment.data, subject.data_dir)
    clock = clock_of(tables)
    first_row, second_row = np.searchsorted(clock, [fold.test_start_ms for fold in folds[:2]]).tolist()
    learned_rows = [_learned_row(fold, clock) for fold in folds]
    middle_row = (first_row + second_row) // 2
    newest = next((k for k, row in enumerate(learned_rows) if row > middle_row), len(folds) - 1)
    cut_row = (first_row + min(second_row, learned_rows[newest])) // 2
    if cut_row <= first_row:
        yield Check(name, tried, "skipped", "no fold learns from a bar that an earlier one forecasts")
        return
    end_ms = [*(fold.test_start_ms for fold in folds), folds[-1].end_ms][newest + 1]
    cut_ms = int(clock[cut_row])
    tables = between(tables, 0, end_ms - 1)
    before, after = (
        _short_forecasts(subject, experiment, _stored(subject, experiment, history))
        for history in (tables, _replaced_from(tables, cut_ms + 1))
    )
    until = pd.Timestamp(cut_ms, unit="ms", tz="UTC")
    changed = not before[:until].equals(after[:until])
    void = before[until:].equals(after[until:])
    yield Check(
        name=name,
        tried=f"{tried}, at {iso_time(cut_ms)}; compared the stitched forecasts before, bit for bit",
        outcome="failed" if changed or void else "passed",
        reason="forecasts before the cut changed" if changed else "no forecast after it changed: void" if void else "",
        figures={"folds": newest + 1, "rows": len(before[:until])},
    )


def _learned_row(fold: Boundaries, clock: NDArray[np.int64]) -> int:
    """Return the row of the clock after the last that a fold is trained on."""
    return int(np.searchsorted(clock, fold.validation_start_ms)) - fold.reach_bars - fold.embargo_bars


def _replaced_from(tables: Tables, start_ms: int) -> Tables:
    """Return the history with other rows from a time on, without holes: a split by fractions stays where it is."""
    return with_other_future(tables, start_ms - 1, np.random.default_rng(2), holes=False)


def _stored(subject: Subject, experiment: Experiment, tables: Tables) -> Path:
    data_dir = subject.directory("data")
    store_tables(experiment.data, tables, data_dir)
    return data_dir


def _labelled(experiment: Experiment, data_dir: Path) -> LabelledPanel:
    return label(experiment, data_dir) if experiment.plain_family is not None else prepare(experiment, data_dir)


def _learned_from(made: LabelledPanel, part: str) -> Arrays:
    """Return all that training may see up to the end of a part."""
    panel, split = made.panel, made.split
    rows: Rows = getattr(split, part)
    learned = {
        "the split": np.array([split.train.start, split.train.stop, rows.start, rows.stop]),
        "the scaler": np.concatenate([array.ravel() for array in vars(made.scaler).values()]),
        "features": panel.values[: rows.stop],
        "their mask": panel.mask[: rows.stop],
        "targets": panel.targets[rows.start : rows.stop],
    }
    segments = getattr(made, "segments", None)
    if segments is not None:
        batch = segments.batch(segments.starts[-_NEWEST_SEGMENTS:])
        learned |= {f"{name} of the newest segments": array for name, array in batch._asdict().items()}
    return learned


def _short_forecasts(subject: Subject, experiment: Experiment, data_dir: Path) -> pd.DataFrame:
    """Return the test forecasts of a short training, of one seed."""
    return forecast_run(_trained_run(subject, experiment, data_dir), data_dir).forecasts


def _trained_run(subject: Subject, experiment: Experiment, data_dir: Path) -> Run:
    # On a CPU, for there the same training ends at the same bits.
    changes = {"max_steps": _STEPS, "evaluate_every": _STEPS, "batch_size": 2, "device": "cpu", "seeds": ()}
    shorter = experiment.model_copy(update={"training": experiment.training.model_copy(update=changes)})
    return train_model(shorter, data_dir, subject.directory("runs"), lambda _: None).run


def _trained(subject: Subject, experiment: Experiment, data_dir: Path) -> Arrays:
    """Return what a short training ends with."""
    run = _trained_run(subject, experiment, data_dir)
    paths = {"best weights": run.checkpoints / "best.safetensors"}
    paths |= {f"plain model {family}": run.plain_model(family) for family in experiment.plain_models}
    found: dict[str, NDArray[Any]] = {}
    for name, path in paths.items():
        tensors, facts = load_tensors(path)
        found |= {f"{name}: {key}": tensor.numpy() for key, tensor in tensors.items()}
        found[f"{name}: facts"] = np.array([str(facts)])
    return found


def _changed(before: Arrays, after: Arrays) -> list[str]:
    """Return the names of arrays that are not the same, bit for bit."""
    return [
        name
        for name, array in before.items()
        if name not in after or array.shape != after[name].shape or array.tobytes() != after[name].tobytes()
    ]
