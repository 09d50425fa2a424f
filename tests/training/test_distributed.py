"""Equality is up to the rounding of float32 sums in another order: 1e-4 of a loss, 2e-5 in a weight of 0.02 to 1."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flashtrader.config import (
    BacktestConfig,
    DataConfig,
    Experiment,
    FillReturnTarget,
    LogReturnTarget,
    ModelConfig,
    PanelConfig,
    SplitConfig,
    TrainingConfig,
    WeightsPolicy,
)
from flashtrader.files import read_json_lines
from flashtrader.models.weights import load_tensors
from flashtrader.run import Run
from flashtrader.training.distributed import join
from flashtrader.training.loop import resume_training, train_model
from panels import random_bars, store_bars
from processes import in_processes

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two markets, one of which misses a bar here and there: segments differ in how many labels they have."""
    data_dir = tmp_path_factory.mktemp("data")
    bars = random_bars(600, seed=0)
    store_bars(data_dir, "AAA", bars)
    missing = np.random.default_rng(0).choice(np.arange(1, 599), 150, replace=False)
    store_bars(data_dir, "BBB", random_bars(600, seed=1).drop(index=bars.index[missing]))
    return data_dir


def experiment(**training: Any) -> Experiment:
    settings: dict[str, Any] = {
        "segment_bars": 48,
        "batch_size": 4,
        "max_steps": 6,
        "evaluate_every": 3,
        "schedule_warmup_steps": 2,
        "clip_norm": 0.1,
        "device": "cpu",
        "plain_models": ("persistence",),
    }
    return Experiment(
        name="tiny",
        data=DataConfig(source="file", symbols=("AAA", "BBB")),
        panel=PanelConfig(features=("log_return", "rsi_3"), target=LogReturnTarget(kind="log_return", horizon_bars=2)),
        split=SplitConfig(validation=0.2, test=0.2),
        model=ModelConfig(context_bars=8, width=16, layers=2, heads=2),
        training=TrainingConfig(**(settings | training)),
    )


def portfolio(loss: str, mixing: str = "joint", **training: Any) -> Experiment:
    """Returns of each market, or weights, whose Sharpe ratio is no mean over the bars."""
    one = experiment(loss=loss, **training)
    sharpe = loss == "sharpe"
    model = one.model.model_copy(update={"family": "portfolio", "mixing": mixing})
    panel = one.panel.model_copy(update={"target": FillReturnTarget(kind="fill_return")}) if sharpe else one.panel
    policy = {"policy": WeightsPolicy(kind="weights")} if sharpe else {}
    return Experiment.model_validate(
        one.model_dump() | {"model": model, "panel": panel, "backtest": BacktestConfig()} | policy
    )


def train(experiment: Experiment, data_dir: Path, runs_dir: Path, stop_after: int | None = None) -> None:
    def watch(metrics: dict[str, Any]) -> None:
        if metrics["step"] == stop_after:
            raise ZeroDivisionError

    with join(experiment.training):
        train_model(experiment, data_dir, runs_dir, watch)


def resume(experiment: Experiment, data_dir: Path, run: Run) -> None:
    with join(experiment.training):
        resume_training(experiment, data_dir, run, lambda _: None)


def assert_same(found: Run, expected: Run) -> None:
    for name in ("best", "last"):
        (ours, _), (theirs, _) = (load_tensors(run.checkpoints / f"{name}.safetensors") for run in (found, expected))
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            if not key.startswith("random."):
                torch.testing.assert_close(
                    ours[key], tensor, rtol=1e-4, atol=2e-5, msg=lambda text, key=key: f"{key}: {text}"
                )
    rows, expected_rows = (read_json_lines(run.metrics) for run in (found, expected))
    assert [row.keys() for row in rows] == [row.keys() for row in expected_rows]
    for row, expected_row in zip(rows, expected_rows, strict=True):
        del row["bars_per_second"], expected_row["bars_per_second"]
        assert row == pytest.approx(expected_row, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        (2, {"distributed": "ddp", "accumulate": 2}),
        (2, {"distributed": "fsdp", "accumulate": 2}),
        (4, {"distributed": "fsdp", "context_parallel": 2}),
        (4, {"distributed": "ddp", "context_parallel": 4}),
    ],
)
def test_several_processes_train_what_one_trains(
    data_dir: Path, tmp_path: Path, size: int, settings: dict[str, Any]
) -> None:
    shared = experiment(**settings)
    train(shared, data_dir, tmp_path / "alone")
    assert in_processes(size, train, shared, data_dir, tmp_path / "shared") == [None] * size
    assert_same(Run(tmp_path / "shared" / "tiny-001"), Run(tmp_path / "alone" / "tiny-001"))
