import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flashtrader.config import (
    PLAIN_FAMILIES,
    DataConfig,
    Experiment,
    FillReturnTarget,
    LogReturnTarget,
    ModelConfig,
    PanelConfig,
    PlainFamily,
    SplitConfig,
    TrainingConfig,
    WeightsPolicy,
)
from flashtrader.errors import ConfigError, DataError
from flashtrader.files import read_json_lines
from flashtrader.models.plain import load_plain
from flashtrader.panel.closes import price_panel
from flashtrader.panel.splits import split_at
from flashtrader.training.data import label
from flashtrader.training.loop import resume_training, train_model
from panels import random_bars, store_bars

SYMBOLS = ("AAA", "BBB")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("data")
    for seed, symbol in enumerate(SYMBOLS):
        store_bars(data_dir, symbol, random_bars(600, seed))
    return data_dir


def experiment(family: str = "returns", **training: Any) -> Experiment:
    settings = {"segment_bars": 48, "batch_size": 2, "max_steps": 4, "evaluate_every": 2, "device": "cpu"}
    return Experiment(
        name="tiny",
        data=DataConfig(source="file", symbols=SYMBOLS),
        panel=PanelConfig(features=("log_return", "rsi_3"), target=LogReturnTarget(kind="log_return", horizon_bars=2)),
        split=SplitConfig(validation=0.2, test=0.2),
        model=ModelConfig(family=family, context_bars=8, width=8, layers=1, heads=2),
        training=TrainingConfig(**(settings | training)),
    )


def watch_nothing(_metrics: dict[str, Any]) -> None:
    pass


@pytest.mark.parametrize("family", PLAIN_FAMILIES)
def test_a_plain_model_makes_a_run_like_any_other(data_dir: Path, tmp_path: Path, family: PlainFamily) -> None:
    settings = experiment(family)
    summary = train_model(settings, data_dir, tmp_path, watch_nothing)
    run = summary.run
    assert run.experiment == settings
    assert not (run.path / "plain").exists()
    manifest = run.manifest
    assert manifest["data"]["AAA"]["rows"] == 600
    assert manifest["training"]["stopped"] == "completed"
    assert "attention" not in manifest
    row = read_json_lines(run.metrics)[-1]
    assert row["validation_loss"] == summary.validation_loss
    assert math.isnan(summary.validation_skill) == (family in ("persistence", "drift"))
    load_plain(run.checkpoints / "best.safetensors", family, settings)
    with pytest.raises(ConfigError) as refused:
        resume_training(settings, data_dir, run, watch_nothing)
    assert str(refused.value) == (
        f"{run.path}: {family} is fitted at once and has nothing to go on with; train a new run with --config"
    )


def test_a_manifest_is_whole_whatever_the_command(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be of a hundred symbols, over several lines, in bytes that are no text."""
    monkeypatch.setattr(sys, "argv", ["flashtrader", "train", "--set", "data.symbols=[AAA,\nBBB]\udcff", "x" * 100_000])
    run = train_model(experiment("drift"), data_dir, tmp_path, watch_nothing).run
    assert run.read_manifest().command == f"flashtrader train --set data.symbols=[AAA, BBB]  {'x' * 100_000}"


def test_the_validation_score_is_that_of_the_forecasts(data_dir: Path, tmp_path: Path) -> None:
    """The loss is the experiment's own, in deviations: of no change, half the mean square where huber is quadratic."""
    summary = train_model(experiment("persistence", loss="mse"), data_dir, tmp_path, watch_nothing)
    data = label(experiment(), data_dir)
    rows = split_at(data.panel, summary.run.read_manifest().split).validation
    deviations = data.panel.targets[rows.start : rows.stop] / data.scaler.target_std
    assert summary.validation_loss == pytest.approx(np.square(deviations).mean(), rel=1e-5)


def test_the_models_beside_a_run_are_those_that_train_alone(data_dir: Path, tmp_path: Path) -> None:
    families: tuple[PlainFamily, ...] = ("momentum", "ridge", "boosting")
    run = train_model(experiment(plain_models=families), data_dir, tmp_path, watch_nothing).run
    assert tuple(run.manifest["plain_models"]) == families
    data = label(experiment(), data_dir)
    priced = price_panel(data.panel, data.tables, experiment().panel.max_gap_bars)
    for family in families:
        alone = train_model(experiment(family), data_dir, tmp_path, watch_nothing)
        assert run.manifest["plain_models"][family]["validation_loss"] == alone.validation_loss
        beside, single = (
            load_plain(path, family, settings).forecast(priced, data.split.test)
            for path, settings in (
                (run.plain_model(family), experiment()),
                (alone.run.checkpoints / "best.safetensors", experiment(family)),
            )
        )
        np.testing.assert_array_equal(beside, single)


def test_nothing_stands_beside_a_run_that_learns_something_else(data_dir: Path) -> None:
    assert experiment(plain_models=("ridge",)).plain_models == ("ridge",)
    assert experiment("ridge").plain_models == ()
    weights = experiment("portfolio").model_dump() | {
        "panel": {"target": FillReturnTarget(kind="fill_return")},
        "training": {"loss": "sharpe"},
        "policy": WeightsPolicy(kind="weights"),
    }
    assert Experiment.model_validate(weights).plain_models == ()


def test_a_plain_run_that_fails_leaves_no_directory(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="flashtrader fetch --source file"):
        train_model(experiment("ridge"), tmp_path / "data", tmp_path / "runs", watch_nothing)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("family", ["ridge", "boosting"])
def test_training_bars_that_are_all_warm_up_are_one_clear_error(
    data_dir: Path, tmp_path: Path, family: PlainFamily
) -> None:
    """The validation rows would have a forecast: of a model that was fitted to nothing."""
    with pytest.raises(ConfigError) as refused:
        train_model(experiment(family, segment_bars=600, warmup_bars=400), data_dir, tmp_path, watch_nothing)
    assert str(refused.value) == (
        "split.validation: none of the 357 training bars has both a forecast and a known target (a history begins anew "
        "after an outage, with 400 warm-up bars); move the boundary, lower training.warmup_bars, or raise "
        "panel.max_gap_bars"
    )
    assert not list(tmp_path.iterdir())


def test_a_plain_model_needs_no_segment(data_dir: Path, tmp_path: Path) -> None:
    """A history shorter than a transformer's segment will do."""
    train_model(experiment("ridge", segment_bars=4_096), data_dir, tmp_path, watch_nothing)
