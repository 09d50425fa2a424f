"""The tables of two articles on flash attention, made again on the machine at hand.

The figures marked as published are quoted, from a book chapter on FlashAttention for algorithmic trading that measured
on an A100 of its own; they are shown in columns of their own and enter nothing that is computed here.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from flashtrader.attention import AttentionPattern
from flashtrader.attention.cost import AttentionShape
from flashtrader.benchmarks.attention import Direction, Row, fastest_backend, measure_rows
from flashtrader.benchmarks.peak_memory import PeakMemory

FULL = AttentionPattern(causal=False)

PUBLISHED_MATRIX_MIB: dict[int, tuple[float, float | None]] = {
    512: (1.0, 0.1),
    2_048: (16.0, 0.4),
    8_192: (256.0, 1.6),
    32_768: (4_096.0, 6.4),
    131_072: (65_536.0, None),
}
"""Published by length: the matrix of one head written out, and what flash attention takes instead."""

PUBLISHED_A100_MS: dict[tuple[Direction, int], tuple[float, float, float]] = {
    ("forward", 2_048): (100.0, 45.0, 25.0),
    ("forward", 8_192): (1_600.0, 180.0, 95.0),
    ("backward", 2_048): (300.0, 135.0, 70.0),
    ("backward", 8_192): (4_800.0, 540.0, 280.0),
}
"""Published by direction and length: standard attention, flash attention of version 1 and of version 2."""

BREAKDOWN_LENGTHS = (512, 1_024, 2_048, 4_096, 8_192, 16_384)
BREAKDOWN_SHAPE = {"batch": 32, "heads": 12, "head_dim": 64}
"""The shape of the second article, a guide to integrating flash attention: a layer of width 768."""


@dataclass(frozen=True)
class MatrixMemory:
    """One head, forward, in float32: memory above q, k and v."""

    length: int
    matrix_bytes: int
    """Computed: N² numbers of four bytes."""
    standard: Row
    """Measured; it holds the scores and the weights for a moment, so twice the matrix."""
    flash: Row
    published_standard_mib: float
    published_flash_mib: float | None


@dataclass(frozen=True)
class Speed:
    """Every head of the run's shape, all keys visible."""

    direction: Direction
    length: int
    standard: Row
    flash: Row
    published_ms: tuple[float, float, float]


@dataclass(frozen=True)
class Breakdown:
    """What one attention layer keeps at one length: computed, in the dtype of the run."""

    length: int
    qkv_bytes: int
    scores_bytes: int
    weights_bytes: int
    output_bytes: int

    @property
    def standard_bytes(self) -> int:
        """Everything, the two matrices included."""
        return self.flash_bytes + self.scores_bytes + self.weights_bytes

    @property
    def flash_bytes(self) -> int:
        """Without the matrices."""
        return self.qkv_bytes + self.output_bytes


@dataclass(frozen=True)
class Reproduction:
    """The articles' tables."""

    matrix_memory: tuple[MatrixMemory, ...]
    speed: tuple[Speed, ...]
    breakdown: tuple[Breakdown, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the tables as plain values."""
        return asdict(self)


def reproduce(
    *,
    device: torch.device,
    dtype: torch.dtype,
    heads: int,
    head_dim: int,
    seconds: float,
    on_row: Callable[[Row], None] | None = None,
) -> Reproduction:
    """Measure what the articles show, as far as memory and the limit of `seconds` a row allow."""

    def pair(shapes: list[AttentionShape], direction: Direction) -> tuple[dict[int, Row], dict[int, Row]]:
        flash = fastest_backend(shapes[0], FULL, device)
        rows: dict[str, dict[int, Row]] = {"naive": {}, flash: {}}
        for row in measure_rows(shapes, FULL, tuple(rows), direction, memory, seconds):
            rows[row.backend][row.length] = row
            if on_row is not None:
                on_row(row)
        return rows["naive"], rows[flash]

    with PeakMemory(device) as memory:
        one_head = [AttentionShape(1, length, length, 1, head_dim) for length in PUBLISHED_MATRIX_MIB]
        standard, flash = pair(one_head, "forward")
        matrix_memory = tuple(
            MatrixMemory(length, 4 * length**2, standard[length], flash[length], *published)
            for length, published in PUBLISHED_MATRIX_MIB.items()
        )
        speed = []
        for direction in dict.fromkeys(direction for direction, _ in PUBLISHED_A100_MS):
            figures = {length: ms for (of, length), ms in PUBLISHED_A100_MS.items() if of == direction}
            standard, flash = pair([AttentionShape(1, n, n, heads, head_dim, dtype) for n in figures], direction)
            speed += [Speed(direction, n, standard[n], flash[n], ms) for n, ms in figures.items()]
    return Reproduction(matrix_memory, tuple(speed), tuple(_breakdown(length, dtype) for length in BREAKDOWN_LENGTHS))


def _breakdown(length: int, dtype: torch.dtype) -> Breakdown:
    shape = AttentionShape(num_queries=length, num_keys=length, dtype=dtype, **BREAKDOWN_SHAPE)
    matrix_bytes = shape.batch * shape.heads * length * length * dtype.itemsize
    return Breakdown(length, shape.query_bytes + 2 * shape.key_bytes, matrix_bytes, matrix_bytes, shape.query_bytes)
