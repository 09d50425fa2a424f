"""The memory that training steps need, the memory there is, and what to lower where the one exceeds the other."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from flashtrader.attention import AttentionPattern, Choice
from flashtrader.attention.cost import AttentionCost, AttentionShape, attention_cost
from flashtrader.config import Experiment
from flashtrader.errors import TrainingError, is_out_of_memory
from flashtrader.models.blocks import ACROSS, hidden_width
from flashtrader.models.families import build_model
from flashtrader.models.model import GridModel
from flashtrader.models.precision import compute_dtype, device_of, pick_device
from flashtrader.panel.scaling import Scaler
from flashtrader.training.distributed import team

_log = logging.getLogger(__name__)

_HOPELESS = 3
"""Times the free memory. The formula is within a tenth; swap, and what others give back meanwhile, can double it."""
_FLOAT_BYTES = 4
_PARAMETER_BYTES = 4 * _FLOAT_BYTES
"""With its gradient and AdamW's two moments."""
_GROUPS = Path("/sys/fs/cgroup")


def built_within_memory(experiment: Experiment, scaler: Scaler) -> GridModel:
    """Return a new model of the experiment, on its device.

    Raises TrainingError, naming what to lower, where its weights alone are more than there is memory for in training.
    """
    with torch.device("meta"):  # without memory
        described = build_model(experiment, scaler)
    parameters = sum(weight.numel() for weight in described.parameters())
    device = pick_device(experiment.training)
    free, needed = _room(device), parameters * _PARAMETER_BYTES
    model, room = experiment.model, "" if free is None else f", and {_gib(free)} were free"
    too_large = (
        f"model.width {model.width} and model.layers {model.layers} make {parameters:,} parameters, whose training "
        f"needs {_gib(needed)} for them alone{room}; lower one of them"
    )
    if free is not None and needed > _HOPELESS * free:
        raise TrainingError(too_large)
    with explained(lambda: f"out of memory: {too_large}"):
        return build_model(experiment, scaler).to(device)


@contextmanager
def enough_memory_for(experiment: Experiment, model: GridModel, where: Path | str) -> Iterator[None]:
    """Warn before the training steps within when they are estimated to need more memory than there is.

    Raises TrainingError, naming the run `where` and what to lower, when it does run out; at once for an estimate that
    is many times what there is, where the system would not refuse the memory but end the process.
    """
    free = _room(device_of(model))
    needed = step_peak_bytes(experiment, model)
    if free is not None and needed is not None and needed > free:
        told = f"{where}: {describe_need(experiment, model, free)}"
        if needed > _HOPELESS * free:
            raise TrainingError(told)
        _log.warning("%s", told)
    with explained(lambda: f"{where}: out of memory: {describe_need(experiment, model, free)}"):
        yield


@contextmanager
def explained(message: Callable[[], str]) -> Iterator[None]:
    """Raise TrainingError with that message where memory runs out within."""
    try:
        yield
        return
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    # Out of the clause above, where the error and the tensors of the frames that it passed through are gone.
    raise TrainingError(message())


def describe_need(experiment: Experiment, model: GridModel, free: int | None) -> str:
    """Return in words what a step needs, what was free, and the first smaller step that would fit into it."""
    training, needed = experiment.training, step_peak_bytes(experiment, model)
    asked = f"training.batch_size {training.batch_size} and training.segment_bars {training.segment_bars}"
    room = "" if free is None else f", and {_gib(free)} were free"
    if needed is None:
        return f"a step of {asked} needs more than there is{room}; lower one of them"
    need = f"a step of {asked} needs about {_gib(needed)}{room}"
    for changes in _smaller_steps(experiment):
        smaller = experiment.model_copy(update={"training": training.model_copy(update=changes)})
        less = step_peak_bytes(smaller, model)
        if less is not None and less < needed and (free is None or less < free):
            words = " and ".join(f"training.{key}={value}" for key, value in changes.items())
            return f"{need}; with {words} it would need about {_gib(less)}"
    return f"{need}; lower model.width, model.layers or model.context_bars"


def _smaller_steps(experiment: Experiment) -> Iterator[dict[str, int]]:
    """Yield half the batch, twice accumulated, and so on down to one segment; then shorter segments."""
    training = experiment.training
    batch, accumulate = training.batch_size, training.accumulate
    while batch > 1:
        batch, accumulate = batch // 2, accumulate * 2
        yield {"batch_size": batch, "accumulate": accumulate}
    bars = training.segment_bars // 2
    while bars > 2 * max(training.warmup_bars or 0, 8):
        yield {"batch_size": batch, "accumulate": accumulate, "segment_bars": bars}
        bars //= 2


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


def _room(device: torch.device) -> int | None:
    """Return the memory for a step, of which each process of a team makes a share. Where they share it, it is less."""
    free = free_bytes(device)
    return None if free is None else free * team().size


def free_bytes(device: torch.device) -> int | None:
    """Return the memory that can still be allocated, where the system tells.

    Of a CPU on Linux: what the machine, the container and `ulimit -v` leave. Of a GPU: also what PyTorch holds unused.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    left = [proc_bytes("meminfo", "MemAvailable"), _left_in_container(), _left_to_process()]
    return min((room for room in left if room is not None), default=None)


def proc_bytes(file: str, field: str) -> int | None:
    """Return a figure in kB of one of Linux's files in /proc, in bytes; None elsewhere, and where it is no number."""
    try:
        lines = Path("/proc", file).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    words = next((line.split()[1:] for line in lines if line.startswith(f"{field}:")), [])
    return int(words[0]) * 1024 if words else None


def _left_in_container() -> int | None:
    """Return what a control group, version 2, leaves; what it holds of files can be given back."""
    try:
        group = Path("/proc/self/cgroup").read_text(encoding="utf-8").strip().rpartition("::/")[2]
        limit = (_GROUPS / group / "memory.max").read_text(encoding="utf-8").strip()
        held = dict(line.split() for line in (_GROUPS / group / "memory.stat").read_text(encoding="utf-8").splitlines())
    except OSError:
        return None
    return None if limit == "max" else int(limit) - int(held["anon"])


def _left_to_process() -> int | None:
    """Return what the process may still map: `ulimit -v`."""
    mapped = proc_bytes("self/status", "VmSize")
    if mapped is None:
        return None
    from resource import RLIM_INFINITY, RLIMIT_AS, getrlimit  # which Windows has not

    limit = getrlimit(RLIMIT_AS)[0]
    return None if limit == RLIM_INFINITY else limit - mapped


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes >= 2**30 // 10 else f"{num_bytes / 2**20:,.1f} MiB"
