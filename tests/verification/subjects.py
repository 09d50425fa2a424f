"""Small trained runs of every kind, for the attacks to work on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from books import leading_book
from flashtrader.config import load_config
from flashtrader.market.book_store import BookSeries, BookStore
from flashtrader.training.loop import train_model
from flashtrader.verification.checks import Subject
from panels import random_bars, store_bars

NUM_BARS = 700
BARS: dict[str, Any] = {
    "data": {"source": "file", "symbols": ["AAA", "BBB"], "interval": "60"},
    "panel": {"features": ["log_return", "volatility_6"], "target": {"kind": "log_return", "horizon_bars": 3}},
    "split": {"validation": 0.2, "test": 0.2},
    "model": {"context_bars": 8, "width": 8, "layers": 1, "heads": 2},
    "training": {
        "segment_bars": 32,
        "batch_size": 2,
        "max_steps": 3,
        "evaluate_every": 3,
        "learning_rate": 0.01,
        "device": "cpu",
        "plain_models": [],
    },
    "policy": {"kind": "tanh", "scale": 100.0, "max_weight": 0.4},
}
RETURNS = BARS | {"training": BARS["training"] | {"plain_models": ["ridge"]}}
WALK_FORWARD = BARS | {
    "split": {"walk_forward": {"train": 300, "validation": 130, "test": 120}},
    "model": {"family": "ridge", "context_bars": 8},
}
CANDLES = BARS | {
    "data": BARS["data"] | {"symbols": ["AAA"]},
    "panel": {"features": ["candle", "candle_moves"], "target": {"kind": "next_candle"}, "multiscale": ["240"]},
    "model": BARS["model"] | {"family": "candles"},
}
WEIGHTS = BARS | {
    "panel": BARS["panel"] | {"target": {"kind": "fill_return"}},
    "model": BARS["model"] | {"family": "portfolio"},
    "training": BARS["training"] | {"loss": "sharpe"},
    "policy": {"kind": "weights"},
}
BOOK = {
    "data": {"kind": "books", "source": "file", "symbols": ["BTCUSDT"], "levels": 2},
    "panel": {"target": {"kind": "direction", "horizon_bars": 2}},
    "split": {"validation": 0.2, "test": 0.2},
    "model": BARS["model"] | {"family": "orderbook"},
    "training": BARS["training"] | {"loss": "cross_entropy"},
}


def trained_subject(root: Path, settings: Mapping[str, Any]) -> Subject:
    """Store made-up markets below `root`, and train a run on them."""
    data_dir, scratch = root / "data", root / "scratch"
    scratch.mkdir(parents=True)
    (root / "tiny.yaml").write_text(yaml.safe_dump(dict(settings)))
    experiment = load_config(root / "tiny.yaml")
    if experiment.data.kind == "books":
        BookStore(data_dir).append(BookSeries("file", "BTCUSDT", 2), leading_book(NUM_BARS))
    else:
        for symbol, bars in markets().items():
            store_bars(data_dir, symbol, bars)
    run = train_model(experiment, data_dir, root / "runs", lambda _: None).run
    return Subject(run, data_dir, scratch)


def markets() -> dict[str, pd.DataFrame]:
    return {"AAA": random_bars(NUM_BARS, 1), "BBB": random_bars(NUM_BARS - 30, 2, first_hour=30)}
