"""Walk-forward and seeds through the commands: train, interrupted and resumed, predict, backtest."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from command import Command
from flashtrader.errors import TrainingError
from flashtrader.training.trainer import Trainer
from panels import random_bars
from place import Place

SMOKE = Path(__file__).parents[2] / "configs" / "smoke" / "walk-forward.yaml"
NUM_BARS, HORIZON, FIRST = 400, 4, 260
SETTINGS: dict[str, Any] = {
    "data": {"source": "file", "symbols": ["AAA", "BBB"], "interval": "60"},
    "panel": {"features": ["log_return", "rsi_5"], "target": {"horizon_bars": HORIZON}},
    "split": {"walk_forward": {"train": 200, "validation": 60, "test": 80}},
    "model": {"context_bars": 8, "width": 8, "layers": 1, "heads": 2},
    "training": {
        "segment_bars": 48,
        "batch_size": 2,
        "max_steps": 2,
        "evaluate_every": 1,
        "device": "cpu",
        "seeds": [0, 1],
        "plain_models": ["ridge"],
    },
    "policy": {"kind": "tanh", "scale": 1000.0, "max_weight": 0.5},
}


@pytest.fixture
def place(tmp_path: Path, flashtrader: Command) -> Place:
    bars = {symbol: random_bars(NUM_BARS, seed) for seed, symbol in enumerate(SETTINGS["data"]["symbols"])}
    return Place(tmp_path, flashtrader, SETTINGS, bars)


def test_a_walk_forward_is_trained_forecast_and_traded_as_one_run(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    budget = place("train", "--config", place.config, "--dry-run")
    assert (budget["models"], budget["total_seconds"]) == (4, pytest.approx(4 * 2 * budget["step_seconds"]))

    trained = place("train", "--config", place.config)
    assert trained["run"] == str(place.run)
    assert [member["name"] for member in trained["members"]] == [
        f"fold-{fold:02}-seed-{seed}" for fold in (1, 2) for seed in (0, 1)
    ]
    assert trained["steps"] == 8
    assert trained["spread"]["validation_loss"]["mean"] == pytest.approx(trained["validation_loss"])
    assert list(trained["plain"]) == ["ridge"]
    assert (place.run / "members" / "fold-02-seed-1" / "loss.png").is_file()

    predicted = place("predict")
    assert predicted["bars"] == NUM_BARS - FIRST
    assert [fold["bars"] for fold in predicted["folds"]] == [80, 60]
    assert predicted["spread"]["minimum"] == min(predicted["seeds"].values())
    assert list(predicted["plain"]) == ["returns", "ridge"]
    latest = place("predict", "--split", "latest", "--out", place.root / "latest.csv")
    assert latest["newest"] == pytest.approx(predicted["newest"], rel=1e-5)

    tested = place("backtest")
    assert tested["metrics"]["num_trades"] > 0
    assert {"buy_and_hold", "cash", "ridge"} <= set(tested["references"])
    equity = pd.read_parquet(place.run / "equity.parquet")
    assert equity.index[0] == pd.Timestamp(FIRST * 3_600_000, unit="ms", tz="UTC")

    made = {path: path.read_bytes() for path in (place.run / "forecasts.parquet", place.run / "backtest.json")}
    caplog.clear()
    assert place("train", "--resume", place.run)["steps"] == 8
    assert caplog.messages == [
        f"{place.run}: all 4 models are trained to their end already; to go on, raise training.max_steps or "
        "training.patience"
    ]
    assert {path: path.read_bytes() for path in made} == made
    assert place("train", "--resume", place.run, "--set", "training.max_steps=3")["steps"] == 12
    assert not any(path.exists() for path in made)


def test_a_run_that_broke_off_is_not_forecast_until_it_has_gone_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def break_off(self: Trainer) -> Any:
        if self.run.name == "fold-02-seed-0" and self.progress.step == 1:
            raise TrainingError("broken off")
        return step(self)

    monkeypatch.setattr(Trainer, "step", break_off)
    assert place.fails(1, "train", "--config", place.config) == "broken off"
    assert place.fails(1, "predict") == (
        f"{place.run}: models not trained to their end yet: 2 of 4, from fold-02-seed-0 on; go on with: flashtrader "
        f"train --resume {place.run}"
    )
    monkeypatch.undo()
    place.command.succeeds("train", "--resume", "tiny-001", *place.places())
    weights = json.loads((place.run / "manifest.json").read_text())["weights"]
    again = place("train", "--from", place.run)
    assert again["run"] == str(place.root / "runs" / "tiny-002")
    assert json.loads((place.root / "runs" / "tiny-002" / "manifest.json").read_text())["weights"] == weights


def test_people_see_folds_and_seeds(place: Place) -> None:
    trained = place.command.succeeds("train", "--config", place.config, *place.places())
    assert "fold 2 of 2, seed 1: step 2 of 2" in trained.err
    assert "fold-02-seed-1" in trained.out
    assert "How much the seed decides" in trained.out
    predicted = place.command.succeeds("predict", *place.places()).out
    assert "By fold" in predicted
    assert "mean IC of one seed" in predicted


def test_what_is_about_one_model_names_one(place: Place) -> None:
    place("train", "--config", place.config)
    assert place.fails(2, "predict", "--split", "all") == (
        f"{place.run}: no fold of a walk-forward leaves the bars before its first test unseen; forecast those from "
        "there on with --split test, or the newest one with --split latest"
    )
    member = f"{place.run}/members/fold-02-seed-1"
    assert place.fails(2, "predict", "--attention", "latest") == (
        f"{place.run}: a run of 4 models, where one is needed; give --run {member}, or another of them"
    )
    assert place("predict", "--run", member)["bars"] == NUM_BARS - FIRST - 80


def test_a_history_too_short_is_one_line(place: Place) -> None:
    longer = ("train", "--config", place.config, "--set", "split.walk_forward.train=350")
    for more in ((), ("--dry-run",)):
        assert place.fails(2, *longer, *more) == (
            "split.walk_forward: one fold takes 416 bars (train 350, validation 60, and 6 until the first outcome of "
            f"the test), and there are {NUM_BARS}; shorten the parts or fetch more bars"
        )
    assert not (place.root / "runs").exists()


def test_the_smoke_config_goes_from_the_exchange_to_the_report(tmp_path: Path, flashtrader: Command) -> None:
    places = ("--data-dir", tmp_path / "data", "--runs-dir", tmp_path / "runs")
    when = ("--start", "2024-01-01", "--end", "2024-04-01")
    flashtrader.succeeds("fetch", "--source", "simulated", "--symbols", "SIM1,SIM2", *when, *places[:2])
    flashtrader.succeeds("train", "--config", SMOKE, "--set", "training.max_steps=2", *places)
    flashtrader.succeeds("backtest", *places)
    assert (tmp_path / "runs" / "walk-forward-001" / "report.html").is_file()
    members = [path.name for path in (tmp_path / "runs" / "walk-forward-001" / "members").iterdir()]
    assert len(members) == 8
