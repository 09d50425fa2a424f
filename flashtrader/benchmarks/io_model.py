"""What attention moves to and from a device's memory, and the longest sequence that each of its memories holds.

Dao, Fu, Ermon, Rudra, Ré (2022), "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness". For one
head of N tokens and width D, with M numbers of on-chip memory, in numbers read and written (theorems 2 and 5):

    standard  Θ(N·D + N²)         algorithms 0 and 3: each step writes its N × N matrix and the next reads it again
    flash     Θ(N²·D² / M)        algorithms 1 and 4: every block of keys goes past all queries once

The counts here are exact for those algorithms, so their constants count too; with a pattern, blocks that it wholly
hides are passed over, as the share of pairs that it shows. Flash moves less as long as D² is well below M; its
arithmetic is the same, and grows with N² as before.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from flashtrader.attention import AttentionPattern
from flashtrader.attention.cost import AttentionShape, attention_cost
from flashtrader.benchmarks.attention import AttentionBenchmark
from flashtrader.benchmarks.machine import MemoryLevel, Speeds

Work = Literal["forward", "training"]
_LSE_BYTES = 4


@dataclass(frozen=True)
class Traffic:
    """Bytes between a device's memory and its chip."""

    read_bytes: int
    written_bytes: int

    @property
    def total_bytes(self) -> int:
        """Read and written."""
        return self.read_bytes + self.written_bytes


def standard_traffic(shape: AttentionShape, work: Work) -> Traffic:
    """Return what algorithm 0 moves, and with `training` also algorithm 3; the whole matrix, whatever the pattern.

    In units of N² and N·D: forward reads S, P (2) and Q, K, V (3), writes S, P (2) and O (1). Backward reads P for dV,
    P and dP for dS, dS for dQ and for dK (5), and dO twice, V, K, Q (5); writes dP, dS (2) and dV, dQ, dK (3).
    """
    read, written = ((2, 3), (2, 1)) if work == "forward" else ((7, 8), (4, 4))
    square = shape.num_queries * shape.num_keys
    line = shape.num_queries * shape.head_dim
    unit = shape.batch * shape.heads * shape.dtype.itemsize
    return Traffic(*((squares * square + lines * line) * unit for squares, lines in (read, written)))


def flash_traffic(shape: AttentionShape, pattern: AttentionPattern, on_chip_bytes: int, work: Work) -> Traffic:
    """Return what algorithm 1 moves, and with `training` also algorithm 4.

    Blocks of ⌈M / 4D⌉ keys: K and V are read once. For each of them, forward reads Q, O and two sums per query and
    writes O and the sums; backward reads Q, O, dO, dQ and the sums, writes dQ, and at last dK and dV.
    """
    keys_of_a_block = max(1, math.ceil(on_chip_bytes / shape.dtype.itemsize / (4 * shape.head_dim)))
    passes = math.ceil(shape.num_keys / keys_of_a_block)
    share = pattern.num_pairs(shape.num_queries, shape.num_keys) / (shape.num_queries * shape.num_keys)
    # A single block sees every query once, whatever the pattern hides in it.
    passes_over_queries = max(1.0, passes * share)
    line = shape.num_queries * shape.head_dim * shape.dtype.itemsize
    sums = 2 * shape.num_queries * _LSE_BYTES
    read, written = 2 * line + passes_over_queries * (2 * line + sums), passes_over_queries * (line + sums)
    if work == "training":
        read += 2 * line + passes_over_queries * (4 * line + sums)
        written += 2 * line + passes_over_queries * line
    calls = shape.batch * shape.heads
    return Traffic(int(read * calls), int(written * calls))


@dataclass(frozen=True)
class IoRow:
    """One length: what theory says of both, and what the same run measured."""

    work: Work
    length: int
    standard: Traffic
    flash: Traffic
    standard_bound_ms: float
    """The longer of moving its bytes and doing its arithmetic, at the speeds that this run measured."""
    flash_bound_ms: float
    standard_ms: float | None
    """Measured: naive."""
    flash_ms: float | None
    """Measured: the model's `flash_backend`."""


