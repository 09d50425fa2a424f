"""What a training would cost, before it begins."""

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from flashtrader.config import Experiment
from flashtrader.models.model import GridModel, unit_scaler
from flashtrader.models.precision import autocast, device_of
from flashtrader.panel.loading import panel_shape
from flashtrader.training.memory import built_within_memory, choose_attention, enough_memory_for, step_peak_bytes
from flashtrader.training.objectives import build_objective
from flashtrader.training.optim import build_optimiser

_TIMED_STEPS = 3


@dataclass(frozen=True)
class Budget:
    """Cost of a training on this machine. Memory is that of the tensors; interpreter and panel come on top."""

    parameters: int
    tokens_per_step: int
    labels_per_step: int
    attention: str
    steps: int
    """Of each model."""
    models: int
    """One after the other."""
    peak_bytes: int | None
    """None for backbone hf, whose layers are not ours to account for."""
    step_seconds: float

    @property
    def total_seconds(self) -> float:
        """All steps of all models, evaluations aside."""
        return self.models * self.steps * self.step_seconds

    def as_dict(self) -> dict[str, Any]:
        """Return the fields and the total, for JSON."""
        return asdict(self) | {"total_seconds": self.total_seconds}


def estimate(experiment: Experiment, models: int = 1) -> Budget:
    """Return what training so many models would cost, of folds and seeds.

    Memory by formula, time by a few steps on made-up bars of the same shape. Raises TrainingError, which tells of the
    memory, where these don't fit.
    """
    training = experiment.training
    model = untrained_model(experiment)
    shape = model.decoder.shape
    tokens = training.batch_size * training.segment_bars * shape.entities
    with enough_memory_for(experiment, model, "--dry-run"):
        step_seconds = _step_seconds(Rehearsal(experiment, model))
    labelled_bars = training.batch_size * training.accumulate * (training.segment_bars - experiment.unlabelled_bars)
    return Budget(
        parameters=sum(weight.numel() for weight in model.parameters()),
        tokens_per_step=tokens * training.accumulate,
        labels_per_step=labelled_bars * model.standardiser.shape.targets,
        attention=choose_attention(experiment, model).backend,
        steps=training.max_steps,
        models=models,
        peak_bytes=step_peak_bytes(experiment, model),
        step_seconds=step_seconds,
    )


class Rehearsal:
    """Training steps on made-up bars, of the shape, dtype and labels that the experiment's own would have.

    One call is one optimiser step, all but drawing the segments.
    """

    def __init__(self, experiment: Experiment, model: GridModel) -> None:
        training, device = experiment.training, device_of(model)
        generator = torch.Generator().manual_seed(training.seed)
        shape = model.standardiser.shape
        bars = (training.batch_size, training.segment_bars)
        self.training, self.model = training, model.train()
        self.optimiser = build_optimiser(model, training)
        self.objective = build_objective(experiment)
        self.values = torch.randn(*bars, shape.entities, shape.features, generator=generator).to(device)
        self.mask = torch.ones(*bars, shape.entities, dtype=torch.bool, device=device)
        # Directions: every objective takes them, and the one that learns classes takes nothing else.
        self.targets = torch.randint(-1, 2, (*bars, shape.targets), generator=generator).to(device, torch.float32)
        self.targets[:, : experiment.unlabelled_bars] = torch.nan

    def __call__(self) -> None:
        """Make one step, and wait for its end."""
        for _ in range(self.training.accumulate):
            with autocast(self.training, self.values.device):
                outputs = self.model(self.values, self.mask)
            loss = self.objective(outputs.float(), self.model.standardise(self.targets)) / self.training.accumulate
            loss.backward()  # type: ignore[no-untyped-call]
            loss.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.training.clip_norm).item()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)


def rehearse(experiment: Experiment) -> Rehearsal:
    """Return steps of a new model of the experiment."""
    return Rehearsal(experiment, untrained_model(experiment))


def untrained_model(experiment: Experiment) -> GridModel:
    """Return the experiment's model on its device, before any data are known."""
    return built_within_memory(experiment, unit_scaler(panel_shape(experiment)))


def _step_seconds(step: Rehearsal) -> float:
    """Return the median time of a step, after one that warms up."""
    times = []
    for _ in range(1 + _TIMED_STEPS):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:]))
