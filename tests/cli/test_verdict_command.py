"""The verdict, through the commands."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from command import Command
from panels import random_bars
from place import Place

NUM_BARS = 600
SETTINGS: dict[str, Any] = {"data": {"source": "file", "symbols": ["AAA", "BBB", "CCC"], "interval": "60"}}


@pytest.fixture
def place(tmp_path: Path, flashtrader: Command) -> Place:
    bars = {symbol: random_bars(NUM_BARS, seed) for seed, symbol in enumerate(SETTINGS["data"]["symbols"])}
    place = Place(tmp_path, flashtrader, SETTINGS, bars)
    time = pd.to_datetime(bars["AAA"]["timestamp"].to_numpy(), unit="ms", utc=True).rename("time")
    forecasts = pd.DataFrame(np.random.default_rng(0).normal(0, 0.01, (NUM_BARS, 3)), index=time, columns=list(bars))
    forecasts.to_parquet(tmp_path / "forecasts.parquet")
    forecasts.clip(-0.3, 0.3).to_parquet(tmp_path / "weights.parquet")
    return place


def test_the_verdict_comes_first_and_everything_behind_it_is_in_the_json(place: Place) -> None:
    arguments = ("backtest", "--forecasts", place.root / "forecasts.parquet", "--config", place.config)
    shown = place.command.succeeds(*arguments, *place.places()).out
    found = place(*arguments)
    assert shown.splitlines()[0] == found["verdict"]
    assert "How sure this is" in shown
    assert "Diebold–Mariano" in shown
    assert found["finding"] == "loses"
    assert found["forecast"]["horizon_bars"] == 24
    assert (
        found["forecast"]["cross_section_ic"]["interval"][0] < 0 < found["forecast"]["cross_section_ic"]["interval"][1]
    )
    written = json.loads((Path(found["directory"]) / "backtest.json").read_text())
    assert {key: written[key] for key in ("verdict", "significance", "forecast")} == {
        key: found[key] for key in ("verdict", "significance", "forecast")
    }


def test_trials_are_counted_over_the_runs_of_a_directory(place: Place) -> None:
    def trials(*arguments: object) -> int:
        return place("backtest", *arguments, "--config", place.config)["significance"]["trials"]

    forecasts, weights = place.root / "forecasts.parquet", place.root / "weights.parquet"
    assert trials("--forecasts", forecasts) == 1
    assert trials("--forecasts", forecasts) == 1
    assert trials("--weights", weights, "--out", place.root / "elsewhere") == 2
    assert trials("--forecasts", forecasts, "--set", "policy.scale=3") == 3
    pd.read_parquet(weights)[["AAA", "BBB"]].to_parquet(place.root / "two.parquet")
    assert trials("--weights", place.root / "two.parquet") == 1
    found = place("backtest", "--forecasts", forecasts, "--config", place.config, "--set", "policy.scale=5")
    assert found["significance"]["trials"] == 4
    assert 0 <= found["significance"]["overfitting_probability"] <= 1
