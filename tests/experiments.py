"""A tiny experiment on two made-up markets: it trains in about a second."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashtrader.config import Experiment
from panels import random_bars, store_bars

SYMBOLS = ("AAA", "BBB")

BOOKKEEPING: Mapping[str, Any] = {
    "created": "2026-01-31T12:00:00+00:00",
    "command": "flashtrader train --config hourly.yaml",
    "versions": {"flashtrader": "0.1.0", "torch": "2.13.0"},
    "commit": None,
    "device": "x86_64 CPU",
    "instructions": "AVX512",
    "threads": 2,
    "data": {
        "BTCUSDT": {"rows": 9, "first": "2025-01-01T00:00:00Z", "last": "2025-01-01T08:00:00Z", "sha256": "ab" * 32}
    },
    "split": {
        "train_start_ms": 1_735_689_600_000,
        "validation_start_ms": 1_735_696_800_000,
        "test_start_ms": 1_735_700_000_000,
        "end_ms": 1_735_722_000_000,
        "reach_bars": 1,
        "embargo_bars": 0,
    },
    "weights": {},
}
"""What a manifest tells of a run that was trained nowhere, but for its experiment."""


def store_two_markets(data_dir: Path, num_bars: int) -> Path:
    """Store hourly bars of both markets and return where."""
    for seed, symbol in enumerate(SYMBOLS):
        store_bars(data_dir, symbol, random_bars(num_bars, seed))
    return data_dir


def tiny(
    *, split: Mapping[str, Any] | None = None, model: Mapping[str, Any] | None = None, **training: Any
) -> Experiment:
    """Return the experiment with these keys of its sections changed."""
    settings: dict[str, Any] = {
        "name": "tiny",
        "data": {"source": "file", "symbols": SYMBOLS},
        "panel": {"features": ("log_return", "rsi_3"), "target": {"horizon_bars": 2}},
        "split": split or {"validation": 0.2, "test": 0.2},
        "model": {"context_bars": 8, "width": 8, "layers": 1, "heads": 2, "dropout": 0.1, **(model or {})},
        "training": {
            "segment_bars": 48,
            "batch_size": 2,
            "max_steps": 12,
            "evaluate_every": 4,
            "schedule_warmup_steps": 2,
            "device": "cpu",
            "plain_models": (),
            **training,
        },
    }
    return Experiment.model_validate(settings)


def manifest_of(experiment: Experiment, **changes: Any) -> dict[str, Any]:
    """Return what the manifest of a run of this experiment would tell, as far as it is read."""
    return {**BOOKKEEPING, "experiment": experiment.model_dump(mode="json"), **changes}


def watch_nothing(_metrics: dict[str, Any]) -> None:
    """Let a training go on."""
