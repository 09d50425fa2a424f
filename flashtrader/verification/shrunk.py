"""A run's experiment at a size that trains in seconds, or in minutes: made of the same, only less of it."""

import re
from dataclasses import dataclass
from typing import Any

from flashtrader.config import Experiment
from flashtrader.interval import Interval


@dataclass(frozen=True)
class Effort:
    """How large a training is, and how long its history."""

    rows: int
    """Bars or snapshots, at least."""
    horizons: int
    """A history is as long as so many of them, at least."""
    markets: int
    """Symbols at most; and levels of a book."""
    context_bars: int
    segment_bars: int
    max_steps: int
    learning_rate: float
    shuffles: int
    """Of the targets; each is trained on twice."""


QUICK = Effort(
    rows=3_000,
    horizons=800,
    markets=4,
    context_bars=32,
    segment_bars=96,
    max_steps=40,
    learning_rate=1e-2,
    shuffles=2,
)
FULL = Effort(
    rows=30_000,
    horizons=1_000,
    markets=8,
    context_bars=64,
    segment_bars=256,
    max_steps=300,
    learning_rate=3e-3,
    shuffles=6,
)
REMEMBERING = Effort(
    rows=500_000,
    horizons=0,
    markets=4,
    context_bars=384,
    segment_bars=1_024,
    max_steps=1_000,
    learning_rate=3e-3,
    shuffles=0,
)
"""What the rule of the simulated exchange takes: the sizes of configs/context.yaml."""
REMEMBERED_HORIZON_BARS = 24
"""Over fewer bars that rule is worth too little, over more there are too few outcomes that do not overlap."""

_WIDTH, _HEADS, _MOST_LAYERS, _BATCH = 32, 4, 2, 8


def shrunk(experiment: Experiment, effort: Effort) -> Experiment:
    """Return the experiment at another size: the same family, features, target, loss, costs and seed.

    One split and one training, by whatever attention runs here. Of the longer candles those stay that a quarter of the
    history can make known.
    """
    data, panel, model = experiment.data, experiment.panel, experiment.model
    rows = rows_of(experiment, effort)
    levels = {"levels": min(data.levels, effort.markets)} if data.kind == "books" else {}
    changes: dict[str, dict[str, Any]] = {
        "data": {"symbols": data.symbols[: effort.markets], "start": None, "end": None} | levels,
        "panel": {"multiscale": [code for code in panel.multiscale if _rows_to_know(experiment, code) <= rows // 4]},
        "split": {"train": None, "validation": 0.15, "test": 0.3, "walk_forward": None},
        "model": {
            "context_bars": effort.context_bars,
            "width": _WIDTH,
            "layers": min(model.layers, _MOST_LAYERS),
            "heads": _HEADS,
            "dropout": 0.0,
            "attention": "auto",
            "attn_implementation": "sdpa",
        },
        "training": {
            "segment_bars": effort.segment_bars,
            "labels": "all",
            "warmup_bars": None,
            "batch_size": _BATCH,
            "accumulate": 1,
            "max_steps": effort.max_steps,
            "learning_rate": effort.learning_rate,
            "schedule": "cosine",
            "schedule_warmup_steps": effort.max_steps // 20,
            "evaluate_every": effort.max_steps // 4,
            "patience": None,
            "weight_decay": 0.1,
            "seeds": (),
            "plain_models": (),
            "tensorboard": False,
        },
    }
    settings = experiment.model_dump()
    return Experiment.model_validate(settings | {name: settings[name] | changed for name, changed in changes.items()})


def remembering(experiment: Experiment) -> Experiment:
    """Return the experiment, of log returns, at the size and horizon that the simulated exchange takes."""
    small = shrunk(experiment, REMEMBERING).model_dump()
    target = {"kind": "log_return", "horizon_bars": REMEMBERED_HORIZON_BARS}
    return Experiment.model_validate(small | {"panel": small["panel"] | {"target": target}})


def rows_of(experiment: Experiment, effort: Effort) -> int:
    """Return how long a history is that has enough rows and horizons, and several of the longest feature window."""
    return max(effort.rows, effort.horizons * experiment.panel.target.horizon_bars, 8 * _longest_window(experiment))


def _longest_window(experiment: Experiment) -> int:
    numbers = (re.search(r"_(\d+)$", name) for name in experiment.panel.features)
    return max((int(number[1]) for number in numbers if number), default=1)


def _rows_to_know(experiment: Experiment, code: str) -> int:
    """Return how many bars pass before every feature of a longer interval is known."""
    ratio = Interval.parse(code).milliseconds // Interval(experiment.data.interval).milliseconds
    return ratio * (_longest_window(experiment) + 2)
