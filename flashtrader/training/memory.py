"""The memory that training steps need, the memory there is, and what to lower where the one exceeds the other."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from flashtrader.config import Experiment
from flashtrader.errors import TrainingError, is_out_of_memory
from flashtrader.models.model import GridModel
from flashtrader.models.precision import device_of
from flashtrader.training.budget import step_peak_bytes

_log = logging.getLogger(__name__)

_GROUPS = Path("/sys/fs/cgroup")


@contextmanager
def enough_memory_for(experiment: Experiment, model: GridModel, where: Path) -> Iterator[None]:
    """Warn before the training steps within when they are estimated to need more memory than there is.

    Raises TrainingError, naming the run `where` and what to lower, when it does run out.
    """
    free = free_bytes(device_of(model))
    needed = step_peak_bytes(experiment, model)
    if free is not None and needed is not None and needed > free:
        _log.warning("%s: %s", where, describe_need(experiment, model, free))
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
