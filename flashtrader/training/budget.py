"""What a training would cost, before it begins."""

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from flashtrader.attention import Choice, choose
from flashtrader.config import Experiment
from flashtrader.models.blocks import hidden_width
from flashtrader.models.families import ReturnsModel, build_model, unit_scaler
from flashtrader.models.precision import autocast, compute_dtype, device_of, pick_device
from flashtrader.panel.features import expand_features
from flashtrader.training.objectives import OBJECTIVES
from flashtrader.training.optim import build_optimiser

_TIMED_STEPS = 3
# Weight, gradient and AdamW's two moments.
_FLOATS_PER_PARAMETER = 4
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Budget:
    """Cost of one training on this machine. Memory is that of the tensors; interpreter and panel come on top."""

    parameters: int
    tokens_per_step: int
    labels_per_step: int
    attention: str
    steps: int
    peak_bytes: int
    step_seconds: float

    @property
    def total_seconds(self) -> float:
        """All steps, evaluations aside."""
        return self.steps * self.step_seconds

    def as_dict(self) -> dict[str, Any]:
        """Return the fields and the total, for JSON."""
        return asdict(self) | {"total_seconds": self.total_seconds}


def estimate(experiment: Experiment) -> Budget:
    """Return what training would cost: memory by formula, time by a few steps on made-up bars of the same shape."""
    training = experiment.training
    features = len(expand_features(experiment.panel.features))
    assets = len(experiment.data.symbols)
    model = build_model(experiment, features, unit_scaler(assets, features)).to(pick_device(training))
    shape = model.decoder.shape
    tokens = training.batch_size * training.segment_bars * shape.entities
    labelled_bars = training.batch_size * training.accumulate * (training.segment_bars - experiment.warmup_bars)
    return Budget(
        parameters=sum(weight.numel() for weight in model.parameters()),
        tokens_per_step=tokens * training.accumulate,
        labels_per_step=labelled_bars * assets,
        attention=choose_attention(experiment, model).backend,
        steps=training.max_steps,
        peak_bytes=_peak_bytes(model, tokens),
        step_seconds=_step_seconds(experiment, model, features),
    )


def choose_attention(experiment: Experiment, model: ReturnsModel) -> Choice:
    """Return the backend that the training's own call gets on the model's device, and why the others are passed over.

    Raises BackendError when the one that the experiment names can't run it.
    """
    shape, device = model.decoder.shape, device_of(model)
    size = (1, experiment.training.segment_bars * shape.entities, shape.heads, shape.width // shape.heads)
    q_BNHD = torch.empty(size, dtype=compute_dtype(experiment.training, device), device=device)
    return choose(q_BNHD, q_BNHD, model.decoder.pattern, shape.backend)


def _peak_bytes(model: ReturnsModel, tokens: int) -> int:
    """Return parameters with their optimiser state, and what the forward pass keeps for the backward.

    Each block keeps per token: two norms, the residual twice, q, k and v before and after rotation, the attention's
    output (10 widths), and SwiGLU's gate and value, its activation and product (4 hidden widths).
    """
    shape = model.decoder.shape
    kept_floats = shape.layers * (10 * shape.width + 4 * hidden_width(shape.width)) * tokens
    parameters = sum(weight.numel() for weight in model.parameters())
    return _FLOAT_BYTES * (_FLOATS_PER_PARAMETER * parameters + kept_floats)


def _step_seconds(experiment: Experiment, model: ReturnsModel, features: int) -> float:
    """Return the median time of a step, after one that warms up."""
    training, assets = experiment.training, len(experiment.data.symbols)
    device = pick_device(training)
    generator = torch.Generator().manual_seed(training.seed)
    size = (training.batch_size, training.segment_bars, assets)
    values = torch.randn(*size, features, generator=generator).to(device)
    targets = torch.randn(*size, generator=generator).to(device)
    mask = torch.ones(size, dtype=torch.bool, device=device)
    optimiser = build_optimiser(model, training)
    objective = OBJECTIVES[training.loss]
    times = []
    for _ in range(1 + _TIMED_STEPS):
        began = time.perf_counter()
        for _ in range(training.accumulate):
            with autocast(training, device):
                outputs = model(values, mask)
            loss = objective(outputs.float(), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            loss.item()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:]))
