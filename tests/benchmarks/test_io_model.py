"""Traffic counted from the algorithms has the paper's orders, and a memory holds what it is said to hold."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flashtrader.attention import AttentionPattern
from flashtrader.attention.cost import AttentionShape
from flashtrader.benchmarks.attention import AttentionBenchmark, Row
from flashtrader.benchmarks.attention_plots import plot_io
from flashtrader.benchmarks.io_model import IoModel, flash_traffic, io_model, standard_traffic
from flashtrader.benchmarks.machine import MemoryLevel, Speeds, machine, measure_speeds, memory_levels
from flashtrader.cli.attention_tables import io_tables

CPU = torch.device("cpu")
FULL, CAUSAL = AttentionPattern(causal=False), AttentionPattern()
CHIP = 1 << 17
LEVELS = (
    MemoryLevel("L1d cache", 1 << 15),
    MemoryLevel("L2 cache", CHIP, is_on_chip=True),
    MemoryLevel("RAM", 1 << 33),
)


def shape(length: int, head_dim: int = 64) -> AttentionShape:
    return AttentionShape(1, length, length, 1, head_dim)


def test_standard_moves_four_matrices_forward_and_eleven_in_all() -> None:
    """By hand, for N = 2 and D = 1: forward 4 · 4 + 4 · 2 numbers, backward 7 · 4 + 8 · 2 more."""
    assert standard_traffic(shape(2, 1), "forward").total_bytes == 4 * (4 * 4 + 4 * 2)
    assert standard_traffic(shape(2, 1), "training").total_bytes == 4 * (11 * 4 + 12 * 2)


def test_flash_moves_each_line_once_if_the_chip_holds_all_keys() -> None:
    """By hand, for N = 2 and D = 1: reads q, k, v, o and two sums of a query, writes o and the sums."""
    traffic = flash_traffic(shape(2, 1), FULL, CHIP, "forward")
    assert (traffic.read_bytes, traffic.written_bytes) == (4 * 4 * 2 + 8 * 2, 4 * 2 + 8 * 2)
    assert flash_traffic(shape(2, 1), CAUSAL, CHIP, "forward") == traffic


@pytest.mark.parametrize("work", ["forward", "training"])
def test_flash_traffic_grows_as_the_theorem_says(work: str) -> None:
    """Θ(N²·D²/M): four times for twice the length, twice for half the chip; about a half if causal."""

    def moved(length: int, chip: int = CHIP, head_dim: int = 64, pattern: AttentionPattern = FULL) -> int:
        return flash_traffic(shape(length, head_dim), pattern, chip, work).total_bytes

    long = 1 << 17
    assert moved(2 * long) / moved(long) == pytest.approx(4, rel=0.01)
    assert moved(long, CHIP // 2) / moved(long) == pytest.approx(2, rel=0.01)
    assert moved(long, head_dim=128) / moved(long) == pytest.approx(4, rel=0.05)
    assert moved(long, pattern=CAUSAL) / moved(long) == pytest.approx(0.5, rel=0.01)
    window = AttentionPattern(window_steps=4096)
    assert moved(2 * long, pattern=window) / moved(long, pattern=window) == pytest.approx(2, rel=0.05)


def test_flash_moves_far_less_than_standard_when_the_chip_is_large_beside_a_head() -> None:
    assert (
        standard_traffic(shape(8192), "forward").total_bytes
        > 2 * flash_traffic(shape(8192), FULL, CHIP, "forward").total_bytes
    )


@pytest.fixture
def measured() -> AttentionBenchmark:
    row = Row("naive", "causal", "training", 512, 1, 2, 64, "float32", milliseconds=9.0)
    return AttentionBenchmark(
        machine(CPU),
        Speeds(matrix_tflops_per_second=0.1, copied_bytes_per_second=1e10),
        LEVELS,
        (
            row,
            replace(row, backend="sdpa", milliseconds=3.0),
            replace(row, length=4096, milliseconds=None, no_number="over the limit"),
            replace(row, length=4096, backend="sdpa", milliseconds=90.0),
        ),
    )


@pytest.fixture
def model(measured: AttentionBenchmark) -> IoModel:
    found = io_model(measured, CAUSAL, AttentionShape(1, 2, 2, 2, 64), "sdpa")
    assert found is not None
    return found


def test_the_measured_stands_beside_the_model(model: IoModel) -> None:
    assert [(row.length, row.standard_ms, row.flash_ms) for row in model.rows] == [(512, 9.0, 3.0), (4096, None, 90.0)]
    assert model.rows[0].standard == standard_traffic(AttentionShape(1, 512, 512, 2, 64), "training")
    for row in model.rows:
        assert row.standard_bound_ms >= row.standard.total_bytes / 1e10 * 1e3
        assert 0 < row.flash_bound_ms < row.standard_bound_ms


def test_a_memory_holds_the_longest_sequence_and_no_token_more(model: IoModel) -> None:
    for longest in model.longest:
        for length, holds in ((longest.one_head_standard, True), (longest.one_head_standard + 1, False)):
            assert (4 * (4 * 64 * length + length**2) <= longest.level.bytes) == holds
        for length, holds in ((longest.all_heads_flash, True), (longest.all_heads_flash + 1, False)):
            assert (2 * (4 * 4 * 64 * length + 4 * length) <= longest.level.bytes) == holds


def test_without_a_known_chip_there_is_no_model(measured: AttentionBenchmark) -> None:
    unknown = replace(measured, memory_levels=LEVELS[-1:])
    assert io_model(unknown, CAUSAL, AttentionShape(1, 2, 2, 2, 64), "sdpa") is None


def test_table_and_picture(model: IoModel, measured: AttentionBenchmark, tmp_path: Path) -> None:
    traffic, held = io_tables(model)
    assert [row[0] for row in traffic.rows] == ["512", "4K"]
    assert traffic.rows[0][-3:] == ("9.0", "3.0", "3.0×")
    assert traffic.rows[1][-3:] == ("–", "90.0", "–")
    assert [row[0] for row in held.rows] == ["L1d cache", "L2 cache", "RAM"]
    assert plot_io(model, measured.rows, measured.machine, tmp_path).read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc and /sys")
def test_this_machine_tells_of_its_memories_and_speeds() -> None:
    levels = memory_levels(CPU)
    assert levels[-1].name == "RAM"
    assert [level.bytes for level in levels] == sorted(level.bytes for level in levels)
    speeds = measure_speeds(CPU, torch.float32)
    assert speeds.matrix_tflops_per_second > 1e-4
    assert speeds.copied_bytes_per_second > 1e8
