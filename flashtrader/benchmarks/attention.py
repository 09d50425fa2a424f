"""Time and memory of every attention backend, measured side by side, with what was predicted beside it.

One row is one backend, pattern, direction and length. Lengths grow, and a backend stops where its next call would take
longer than the limit by extrapolation (N², or N in a window) or more memory than is free; such a row says so instead
of a number.

`torch.nn.MultiheadAttention` is there as people write it: a causal mask, weights averaged over the heads returned. It
includes its projections, which are a part that grows with N alone.
"""

import gc
import itertools
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from matplotlib.figure import Figure
from torch import Tensor

from flashtrader.attention import BACKENDS, AttentionPattern, attend, unsupported
from flashtrader.attention.cost import AttentionShape, attention_cost
from flashtrader.errors import ConfigError
from flashtrader.files import replacing

Direction = Literal["forward", "backward", "training"]
"""Forward without gradients; backward alone; both."""
MULTIHEAD = "nn.MultiheadAttention"
REPEATS = 20
"""Timed calls of a row at most; fewer where they would take longer than the limit."""


@dataclass(frozen=True)
class Machine:
    """What the figures were measured on."""

    cpu: str
    cores: int
    threads: int
    device: str
    torch: str
    cuda: str | None
    python: str
    platform: str


@dataclass(frozen=True)
class Row:
    """One measurement, or the reason why there is none."""

    backend: str
    pattern: str
    direction: Direction
    length: int
    batch: int
    heads: int
    head_dim: int
    dtype: str
    milliseconds: float | None = None
    """Median of the repeats."""
    tflops_per_second: float | None = None
    """Useful operations, those of pairs that the pattern shows, over the time."""
    peak_bytes: int | None = None
    """Allocated above what was there before the call."""
    predicted_bytes: int | None = None
    speedup_over_naive: float | None = None
    no_number: str | None = None
    """Why there is no measurement: unsupported, not installed, out of memory, over the limit."""


