import json
from pathlib import Path

import pytest

from command import Command
from flashtrader.benchmarks.peak_memory import PeakMemory
from panels import random_bars, store_bars

CONFIG = """
data: {source: file, symbols: [AAA, BBB]}
panel: {features: [log_return], target: {horizon_bars: 2}}
model: {context_bars: 8, width: 8, layers: 2, heads: 2}
training: {segment_bars: 32, batch_size: 2, max_steps: 6, evaluate_every: 3, learning_rate: 1.0e-2, device: cpu}
"""


def test_the_command_trains_each_context_on_the_same_labels(flashtrader: Command, tmp_path: Path) -> None:
    for seed, symbol in enumerate(("AAA", "BBB")):
        store_bars(tmp_path / "data", symbol, random_bars(1_000, seed))
    config = tmp_path / "noise.yaml"
    config.write_text(CONFIG)
    outcome = flashtrader.succeeds(
        *("bench", "context", "--config", config, "--contexts", "16,4", "--seeds", 2, "--set", "training.max_steps=4"),
        *("--data-dir", tmp_path / "data", "--runs-dir", tmp_path / "runs", "--out", tmp_path / "bench", "--json"),
    )
    found = outcome.json
    assert found == json.loads((tmp_path / "bench" / "context.json").read_text())
    assert (tmp_path / "bench" / "context.png").read_bytes().startswith(b"\x89PNG")
    assert [(row["context_bars"], row["receptive_bars"]) for row in found["contexts"]] == [(4, 7), (16, 31)]
    assert [(row["context_bars"], row["seed"]) for row in found["trainings"]] == [(4, 0), (4, 1), (16, 0), (16, 1)]
    assert found["best_ic"] is None
    shortest, longest = found["contexts"]
    assert shortest["ic_difference"] is None
    for score in ("ic", "loss"):
        difference = longest[f"{score}_difference"]
        assert difference["estimate"] == pytest.approx(longest[score] - shortest[score])
        assert difference["low"] < difference["estimate"] < difference["high"]
    runs = sorted((tmp_path / "runs").iterdir())
    losses = {run.name: json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["train_loss"] for run in runs}
    assert losses["noise-context-4-seed-0-001"] == losses["noise-context-16-seed-0-001"]  # the head begins at zero
    assert losses["noise-context-4-seed-0-001"] != losses["noise-context-4-seed-1-001"]
    assert outcome.err.count("context 4, seed") == outcome.err.count("context 16, seed") == 2


def test_a_step_that_does_not_fit_is_refused_with_what_to_lower(
    flashtrader: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(PeakMemory, "bytes_of", full)
    for seed, symbol in enumerate(("AAA", "BBB")):
        store_bars(tmp_path / "data", symbol, random_bars(1_000, seed))
    config = tmp_path / "noise.yaml"
    config.write_text(CONFIG)
    told = flashtrader.fails(
        2, "bench", "context", "--config", config, "--contexts", "16,4", "--data-dir", tmp_path / "data"
    )
    assert told == (
        "a step of 3 segments of 32 bars, twice the longest context, does not fit in memory; lower "
        "training.batch_size or the longest of --contexts"
    )
