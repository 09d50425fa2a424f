"""The benchmark measures what it says, and says why where it does not."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flashtrader.attention import AttentionPattern
from flashtrader.attention.cost import AttentionShape, attention_cost
from flashtrader.benchmarks import attention, peak_memory, published
from flashtrader.benchmarks.attention import AttentionBenchmark, Row, bench_attention, prepare
from flashtrader.benchmarks.attention_plots import plot_measured
from flashtrader.benchmarks.machine import Speeds
from flashtrader.benchmarks.peak_memory import PeakMemory
from flashtrader.benchmarks.published import reproduce
from flashtrader.benchmarks.references import FLEX, MULTIHEAD
from flashtrader.cli.attention_tables import measured_tables, notes, reproduction_tables
from flashtrader.errors import ConfigError

CPU = torch.device("cpu")
linux = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")


@pytest.fixture(scope="module", autouse=True)
def quick_speeds() -> Iterator[None]:
    """The machine's best speeds take a second to measure: once is enough, in a test of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "measure_speeds", lambda *_: Speeds(0.1, 1e10))
        yield


@pytest.fixture(scope="module")
def benchmark(quick_speeds: None) -> AttentionBenchmark:
    return bench_attention(
        lengths=(128, 64),
        patterns=(AttentionPattern(), AttentionPattern(window_steps=16, entities_per_step=2)),
        backends=("sdpa", "tiled", "naive", MULTIHEAD, "sdpa-cudnn", FLEX),
        directions=("forward", "backward", "training"),
        seconds=1.0,
        heads=2,
        head_dim=8,
    )


def test_every_cell_has_a_row(benchmark: AttentionBenchmark) -> None:
    cells = {(row.backend, row.pattern, row.direction, row.length) for row in benchmark.rows}
    assert len(cells) == len(benchmark.rows) == 6 * 2 * 3 * 2
    assert {row.length for row in benchmark.rows if "entities" in row.pattern} == {128, 256}


def test_a_row_has_a_number_or_a_reason(benchmark: AttentionBenchmark) -> None:
    for row in benchmark.rows:
        assert (row.milliseconds is None) == (row.no_number is not None) == (row.backend in ("sdpa-cudnn", FLEX))
        if row.milliseconds is not None:
            assert row.milliseconds > 0
            assert row.matrix_fraction == pytest.approx(row.tflops_per_second / 0.1)
        else:
            assert row.no_number.startswith("needs a CUDA device")


def test_speed_is_relative_to_naive_of_the_same_cell(benchmark: AttentionBenchmark) -> None:
    naive = {
        (row.pattern, row.direction, row.length): row.milliseconds for row in benchmark.rows if row.backend == "naive"
    }
    for row in benchmark.rows:
        if row.milliseconds is not None:
            cell = (row.pattern, row.direction, row.length)
            assert row.speedup_over_naive == pytest.approx(naive[cell] / row.milliseconds)


def test_json_holds_the_machine_and_every_row(benchmark: AttentionBenchmark) -> None:
    document = json.loads(json.dumps(benchmark.to_json()))
    assert document["machine"]["torch"] == torch.__version__
    assert document["machine"]["cores"] >= 1
    assert [Row(**row) for row in document["rows"]] == list(benchmark.rows)