@dataclass(frozen=True)
class AttentionBenchmark:
    """All rows of a run, and the machine."""

    machine: Machine
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the benchmark as plain values."""
        return asdict(self)

    def plot(self, directory: Path) -> list[Path]:
        """Write attention_time.png and attention_memory.png, log against log, and return their paths."""
        quantities: list[tuple[str, str, Callable[[Row], float | None]]] = [
            ("time", "milliseconds", lambda row: row.milliseconds),
            ("memory", "peak MB above the inputs", lambda row: row.peak_bytes / 1e6 if row.peak_bytes else None),
        ]
        return [
            _plot(self.rows, label, value, directory / f"attention_{name}.png", self.machine)
            for name, label, value in quantities
        ]


def bench_attention(
    lengths: Sequence[int] = (512, 1024, 2048, 4096, 8192),
    patterns: Sequence[AttentionPattern] = (AttentionPattern(), AttentionPattern(window_steps=512)),
    backends: Sequence[str] = ("naive", "tiled", "sdpa", MULTIHEAD),
    directions: Sequence[Direction] = ("forward", "training"),
    *,
    seconds: float = 5.0,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    batch: int = 1,
    heads: int = 8,
    head_dim: int = 64,
    on_row: Callable[[Row], None] | None = None,
) -> AttentionBenchmark:
    """Measure attention over as many keys as queries.

    lengths: in time steps; a pattern with entities has that many tokens each. seconds: limit of one row, warm-up aside.
    on_row: is told each row as it is done. Raises ConfigError for an unknown backend or direction.
    """
    for backend in backends:
        if backend not in (*BACKENDS, MULTIHEAD):
            raise ConfigError(f"attention backend {backend!r} is unknown; all: {', '.join((*BACKENDS, MULTIHEAD))}")
    for direction in directions:
        if direction not in get_args(Direction):
            raise ConfigError(f"direction {direction!r} is unknown; all: {', '.join(get_args(Direction))}")
    rows: list[Row] = []
    with _Memory(torch.device(device)) as memory:
        for pattern, direction in itertools.product(patterns, directions):
            naive_milliseconds: dict[int, float | None] = {}
            for backend in sorted(backends, key=lambda name: name != "naive"):
                shorter: Row | None = None
                for steps in sorted(lengths):
                    length = steps * pattern.entities_per_step
                    shape = AttentionShape(batch, length, length, heads, head_dim, dtype)
                    row = _measure(backend, shape, pattern, direction, memory, seconds, shorter)
                    if backend == "naive":
                        naive_milliseconds[length] = row.milliseconds
                    if row.milliseconds is not None:
                        shorter = row
                        if (naive := naive_milliseconds.get(length)) is not None:
                            row = replace(row, speedup_over_naive=naive / row.milliseconds)
                    rows.append(row)
                    if on_row is not None:
                        on_row(row)
    return AttentionBenchmark(machine(torch.device(device)), tuple(rows))


def machine(device: torch.device) -> Machine:
    """Return what this process runs on."""
    on_cuda = device.type == "cuda"
    return Machine(
        cpu=_cpu_name(),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name(device) if on_cuda else device.type,
        torch=torch.__version__,
        cuda=torch.version.cuda if on_cuda else None,
        python=platform.python_version(),
        platform=platform.platform(),
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


# One row ------------------------------------------------------------------------------------------------------------


def _measure(
    backend: str,
    shape: AttentionShape,
    pattern: AttentionPattern,
    direction: Direction,
    memory: "_Memory",
    seconds: float,
    shorter: Row | None,
) -> Row:
    """Return a row. shorter: the last row of this backend with a number, from which the time is extrapolated."""
    device = memory.device
    cost = attention_cost("naive" if backend == MULTIHEAD else backend, shape, pattern, device.type)
    predicted_bytes = cost.forward_peak_bytes if direction == "forward" else cost.training_peak_bytes
    row = Row(
        backend=backend,
        pattern=str(pattern),
        direction=direction,
        length=shape.num_queries,
        batch=shape.batch,
        heads=shape.heads,
        head_dim=shape.head_dim,
        dtype=str(shape.dtype).removeprefix("torch."),
        predicted_bytes=None if backend == MULTIHEAD or direction == "backward" else predicted_bytes,
    )
    if shorter is not None and shorter.milliseconds is not None:
        growth = shape.num_queries / shorter.length
        linear = pattern.window_steps is not None and backend not in ("naive", MULTIHEAD)
        expected_seconds = shorter.milliseconds / 1e3 * (growth if linear else growth**2)
        if expected_seconds > seconds:
            return replace(row, no_number=f"over the limit of {seconds:g} s: about {expected_seconds:.1f} s a call")
    free_bytes = _free_bytes(device)
    if free_bytes is not None and predicted_bytes > 0.9 * free_bytes:
        return replace(row, no_number=f"out of memory: about {predicted_bytes / 1e9:.1f} GB a call")
    if backend != MULTIHEAD:
        q_BNHD = torch.empty(1, device=device, dtype=shape.dtype, requires_grad=direction != "forward").expand(
            shape.batch, shape.num_queries, shape.heads, shape.head_dim
        )
        if (reason := unsupported(q_BNHD, q_BNHD, pattern, backend)) is not None:
            return replace(row, no_number=reason)
    try:
        peak_bytes = memory.peak_bytes(backend, shape, pattern, direction)
        milliseconds = _time(_call(backend, shape, pattern, direction, device), device, seconds)
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError, or the plain class from a CPU's allocator
        if "memory" not in str(error):
            raise
        return replace(row, no_number=f"out of memory: {str(error).splitlines()[0]}")
    useful_flops = cost.useful_flops * {"forward": 1.0, "backward": 2.5, "training": 3.5}[direction]
    return replace(
        row,
        milliseconds=milliseconds,
        tflops_per_second=useful_flops / milliseconds / 1e9,
        peak_bytes=peak_bytes,
    )


def _call(
    backend: str, shape: AttentionShape, pattern: AttentionPattern, direction: Direction, device: torch.device
) -> Callable[[], object]:
    """Return what one repeat runs."""
    size = (shape.batch, shape.num_queries, shape.heads, shape.head_dim)
    inputs = [torch.randn(size, device=device, dtype=shape.dtype, requires_grad=direction != "forward") for _ in "qkv"]
    if backend == MULTIHEAD:
        inputs = [inputs[0].detach().flatten(2).requires_grad_(direction != "forward")]
        forward = _multihead(shape, pattern, device)
    else:

        def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attend(q, k, v, pattern, backend)

    if direction == "forward":

        def no_gradient() -> object:
            with torch.no_grad():
                return forward(*inputs)

        return no_gradient
    dout = torch.randn_like(inputs[0])
    if direction == "training":
        return lambda: torch.autograd.grad(forward(*inputs), inputs, dout)
    out = forward(*inputs)
    return lambda: torch.autograd.grad(out, inputs, dout, retain_graph=True)


def _multihead(shape: AttentionShape, pattern: AttentionPattern, device: torch.device) -> Callable[..., Tensor]:
    """Return self-attention of the module that most code uses, with the arguments that most code gives it."""
    width = shape.heads * shape.head_dim
    module = torch.nn.MultiheadAttention(width, shape.heads, batch_first=True, device=device, dtype=shape.dtype)
    hidden = None
    if pattern.causal:
        hidden = ~pattern.mask(range(shape.num_queries), range(shape.num_keys), device)

    def forward(x_BNC: Tensor) -> Tensor:
        out: Tensor = module(x_BNC, x_BNC, x_BNC, attn_mask=hidden)[0]
        return out

    return forward


def _time(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Return the median of repeated calls in milliseconds, after one that is not counted."""
    _finish(call(), device)
    durations: list[float] = []
    while len(durations) < REPEATS and (not durations or sum(durations) + durations[-1] < seconds):
        started = time.perf_counter()
        _finish(call(), device)
        durations.append(time.perf_counter() - started)
    return statistics.median(durations) * 1e3


