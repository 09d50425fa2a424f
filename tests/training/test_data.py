from pathlib import Path

import numpy as np
import pytest

from flashtrader.config import (
    DataConfig,
    Experiment,
    LogReturnTarget,
    ModelConfig,
    PanelConfig,
    SplitConfig,
    TrainingConfig,
)
from flashtrader.training.data import TrainingData, prepare
from flashtrader.training.loop import train_model
from panels import random_bars, store_bars


def experiment(labels: str) -> Experiment:
    return Experiment(
        name=labels,
        data=DataConfig(source="file", symbols=("AAA",)),
        panel=PanelConfig(features=("log_return",), target=LogReturnTarget(kind="log_return", horizon_bars=2)),
        split=SplitConfig(validation=0.2, test=0.2),
        model=ModelConfig(context_bars=8, width=8, layers=1, heads=2),
        training=TrainingConfig(
            segment_bars=24, labels=labels, batch_size=4, max_steps=2, evaluate_every=1, device="cpu", plain_models=()
        ),
    )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("data")
    store_bars(data_dir, "AAA", random_bars(400))
    return data_dir


def labelled(data: TrainingData) -> list[int]:
    """Return the bars of a segment whose label is known in every segment."""
    targets_BSK = data.segments.batch(data.segments.starts).targets
    return np.flatnonzero(np.isfinite(targets_BSK).all(axis=(0, 2))).tolist()


def test_every_bar_after_the_warm_up_is_learned_from_or_the_last_alone(data_dir: Path) -> None:
    dense, last = (prepare(experiment(labels), data_dir) for labels in ("all", "last"))
    assert labelled(dense) == list(range(8, 24))
    assert labelled(last) == [23]
    batch = last.segments.batch(last.segments.starts[:5])
    assert np.isfinite(batch.targets).sum() == 5
    np.testing.assert_array_equal(last.segments.starts, dense.segments.starts)


def test_learning_from_the_last_bar_changes_no_forecasts_warm_up(data_dir: Path, tmp_path: Path) -> None:
    assert experiment("last").warmup_bars == experiment("all").warmup_bars == 8
    dense, last = (train_model(experiment(labels), data_dir, tmp_path, lambda _: None) for labels in ("all", "last"))
    assert dense.steps == last.steps == 2
    assert dense.validation_loss != last.validation_loss
