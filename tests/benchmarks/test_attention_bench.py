"""The benchmark measures what it says, and says why where it does not."""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flashtrader.attention import AttentionPattern
from flashtrader.attention.cost import AttentionShape, attention_cost
from flashtrader.benchmarks import attention
from flashtrader.benchmarks.attention import MULTIHEAD, AttentionBenchmark, Row, bench_attention
from flashtrader.errors import ConfigError

CPU = torch.device("cpu")
linux = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")


@pytest.fixture(scope="module")
def benchmark() -> AttentionBenchmark:
    return bench_attention(
        lengths=(128, 64),
        patterns=(AttentionPattern(), AttentionPattern(window_steps=16, entities_per_step=2)),
        backends=("sdpa", "tiled", "naive", MULTIHEAD, "sdpa-cudnn"),
        directions=("forward", "backward", "training"),
        seconds=0.02,
        heads=2,
        head_dim=8,
    )


def test_every_cell_has_a_row(benchmark: AttentionBenchmark) -> None:
    cells = {(row.backend, row.pattern, row.direction, row.length) for row in benchmark.rows}
    assert len(cells) == len(benchmark.rows) == 5 * 2 * 3 * 2
    assert {row.length for row in benchmark.rows if "entities" in row.pattern} == {128, 256}


def test_a_row_has_a_number_or_a_reason(benchmark: AttentionBenchmark) -> None:
    for row in benchmark.rows:
        assert (row.milliseconds is None) == (row.no_number is not None) == (row.backend == "sdpa-cudnn")
        if row.milliseconds is not None:
            assert row.milliseconds > 0
            assert row.tflops_per_second > 0
        else:
            assert row.no_number == "needs a CUDA device, and the tensors are on cpu"


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
    pictures = benchmark.plot(tmp_path)
    assert [path.name for path in pictures] == ["attention_time.png", "attention_memory.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)


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


class Unmeasured(attention._Memory):
    """No process for the memory."""

    def peak_bytes(self, *call: object) -> None:
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
    monkeypatch.setattr(attention, "_free_bytes", lambda _: 1000)
    assert str(measure().no_number).startswith("out of memory: about 0.0 GB")


def test_running_out_of_memory_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def attend(*arguments: object) -> None:
        torch.empty(1 << 60)

    monkeypatch.setattr(attention, "attend", attend)
    assert str(measure().no_number).startswith("out of memory: ")


@linux
def test_the_end_of_the_measuring_process_is_a_lack_of_memory() -> None:
    """The system ends a process that takes too much; the next measurement gets a new one."""
    call = ("sdpa", AttentionShape(1, 8, 8, 1, 8), AttentionPattern(), "forward")
    with attention._Memory(CPU) as memory:
        memory.pool = attention._start_process()
        os.kill(memory.pool.submit(os.getpid).result(), signal.SIGKILL)
        with pytest.raises(MemoryError, match="the system ended"):
            memory.peak_bytes(*call)
        assert memory.peak_bytes(*call) is not None


def test_speed_counts_useful_operations() -> None:
    row = measure()
    shape = AttentionShape(batch=1, num_queries=256, num_keys=256, heads=2, head_dim=8)
    flops = attention_cost("naive", shape, AttentionPattern()).useful_flops
    assert row.tflops_per_second == pytest.approx(flops / row.milliseconds / 1e9)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"backends": ("sdqa",)}, "'sdqa' is unknown"), ({"directions": ("sideways",)}, "'sideways' is unknown")],
)
def test_unknown_names(arguments: dict[str, tuple[str]], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        bench_attention(**arguments)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    rows = bench_attention(
        lengths=(1024, 2048),
        backends=("naive", "sdpa", "sdpa-flash", "sdpa-cudnn", "flash", "xformers"),
        device="cuda",
        dtype=torch.bfloat16,
        seconds=0.1,
    ).rows
    assert all((row.milliseconds is None) == (row.no_number is not None) for row in rows)
    assert all(row.peak_bytes for row in rows if row.milliseconds is not None)
