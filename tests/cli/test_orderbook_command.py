"""The way of an order book from a file to its scores, through the commands that a user types."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from books import FIRST_MS, STEP_MS, leading_book
from command import Command
from flashtrader.config import load_config

SMOKE = Path(__file__).parents[2] / "configs" / "smoke" / "orderbook.yaml"
NUM_ROWS = 1_500
TEST_START = NUM_ROWS - 300
HORIZON = 2


class Place:
    """A directory with an imported book, and the commands at work in it."""

    def __init__(self, root: Path, flashtrader: Command) -> None:
        self.root, self.flashtrader = root, flashtrader
        self.run = root / "runs" / "orderbook-001"
        path = root / "BTCUSDT.parquet"
        leading_book(NUM_ROWS).drop(columns="gap_before").to_parquet(path)
        self("fetch", "--kind", "orderbook", "--source", "file", "--symbols", "BTCUSDT", "--path", path)

    def __call__(self, *arguments: object) -> Any:
        return self.flashtrader.succeeds(*arguments, *self._places, "--json").json

    def fails(self, exit_code: int, *arguments: object) -> str:
        return self.flashtrader.fails(exit_code, *arguments, *self._places)

    def prints(self, *arguments: object) -> str:
        return self.flashtrader.succeeds(*arguments, *self._places).out

    @property
    def _places(self) -> tuple[object, ...]:
        return "--data-dir", self.root / "data", "--runs-dir", self.root / "runs"


@pytest.fixture
def place(tmp_path: Path, flashtrader: Command) -> Place:
    return Place(tmp_path, flashtrader)


def times(rows: range) -> pd.DatetimeIndex:
    return pd.to_datetime([FIRST_MS + STEP_MS * row for row in rows], unit="ms", utc=True)


def test_a_book_is_learned_forecast_and_scored(place: Place) -> None:
    trained = place("train", "--config", SMOKE)
    assert trained["validation_macro_f1"] > 0.9

    predicted = place("predict")
    forecasts = pd.read_parquet(place.run / "forecasts.parquet")
    directions = pd.read_parquet(place.run / "directions.parquet")
    assert list(forecasts.columns) == ["BTCUSDT"]
    assert list(directions.columns) == ["p_down", "p_flat", "p_up", "outcome"]
    for table in (forecasts, directions):
        assert table.index.name == "time"
        assert table.index.equals(times(range(TEST_START, NUM_ROWS)).rename("time"))
    np.testing.assert_allclose(forecasts["BTCUSDT"], directions["p_up"] - directions["p_down"], atol=1e-6)
    assert directions["outcome"].isna().sum() == HORIZON

    model, persistence, majority, imbalance = predicted["scores"]
    assert [score["name"] for score in predicted["scores"]] == ["model", "persistence", "majority", "imbalance"]
    assert {score["snapshots"] for score in predicted["scores"]} == {300 - HORIZON}
    assert min(model["macro_f1"], imbalance["macro_f1"]) > 0.9 > 0.6 > persistence["macro_f1"]
    assert sum(map(sum, model["confusion"])) == 300 - HORIZON
    assert majority["accuracy"] < 0.6
    assert model["pnl"]["mid_mean_bps"] > 0.5 > persistence["pnl"]["mid_mean_bps"]
    assert model["pnl"]["mean_bps"] == pytest.approx(model["pnl"]["mid_mean_bps"] - 2, abs=0.1), "less the spread"
    assert (place.run / "direction_scores.json").is_file()
    assert (place.run / "directions.png").stat().st_size > 10_000
    assert "after spread, 95 %" in place.prints("predict")

    every = place("predict", "--split", "all", "--out", place.root / "all.csv")
    assert every["bars"] == NUM_ROWS
    assert (place.root / "direction_scores.json").is_file()


def test_the_newest_snapshot_has_a_forecast_and_no_score(place: Place) -> None:
    place("train", "--config", SMOKE, "--set", "training.max_steps=2")
    newest = place("predict", "--split", "latest")
    assert newest["bars"] == 1
    assert newest["directions"] == str(place.run / "latest_directions.parquet")
    assert newest["last"] == times(range(NUM_ROWS))[-1].isoformat()
    assert sum(newest["newest_directions"].values()) == pytest.approx(1)
    assert {score["snapshots"] for score in newest["scores"]} == {0}
    assert not (place.run / "direction_scores.json").exists()
    assert "nothing to score" in place.prints("predict", "--split", "latest")


def test_a_training_goes_on_where_it_stopped(place: Place) -> None:
    place("train", "--config", SMOKE, "--set", "training.max_steps=2")
    resumed = place("train", "--resume", "orderbook-001", "--set", "training.max_steps=4")
    assert resumed["steps"] == 4


def test_other_snapshots_are_forecast_without_answers_that_would_have_to_learn(place: Place) -> None:
    place("train", "--config", SMOKE, "--set", "training.max_steps=2")
    later = leading_book(400, seed=2).drop(columns="gap_before")
    later["timestamp"] += 10**9
    later.to_parquet(place.root / "BTCUSDT-later.parquet")
    other = ("--data-dir", place.root / "other")
    fetch = ("fetch", "--kind", "orderbook", "--source", "file", "--symbols", "BTCUSDT")
    place.flashtrader.succeeds(*fetch, "--path", place.root / "BTCUSDT-later.parquet", *other)
    made = place.flashtrader.succeeds("predict", "--runs-dir", place.root / "runs", *other, "--json").json
    assert [score["name"] for score in made["scores"]] == ["model", "persistence"]
    assert made["bars"] == 400


def test_the_cost_of_a_training_is_told_before(place: Place) -> None:
    assert place("train", "--config", SMOKE, "--dry-run")["tokens_per_step"] == 8 * 48 * 4


def test_what_an_order_book_can_not_do_is_refused_in_one_line(place: Place) -> None:
    place("train", "--config", SMOKE, "--set", "training.max_steps=2")
    not_traded = (
        "a backtest trades bars, and this is an order book; what its signals earn after the spread is in the PnL table "
        "of `flashtrader predict`, and in direction_scores.json beside its forecasts"
    )
    assert place.fails(2, "backtest") == f"{place.run}: {not_traded}"
    assert place.fails(2, "backtest", "--forecasts", "f.parquet", "--config", SMOKE) == f"{SMOKE}: {not_traded}"
    assert place.fails(2, "predict", "--follow") == (
        f"{place.run}: --follow reads bars as they close, and this run reads an order book; leave it out"
    )
    assert place.fails(2, "train", "--config", SMOKE, "--set", "data.symbols=[BTCUSDT,ETHUSDT]") == (
        f"{SMOKE}: data.symbols: family orderbook reads one market; train one run for each"
    )
    assert place.fails(1, "train", "--config", SMOKE, "--set", "data.levels=3") == (
        f"{place.root / 'data' / 'file' / 'BTCUSDT'}: stored are books of 2 levels, and 3 are asked for; set "
        "data.levels to 2, or get more with `flashtrader fetch --kind orderbook --source file --path FILE --symbols "
        "BTCUSDT`"
    )


@pytest.mark.market_data
def test_the_shipped_config_reads_a_real_book(market_data: Path, place: Place) -> None:
    config = SMOKE.parents[1] / "orderbook.yaml"
    data = ("--data-dir", place.root / "real", "--runs-dir", place.root / "runs", "--json")
    path = market_data / "books" / "BTCUSDT-binance-spot-L20-20240808.parquet"
    fetch = ("fetch", "--kind", "orderbook", "--source", "file", "--symbols", "BTCUSDT", "--path", path)
    place.flashtrader.succeeds(*fetch, *data)
    short = ("--set", "training.max_steps=1", "--set", "training.batch_size=1", "--set", "model.layers=1")
    place.flashtrader.succeeds("train", "--config", config, *short, *data)
    made = place.flashtrader.succeeds("predict", *data).json
    assert made["horizon_bars"] == load_config(config).panel.target.horizon_bars
    model, _, _, imbalance = made["scores"]
    assert model["snapshots"] > 900
    assert imbalance["macro_f1"] > 0.4
