"""What a training would cost, before it begins."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from flashtrader.attention import AttentionPattern, Choice
from flashtrader.attention.cost import AttentionCost, AttentionShape, attention_cost
from flashtrader.config import Experiment
from flashtrader.models.blocks import ACROSS, hidden_width
from flashtrader.models.families import build_model
from flashtrader.models.model import GridModel, unit_scaler
from flashtrader.models.precision import autocast, compute_dtype, device_of, pick_device
from flashtrader.panel.loading import panel_shape
from flashtrader.training.objectives import build_objective
from flashtrader.training.optim import build_optimiser

_TIMED_STEPS = 3
_FLOAT_BYTES = 4


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

    Memory by formula, time by a few steps on made-up bars of the same shape.
    """
    training = experiment.training
    model = untrained_model(experiment)
    shape = model.decoder.shape
    tokens = training.batch_size * training.segment_bars * shape.entities
    labelled_bars = training.batch_size * training.accumulate * (training.segment_bars - experiment.unlabelled_bars)
    return Budget(
        parameters=sum(weight.numel() for weight in model.parameters()),
        tokens_per_step=tokens * training.accumulate,
        labels_per_step=labelled_bars * model.standardiser.shape.targets,
        attention=choose_attention(experiment, model).backend,
        steps=training.max_steps,
        models=models,
        peak_bytes=step_peak_bytes(experiment, model),
        step_seconds=_step_seconds(Rehearsal(experiment, model)),
    )


def choose_attention(experiment: Experiment, model: GridModel) -> Choice:
    """Return the backend that the training's own call gets on the model's device, and why the others are passed over.

    Raises BackendError when the one that the experiment names can't run it.
    """
    shape, device = model.decoder.shape, device_of(model)
    length = experiment.training.segment_bars * model.decoder.tokens_per_step
    size = (1, length, shape.heads, shape.width // shape.heads)
    q_BNHD = torch.empty(size, dtype=compute_dtype(experiment.training, device), device=device)
    return model.decoder.choose_attention(q_BNHD)


def step_peak_bytes(experiment: Experiment, model: GridModel) -> int | None:
    """Return the most bytes that one step's tensors take together, weights, AdamW's moments and the batch included.

    None for backbone hf.

    The peak comes as the backward pass begins. Then everything is there that the forward pass kept, and in the last
    block come first the feed-forward layer's gradients, then, its own activations gone, the attention's. What a block
    keeps for each token, as autograd has it:

    - RMSNorm, before each branch: its input, the inverse root, its output, and on a CPU, where it is not one kernel,
      its input scaled (it stays full precision under autocast, its output does not);
    - attention: `attention_cost`, and q and k before rotation, since v is a view of one tensor with them; factorised,
      once more across the entities, where nothing is rotated;
    - SwiGLU: gate and value, silu(gate), and the product, 4 hidden widths;
    - dropout: its factors, for each branch.
    """
    if experiment.model.backbone == "hf":
        return None
    training, shape, device = experiment.training, model.decoder.shape, device_of(model)
    dtype = compute_dtype(training, device)
    bars = training.batch_size * training.segment_bars
    tokens = bars * shape.entities
    full, low = tokens * _FLOAT_BYTES, tokens * dtype.itemsize  # a number for each token, in both precisions
    width, hidden = shape.width, hidden_width(shape.width)

    norm = (1 + width) * full + width * low + (width * full if device.type == "cpu" else 0)
    dropout = width * low if shape.dropout else 0
    block = norm + 4 * hidden * low + dropout  # of its branches, the last first: feed-forward
    gradients = [width * full + 2 * hidden * low - dropout]  # above all that is kept, as each branch goes backward
    for attention, rotated in _attentions_from_the_last(experiment, model):
        in_the_kernel = attention.training_peak_bytes - (attention.saved_bytes - 3 * width * low)
        gradients.append(width * full + width * low + in_the_kernel - block)
        block += norm + (2 * width * low if rotated else 0) + attention.saved_bytes + dropout

    entities, features, targets = model.standardiser.shape
    answers = targets * model.numbers_per_target
    batch = bars * (_FLOAT_BYTES * (entities * features + targets) + entities)  # one byte of the mask
    ends = bars * entities * (features + 1) * dtype.itemsize  # the tokeniser's input
    labelled_bars = training.batch_size * (training.segment_bars - experiment.unlabelled_bars)
    head = norm + _FLOAT_BYTES * (bars + labelled_bars) * (answers + targets)  # all, and those that count
    activations = batch + ends + shape.layers * block + max(head, *gradients)

    parameters = sum(weight.numel() for weight in model.parameters())
    weight_and_moments, weight_gradients = 3 * _FLOAT_BYTES * parameters, _FLOAT_BYTES * parameters
    if dtype != torch.float32:
        weight_and_moments += dtype.itemsize * parameters  # autocast keeps a copy of the weights
    if training.accumulate > 1:
        return weight_and_moments + weight_gradients + activations
    return weight_and_moments + max(activations, weight_gradients)  # gradients come as activations go


def _attentions_from_the_last(experiment: Experiment, model: GridModel) -> Iterator[tuple[AttentionCost, bool]]:
    """Yield the cost of each attention of a block, the last first, and whether it rotates its queries and keys."""
    training, decoder, shape, device = experiment.training, model.decoder, model.decoder.shape, device_of(model)
    dtype, head_dim = compute_dtype(training, device), shape.width // shape.heads

    def cost(batch: int, length: int, pattern: AttentionPattern) -> AttentionCost:
        call = AttentionShape(batch, length, length, shape.heads, head_dim, dtype)
        return attention_cost(choose_attention(experiment, model).backend, call, pattern, device.type)

    sequences, length = training.batch_size, training.segment_bars * shape.entities
    if shape.factorised:
        yield cost(sequences * training.segment_bars, shape.entities, ACROSS), False
        sequences, length = sequences * shape.entities, training.segment_bars
    yield cost(sequences, length, decoder.pattern), True


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
    return build_model(experiment, unit_scaler(panel_shape(experiment))).to(pick_device(experiment.training))


def _step_seconds(step: Rehearsal) -> float:
    """Return the median time of a step, after one that warms up."""
    times = []
    for _ in range(1 + _TIMED_STEPS):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:]))
