"""Attacks on what a run was trained on: nothing of a later part may have a part in it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashtrader.config import Experiment
from flashtrader.market.spans import iso_time
from flashtrader.models.weights import load_tensors
from flashtrader.panel.splits import Boundaries, Rows
from flashtrader.training.data import LabelledPanel, label, prepare
from flashtrader.training.loop import train_model
from flashtrader.training.manifest import with_bars_of
from flashtrader.verification.checks import Check, Subject
from flashtrader.verification.histories import Tables, store_tables, stored_tables, with_other_future

Arrays = Mapping[str, NDArray[Any]]

_NEWEST_SEGMENTS = 16
_STEPS = 2


def training_noise(subject: Subject) -> Iterator[Check]:
    """Replace every bar of the parts after one that is trained on; what training gets of it must stay, bit for bit."""
    experiment = with_bars_of(subject.run, subject.experiment)
    boundaries = Boundaries.read(subject.run.manifest.get("split"))
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
            name=f"future noise: {name}",
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
        name="future noise: trained weights",
        tried=(
            f"replaced every bar from {iso_time(test_start_ms)} on, where the test begins; trained {_STEPS} steps on "
            "each history, and compared weights, losses and plain models, bit for bit"
        ),
        outcome="failed" if changed else "passed",
        reason=f"{', '.join(changed)} changed" if changed else "",
        figures={"steps": _STEPS},
    )


def _replaced_from(tables: Tables, start_ms: int) -> Tables:
    """Return the history with other rows from a time on, none dropped: a split by fractions stays where it is."""
    return with_other_future(tables, start_ms - 1, np.random.default_rng(2), dropped=0.0)


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


def _trained(subject: Subject, experiment: Experiment, data_dir: Path) -> Arrays:
    """Return what a short training ends with."""
    # On a CPU, for there the same training ends at the same bits.
    changes = {"max_steps": _STEPS, "evaluate_every": _STEPS, "batch_size": 2, "device": "cpu"}
    training = experiment.training.model_copy(update=changes)
    shorter = experiment.model_copy(update={"training": training})
    run = train_model(shorter, data_dir, subject.directory("runs"), lambda _: None).run
    paths = {"best weights": run.checkpoints / "best.safetensors"}
    paths |= {f"plain model {family}": run.plain_model(family) for family in shorter.plain_models}
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
