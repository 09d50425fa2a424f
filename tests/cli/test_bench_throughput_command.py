import json
from pathlib import Path

import pytest
import torch

from command import Command
from flashtrader.benchmarks import throughput
from flashtrader.benchmarks.machine import machine
from flashtrader.benchmarks.throughput import Throughput, Work
from flashtrader.cli import bench

SMOKE = Path(__file__).parents[2] / "configs" / "smoke" / "returns.yaml"
MEASURED = Throughput(
    rows=(
        Work("forecast", "20,000 bars", "bars/s", 24_000.0, 16.0, "one window per bar"),
        Work("train_step", "2 segments", "ms", 250.0, 1_000.0, "the matrix written out"),
        Work("attention_memory", "8,192 bars", "bytes", 5 * 2.0**20, 3 * 2.0**30, "the matrix written out"),
    ),
    machine=machine(torch.device("cpu")),
)


def test_throughput_writes_what_it_shows(flashtrader: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "measure_throughput", lambda *_, **__: MEASURED)
    found = flashtrader.succeeds("bench", "throughput", "--out", tmp_path, "--json").json
    assert found == json.loads((tmp_path / "throughput.json").read_text()) == MEASURED.to_json()
    shown = flashtrader.succeeds("bench", "throughput", "--out", tmp_path).out
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "forecast a history bars/s 24 k 16.0 1,500× 200×" in lines
    assert "one training step ms 250 1,000 4.0× 4.0×" in lines
    assert "attention, peak MiB 5.0 3,072 614× 25.0×" in lines
    assert "one training step: 2 segments. Plain way: the matrix written out." in lines
    assert max(map(len, shown.splitlines()[:8])) <= 80


def test_the_quick_round_ends_with_the_tables(
    flashtrader: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput, "measure_throughput", lambda *_, **__: MEASURED)
    monkeypatch.setattr(bench, "attention", lambda **_: None)
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "configs" / "smoke"
    own.mkdir(parents=True)
    (own / "own.yaml").write_text(SMOKE.read_text())
    (own / "plain.yaml").write_text(SMOKE.with_stem("plain").read_text())
    shown = flashtrader.succeeds("bench").out
    assert shown.index("Throughput and memory") < shown.index("Peak memory of training") < shown.index("own.yaml")
    assert "plain.yaml" not in shown
    assert {path.name for path in (tmp_path / "bench").iterdir()} == {"throughput.json", "memory.json"}


def test_memory_is_measured_beside_its_estimate(flashtrader: Command, tmp_path: Path) -> None:
    found = flashtrader.succeeds("bench", "memory", SMOKE, "--out", tmp_path, "--json").json
    assert found == json.loads((tmp_path / "memory.json").read_text())
    (row,) = found["rows"]
    assert row["config"] == str(SMOKE)
    assert row["ratio"] == row["estimated_bytes"] / row["measured_bytes"] == pytest.approx(1.0, abs=0.2)
