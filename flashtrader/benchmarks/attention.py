"""Time and memory of every attention backend, measured side by side, with what was predicted beside it.

One row is one backend, pattern, direction and length. Lengths grow, and a backend stops where its next call would take
longer than the limit by extrapolation (N², or N in a window) or more memory than is free; such a row says so instead
of a number.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from flashtrader.attention import BACKENDS, AttentionPattern, attend, choose, unsupported
from flashtrader.attention.cost import AttentionShape, attention_cost
from flashtrader.benchmarks import references
from flashtrader.benchmarks.machine import (
    Machine,
    MemoryLevel,
    Speeds,
    machine,
    measure_speeds,
    median_seconds,
    memory_levels,
)
from flashtrader.benchmarks.peak_memory import PeakMemory
from flashtrader.benchmarks.references import MULTIHEAD, REFERENCES
from flashtrader.errors import ConfigError, first_line
from flashtrader.training.memory import free_bytes

Direction = Literal["forward", "backward", "training"]
"""Forward without gradients; backward alone; both."""
DIRECTION_NAMES: dict[str, str] = {"forward": "forward", "backward": "backward", "training": "forward + backward"}
LENGTHS = tuple(512 << doubling for doubling in range(9))
"""512 … 131,072 tokens."""


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
    matrix_fraction: float | None = None
    """Of the rate of a large matrix product in the same dtype and run."""
    peak_bytes: int | None = None
    """Allocated above what was there before the call."""
    predicted_bytes: int | None = None
    speedup_over_naive: float | None = None
    no_number: str | None = None
    """Why there is no measurement: unsupported, not installed, out of memory, over the limit, failed."""


@dataclass(frozen=True)
class AttentionBenchmark:
    """All rows of a run, and the machine."""

    machine: Machine
    speeds: Speeds
    memory_levels: tuple[MemoryLevel, ...]
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the benchmark as plain values."""
        return asdict(self)