@dataclass(frozen=True)
class Longest:
    """The longest sequence, in tokens, whose attention forward fits into a memory."""

    level: MemoryLevel
    one_head_standard: int
    """Q, K, V, the output and the matrix of one head."""
    one_head_flash: int
    """Q, K, V, the output and one sum per query."""
    all_heads_standard: int
    all_heads_flash: int


@dataclass(frozen=True)
class IoModel:
    """The model for the shape of one benchmark on its machine."""

    pattern: str
    flash_backend: str
    on_chip: MemoryLevel
    speeds: Speeds
    rows: tuple[IoRow, ...]
    longest: tuple[Longest, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the model as plain values."""
        return asdict(self)


def io_model(
    measured: AttentionBenchmark, pattern: AttentionPattern, shape: AttentionShape, flash_backend: str
) -> IoModel | None:
    """Return the model for every length that `measured` has of the pattern, or None if the chip's memory is unknown.

    shape: gives batch, heads, head_dim and dtype; its lengths are not used. flash_backend: whose time stands beside it.
    """
    on_chip = next((level for level in measured.memory_levels if level.is_on_chip), None)
    if on_chip is None:
        return None
    rows = []
    works: tuple[Work, ...] = ("forward", "training")
    for work in works:
        of_work = [row for row in measured.rows if (row.pattern, row.direction) == (str(pattern), work)]
        for length in sorted({row.length for row in of_work}):
            of_length = AttentionShape(shape.batch, length, length, shape.heads, shape.head_dim, shape.dtype)
            standard = standard_traffic(of_length, work)
            flash = flash_traffic(of_length, pattern, on_chip.bytes, work)
            milliseconds = {row.backend: row.milliseconds for row in of_work if row.length == length}
            rows.append(
                IoRow(
                    work=work,
                    length=length,
                    standard=standard,
                    flash=flash,
                    standard_bound_ms=_bound_ms("naive", of_length, pattern, standard, measured.speeds, work),
                    flash_bound_ms=_bound_ms("flash", of_length, pattern, flash, measured.speeds, work),
                    standard_ms=milliseconds.get("naive"),
                    flash_ms=milliseconds.get(flash_backend),
                )
            )
    return IoModel(
        pattern=str(pattern),
        flash_backend=flash_backend,
        on_chip=on_chip,
        speeds=measured.speeds,
        rows=tuple(rows),
        longest=tuple(_longest(level, shape) for level in measured.memory_levels),
    )


def _bound_ms(
    backend: str, shape: AttentionShape, pattern: AttentionPattern, traffic: Traffic, speeds: Speeds, work: Work
) -> float:
    cost = attention_cost(backend, shape, pattern)
    flops = cost.forward_flops + (cost.backward_flops if work == "training" else 0)
    moving_s = traffic.total_bytes / speeds.copied_bytes_per_second
    return 1e3 * max(moving_s, flops / (speeds.matrix_tflops_per_second * 1e12))


def _longest(level: MemoryLevel, shape: AttentionShape) -> Longest:
    def longest(heads: int, with_matrix: bool) -> int:
        def needed(length: int) -> int:
            numbers = 4 * length * shape.head_dim + (length * length if with_matrix else 0)
            return heads * (numbers * shape.dtype.itemsize + (0 if with_matrix else length * _LSE_BYTES))

        return _largest(lambda length: needed(length) <= level.bytes)

    heads = shape.batch * shape.heads
    return Longest(level, longest(1, True), longest(1, False), longest(heads, True), longest(heads, False))


def _largest(fits: Callable[[int], bool]) -> int:
    """Return the largest number that fits, for a condition that holds up to some number and not beyond."""
    above = 1
    while fits(above):
        above *= 2
    low = 0  # fits
    while above - low > 1:
        middle = (low + above) // 2
        low, above = (middle, above) if fits(middle) else (low, middle)
    return low
