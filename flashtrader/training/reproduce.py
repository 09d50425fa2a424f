"""A run made again from its manifest alone, and what stands in the way of the same bits."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flashtrader.config import Experiment
from flashtrader.launch import num_processes
from flashtrader.manifest import Fingerprint, Machine, Manifest, read_manifest
from flashtrader.models.precision import pick_device
from flashtrader.panel.loading import fingerprints, load_tables
from flashtrader.training.loop import train_model
from flashtrader.training.manifest import describe_machine, describe_outcome, on_period_of
from flashtrader.training.stopping import FINISHED
from flashtrader.training.summary import TrainingSummary
from flashtrader.training.tracking import Watcher


@dataclass(frozen=True)
class Reproduction:
    """What is to be trained again, and what is no longer as it was."""

    origin: Path
    """The manifest's file."""
    manifest: Manifest
    experiment: Experiment
    """That of the manifest, on the period of the bars that its run saw."""
    changed_data: tuple[str, ...]
    """A phrase for each symbol whose stored bars are not those that the run saw."""
    changed_machine: tuple[str, ...]
    """A phrase for whatever else can change the bits."""

    def train(self, data_dir: Path, runs_dir: Path, watch: Watcher) -> TrainingSummary:
        """Train in a new run directory, with as many threads as then, where the machine has as many cores.

        Raises what `train_model` raises.
        """
        threads = torch.get_num_threads()
        if self.manifest.threads <= _cores():
            torch.set_num_threads(self.manifest.threads)
        try:
            return train_model(self.experiment, data_dir, runs_dir, watch)
        finally:
            torch.set_num_threads(threads)

    @property
    def has_weights(self) -> bool:
        """Whether the manifest tells what came of a whole training, so that there is something to compare with."""
        return self.manifest.training is not None and self.manifest.training.stopped in FINISHED

    def differing_weights(self, summary: TrainingSummary) -> list[str]:
        """Return the files, within the run, of the models that are not bit for bit those of the manifest."""
        then, now = self.manifest.weights, describe_outcome(summary)["weights"]
        return sorted(file for file in then.keys() | now.keys() if then.get(file) != now.get(file))


def plan_reproduction(origin: Path, data_dir: Path) -> Reproduction:
    """Return how to make the run of a manifest again from the stored bars.

    Raises DataError for a file that is no manifest, and where bars are missing.
    """
    manifest = read_manifest(origin)
    experiment = on_period_of(manifest, manifest.experiment)
    if manifest.was_on_cpu and pick_device(experiment.training).type != "cpu":
        training = experiment.training.model_copy(update={"device": "cpu"})
        experiment = experiment.model_copy(update={"training": training})
    stored = fingerprints(load_tables(experiment, data_dir))
    machine = Machine.model_validate(describe_machine(experiment, pick_device(experiment.training)))
    return Reproduction(
        origin, manifest, experiment, _data_changes(manifest, stored), _machine_changes(manifest, machine)
    )


def _data_changes(manifest: Manifest, stored: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    changes = {
        symbol: then.changed_to(Fingerprint.model_validate(stored[symbol]) if symbol in stored else None)
        for symbol, then in manifest.data.items()
    }
    return tuple(f"{symbol}: {change}" for symbol, change in changes.items() if change)


def _machine_changes(manifest: Manifest, machine: Machine) -> tuple[str, ...]:
    here = machine.parts
    changes = [
        f"{name}: {then} then, {here.get(name, 'none')} now"
        for name, then in manifest.parts.items()
        if here.get(name) != then
    ]
    if manifest.threads > _cores():
        changes.append(f"threads: {manifest.threads} then, {_cores()} cores now")
    if manifest.processes != num_processes():
        changes.append(
            f"processes: {manifest.processes} then, {num_processes()} now, and sums round otherwise in other orders"
        )
    if not manifest.was_on_cpu:
        changes.append(f"device: {manifest.device} does not add up in the same order twice")
    if manifest.begins_as is not None:
        changes.append(f"beginning: the weights of {manifest.begins_as} then, new ones now; make the whole run again")
    training = manifest.experiment.training
    changes += [
        f"length: until step {part.after_step} the run was to have {part.max_steps} steps, and in one go the learning "
        "rate takes another course"
        for part in manifest.resumed
        if (part.max_steps, part.patience) != (training.max_steps, training.patience)
    ]
    return tuple(changes)


def _cores() -> int:
    return os.cpu_count() or 1