def test_one_picture_of_time_and_one_of_memory(benchmark: AttentionBenchmark, tmp_path: Path) -> None:
    pictures = plot_measured(benchmark, tmp_path)
    assert [path.name for path in pictures] == ["attention_time.png", "attention_memory.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)


def test_tables_hold_every_number_and_what_has_none(benchmark: AttentionBenchmark) -> None:
    tables = {table.title: table for table in measured_tables(benchmark)}
    times = tables["Milliseconds: causal, forward + backward"]
    assert times.columns == ("tokens", "64", "128")
    assert [row[0] for row in times.rows] == ["naive", "sdpa", "tiled", "nn.Multihead"]
    assert not any(cell == "–" for row in times.rows for cell in row)
    assert {row[0] for row in tables["Not measured here"].rows} == {"sdpa-cudnn", FLEX}
    assert all(len(row) == len(table.columns) for table in tables.values() for row in table.rows)
    assert notes(benchmark)[0].startswith("causal, 128 tokens, forward + backward: ")


def test_the_articles_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the first length of each is begun within no time at all."""
    monkeypatch.setattr(published, "PUBLISHED_MATRIX_MIB", {32: (1.0, 0.1), 64: (16.0, None)})
    monkeypatch.setattr(published, "PUBLISHED_A100_MS", {("forward", 32): (1.0, 2.0, 3.0), ("backward", 32): (4, 5, 6)})
    found = reproduce(device=CPU, dtype=torch.float32, heads=2, head_dim=8, seconds=1e-9)
    assert [row.matrix_bytes for row in found.matrix_memory] == [4 * 32**2, 4 * 64**2]
    assert [row.standard.milliseconds is not None for row in found.matrix_memory] == [True, False]
    assert all(row.standard.milliseconds and row.flash.milliseconds for row in found.speed)
    memory, speed, parts = reproduction_tables(found)
    assert memory.rows[1][2:] == ("–", "–", "16.0 MiB", "–")
    assert [row[-3:] for row in speed.rows] == [("1", "2", "3"), ("4", "5", "6")]
    # 32 · 12 · 512² scores of 4 bytes, and as many weights; q, k, v and the output of width 768.
    assert parts.rows[0] == ("512", "144 MiB", "384 MiB", "384 MiB", "48.0 MiB", "960 MiB", "192 MiB", "80.0%")


@linux
def test_predicted_memory_is_what_is_measured() -> None:
    rows = bench_attention(
        lengths=(1024,),
        patterns=(AttentionPattern(window_steps=300),),
        backends=("naive", "sdpa", "tiled"),
        seconds=0.01,
        heads=16,
        head_dim=64,
    ).rows
    assert len(rows) == 6
    for row in rows:
        assert row.peak_bytes == pytest.approx(row.predicted_bytes, rel=0.1, abs=2e6), row


class Unmeasured(PeakMemory):
    """No process for the memory."""

    def bytes_of(self, *call: object) -> None:
        return None


def measure(shorter: Row | None = None) -> Row:
    shape = AttentionShape(batch=1, num_queries=256, num_keys=256, heads=2, head_dim=8)
    return attention._measure("naive", shape, AttentionPattern(), "forward", Unmeasured(CPU), 1.0, shorter)


def test_a_call_that_would_take_too_long_is_not_begun() -> None:
    short = replace(measure(), length=64, milliseconds=100.0)
    row = measure(short)
    assert row.milliseconds is None
    assert row.no_number == "over the limit of 1 s: about 1.6 s a call"
    assert measure(replace(short, milliseconds=50.0)).milliseconds is not None


def test_a_call_that_would_not_fit_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "free_bytes", lambda _: 1000)
    assert measure().no_number == "out of memory: about 0.0 GB a call"


def test_running_out_of_memory_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def attend(*arguments: object) -> None:
        torch.empty(1 << 60)

    monkeypatch.setattr(attention, "attend", attend)
    assert str(measure().no_number).startswith("out of memory: ")


@linux
def test_the_end_of_the_measuring_process_is_a_lack_of_memory() -> None:
    """The system ends a process that takes too much; the next measurement gets a new one."""
    call = (prepare, "sdpa", AttentionShape(1, 8, 8, 1, 8), AttentionPattern(), "forward", CPU)
    with PeakMemory(CPU) as memory:
        memory.pool = peak_memory._start_process()
        os.kill(memory.pool.submit(os.getpid).result(), signal.SIGKILL)
        with pytest.raises(MemoryError, match="the system ended"):
            memory.bytes_of(*call)
        assert memory.bytes_of(*call) is not None


def test_a_kernel_that_fails_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def attend(*arguments: object) -> None:
        raise TypeError("too many values to unpack\nsecond line")

    monkeypatch.setattr(attention, "attend", attend)
    assert measure().no_number == "failed: TypeError: too many values to unpack"


def test_speed_counts_useful_operations() -> None:
    row = measure()
    shape = AttentionShape(batch=1, num_queries=256, num_keys=256, heads=2, head_dim=8)
    flops = attention_cost("naive", shape, AttentionPattern()).useful_flops
    assert row.tflops_per_second == pytest.approx(flops / row.milliseconds / 1e9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"backends": ("sdqa",)},
            "attention backend 'sdqa' is unknown; all: naive, tiled, sdpa, sdpa-flash, sdpa-efficient, sdpa-cudnn, "
            "sdpa-math, flash, flash-4, flash-3, flash-2, xformers, nn.MultiheadAttention, flex_attention",
        ),
        ({"directions": ("sideways",)}, "direction 'sideways' is unknown; all: forward, backward, training"),
    ],
)
def test_unknown_names(arguments: dict[str, tuple[str]], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        bench_attention(**arguments)
    assert str(refused.value) == message


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    rows = bench_attention(
        lengths=(1024, 2048),
        backends=("naive", "sdpa", "sdpa-flash", "sdpa-cudnn", "flash", "xformers", MULTIHEAD, FLEX),
        device="cuda",
        dtype=torch.bfloat16,
        seconds=0.1,
    ).rows
    assert all((row.milliseconds is None) == (row.no_number is not None) for row in rows)
    assert all(row.peak_bytes for row in rows if row.milliseconds is not None)