def _finish(_result: object, device: torch.device) -> None:
    """Wait for what a call has started."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# Memory -------------------------------------------------------------------------------------------------------------


def _free_bytes(device: torch.device) -> int | None:
    """Return the memory that can still be allocated, where the system tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


class _Memory:
    """Measures how far a call raises the memory in use.

    On CUDA the allocator counts. On Linux the kernel does, in a process of its own: there the C library takes every
    large block from the kernel and gives it back at once, so that the rise of the high-water mark of resident memory is
    what the call held at most, to about a megabyte. A call that the system ends for want of memory ends that process.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown()

    def peak_bytes(
        self, backend: str, shape: AttentionShape, pattern: AttentionPattern, direction: Direction
    ) -> int | None:
        """Return the peak above the inputs, or None where it can't be measured. Raises MemoryError."""
        if self.device.type == "cuda":
            call = _call(backend, shape, pattern, direction, self.device)
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            call()
            torch.cuda.synchronize(self.device)
            return torch.cuda.max_memory_allocated(self.device) - before
        if self.device.type != "cpu" or sys.platform != "linux":
            return None
        if self.pool is None:
            self.pool = _start_process()
        try:
            return self.pool.submit(_peak_resident_bytes, backend, shape, pattern, direction).result()
        except BrokenProcessPool:
            self.pool = None
            raise MemoryError("not enough memory: the system ended the process that measured") from None


def _start_process() -> ProcessPoolExecutor:
    """Return one process whose C library never keeps a large block; it reads that from its environment as it starts."""
    name, outer = "MALLOC_MMAP_THRESHOLD_", os.environ.get("MALLOC_MMAP_THRESHOLD_")
    pool = ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (torch.get_num_threads(),))
    os.environ[name] = "65536"
    try:
        pool.submit(os.getpid).result()
    finally:
        if outer is None:
            del os.environ[name]
        else:
            os.environ[name] = outer
    return pool


def _peak_resident_bytes(
    backend: str, shape: AttentionShape, pattern: AttentionPattern, direction: Direction
) -> int | None:
    call = _call(backend, shape, pattern, direction, torch.device("cpu"))
    call()
    gc.collect()
    before = _resident_bytes("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:  # a container that does not allow to set the mark back
        return None
    call()
    return max(0, _resident_bytes("VmHWM") - before)


def _resident_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


# Pictures -----------------------------------------------------------------------------------------------------------


def _plot(rows: Sequence[Row], label: str, value: Callable[[Row], float | None], path: Path, machine: Machine) -> Path:
    panels = list(dict.fromkeys((row.pattern, row.direction) for row in rows))
    backends = list(dict.fromkeys(row.backend for row in rows))
    figure = Figure(figsize=(4.6 * len(panels), 4.2), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (pattern, direction) in zip(axes, panels, strict=True):
        for number, backend in enumerate(backends):
            points = [
                (row.length, measured)
                for row in rows
                if (row.backend, row.pattern, row.direction) == (backend, pattern, direction)
                and (measured := value(row)) is not None
            ]
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", markersize=4, color=f"C{number}", label=backend)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_title(f"{pattern}, {direction}", fontsize=10)
        axis.set_xlabel("tokens")
        axis.grid(visible=True, which="major", alpha=0.3)
    axes[0].set_ylabel(label)
    handles = {name: handle for axis in axes for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside right center", frameon=False, fontsize=9)
    where = machine.cpu if machine.device == "cpu" else machine.device
    figure.suptitle(
        f"Attention, {rows[0].dtype}, batch {rows[0].batch}, {rows[0].heads} heads of {rows[0].head_dim}: "
        f"{where}, torch {machine.torch}",
        fontsize=10,
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    return path
