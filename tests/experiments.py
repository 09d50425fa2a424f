"""A tiny experiment on two made-up markets: it trains in about a second."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashtrader.config import Experiment
from panels import random_bars, store_bars

SYMBOLS = ("AAA", "BBB")


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


def watch_nothing(_metrics: dict[str, Any]) -> None:
    """Let a training go on."""