def bench_attention(
    lengths: Sequence[int] = LENGTHS,
    patterns: Sequence[AttentionPattern] = (AttentionPattern(), AttentionPattern(window_steps=512)),
    backends: Sequence[str] = (*BACKENDS, *REFERENCES),
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
    """Measure attention over as many keys as queries, and what the machine reaches at best.

    lengths: in time steps; a pattern with entities has that many tokens each. seconds: limit of one row, warm-up aside.
    on_row: is told each row as it is done. Raises ConfigError for an unknown backend or direction.
    """
    for backend in backends:
        if backend not in (*BACKENDS, *REFERENCES):
            raise ConfigError(f"attention backend {backend!r} is unknown; all: {', '.join((*BACKENDS, *REFERENCES))}")
    for direction in directions:
        if direction not in get_args(Direction):
            raise ConfigError(f"direction {direction!r} is unknown; all: {', '.join(get_args(Direction))}")
    place = torch.device(device)
    speeds = measure_speeds(place, dtype)
    rows = []
    with PeakMemory(place) as memory:
        for pattern, direction in itertools.product(patterns, directions):
            shapes = [
                AttentionShape(batch, tokens, tokens, heads, head_dim, dtype)
                for tokens in (steps * pattern.entities_per_step for steps in sorted(lengths))
            ]
            for row in measure_rows(shapes, pattern, backends, direction, memory, seconds):
                if row.tflops_per_second is not None:
                    row = replace(row, matrix_fraction=row.tflops_per_second / speeds.matrix_tflops_per_second)
                rows.append(row)
                if on_row is not None:
                    on_row(row)
    return AttentionBenchmark(machine(place), speeds, memory_levels(place), tuple(rows))


def measure_rows(
    shapes: Sequence[AttentionShape],
    pattern: AttentionPattern,
    backends: Sequence[str],
    direction: Direction,
    memory: PeakMemory,
    seconds: float,
) -> Iterator[Row]:
    """Yield a row for every backend and shape, on the memory's device; naive comes first.

    Shapes grow in length and have the rest in common.
    """
    naive_milliseconds: dict[int, float | None] = {}
    for backend in sorted(backends, key=lambda name: name != "naive"):
        shorter: Row | None = None
        for shape in shapes:
            row = _measure(backend, shape, pattern, direction, memory, seconds, shorter)
            if backend == "naive":
                naive_milliseconds[row.length] = row.milliseconds
            if row.milliseconds is not None:
                shorter = row
                if (naive := naive_milliseconds.get(row.length)) is not None:
                    row = replace(row, speedup_over_naive=naive / row.milliseconds)
            yield row


def fastest_backend(shape: AttentionShape, pattern: AttentionPattern, device: torch.device) -> str:
    """Return the backend that `auto` takes for training with this shape."""
    return choose(_probe(shape, device, "training"), _probe(shape, device, "training"), pattern).backend


# One row ------------------------------------------------------------------------------------------------------------


def _measure(
    backend: str,
    shape: AttentionShape,
    pattern: AttentionPattern,
    direction: Direction,
    memory: PeakMemory,
    seconds: float,
    shorter: Row | None,
) -> Row:
    """Return a row. shorter: the last row of this backend with a number, from which the time is extrapolated."""
    device = memory.device
    cost = attention_cost(_priced_as(backend), shape, pattern, device.type)
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
        predicted_bytes=None if backend in REFERENCES or direction == "backward" else predicted_bytes,
    )
    if (reason := _unsupported(backend, shape, pattern, direction, device)) is not None:
        return replace(row, no_number=reason)
    if shorter is not None and shorter.milliseconds is not None:
        growth = shape.num_queries / shorter.length
        linear = pattern.window_steps is not None and backend not in ("naive", MULTIHEAD)
        expected_seconds = shorter.milliseconds / 1e3 * (growth if linear else growth**2)
        if expected_seconds > seconds:
            return replace(row, no_number=f"over the limit of {seconds:g} s: about {expected_seconds:.1f} s a call")
    free = free_bytes(device)
    if free is not None and predicted_bytes > 0.9 * free:
        return replace(row, no_number=f"out of memory: about {predicted_bytes / 1e9:.1f} GB a call")
    try:
        peak_bytes = memory.bytes_of(prepare, backend, shape, pattern, direction, device)
        call = prepare(backend, shape, pattern, direction, device)
        milliseconds = median_seconds(call, device, seconds) * 1e3
    except Exception as error:  # kernels of other libraries fail in ways of their own; the other rows are still wanted
        if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error)):
            return replace(row, no_number=f"out of memory: {first_line(error)}")
        return replace(row, no_number=f"failed: {type(error).__name__}: {first_line(error)}")
    useful_flops = cost.useful_flops * {"forward": 1.0, "backward": 2.5, "training": 3.5}[direction]
    return replace(
        row,
        milliseconds=milliseconds,
        tflops_per_second=useful_flops / milliseconds / 1e9,
        peak_bytes=peak_bytes,
    )


def _priced_as(backend: str) -> str:
    """Return the backend whose memory is expected: the module writes the matrix out, flex_attention does not."""
    return backend if backend not in REFERENCES else "naive" if backend == MULTIHEAD else "flash"


def _unsupported(
    backend: str, shape: AttentionShape, pattern: AttentionPattern, direction: Direction, device: torch.device
) -> str | None:
    if backend in REFERENCES:
        return references.unsupported(backend, device)
    return unsupported(_probe(shape, device, direction), _probe(shape, device, direction), pattern, backend)


def _probe(shape: AttentionShape, device: torch.device, direction: Direction) -> Tensor:
    """Return a tensor of this shape that takes no memory, to ask what can run it."""
    one = torch.empty(1, device=device, dtype=shape.dtype, requires_grad=direction != "forward")
    return one.expand(shape.batch, shape.num_queries, shape.heads, shape.head_dim)


def prepare(
    backend: str, shape: AttentionShape, pattern: AttentionPattern, direction: Direction, device: torch.device
) -> Callable[[], object]:
    """Return what one repeat runs, with its inputs made."""
    size = (shape.batch, shape.num_queries, shape.heads, shape.head_dim)
    inputs = [torch.randn(size, device=device, dtype=shape.dtype, requires_grad=direction != "forward") for _ in "qkv"]
    if backend == MULTIHEAD:
        inputs = [inputs[0].detach().flatten(2).requires_grad_(direction != "forward")]
    if backend in REFERENCES:
        forward = references.forward_of(backend, shape, pattern, device)
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
