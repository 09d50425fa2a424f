"""The plain models through the commands: as runs of their own, and beside a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from command import Command
from panels import HOUR_MS, random_bars, store_bars
from place import Place

SMOKE = Path(__file__).parents[2] / "configs" / "smoke" / "plain.yaml"
NUM_BARS, HORIZON = 500, 4
TEST_START = NUM_BARS - round(0.2 * NUM_BARS)
SETTINGS: dict[str, Any] = {
    "data": {"source": "file", "symbols": ["AAA", "BBB"], "interval": "60"},
    "panel": {"features": ["log_return", "rsi_5"], "target": {"horizon_bars": HORIZON}},
    "split": {"validation": 0.2, "test": 0.2},
    "model": {"context_bars": 8, "width": 8, "layers": 1, "heads": 2},
    "training": {"segment_bars": 48, "batch_size": 2, "max_steps": 2, "evaluate_every": 2, "device": "cpu"},
    "policy": {"kind": "tanh", "scale": 1000.0, "max_weight": 0.5},
}
FAMILIES = ["persistence", "drift", "momentum", "ridge", "dlinear", "boosting"]


def two_markets() -> dict[str, pd.DataFrame]:
    return {symbol: random_bars(NUM_BARS, seed) for seed, symbol in enumerate(SETTINGS["data"]["symbols"])}


def train(place: Place, family: str = "returns") -> Any:
    return place("train", "--config", place.config, "--set", f"model.family={family}")


@pytest.fixture
def place(tmp_path: Path, flashtrader: Command) -> Place:
    return Place(tmp_path, flashtrader, SETTINGS, two_markets())


def test_a_plain_run_is_trained_forecast_and_traded_as_any_other(place: Place) -> None:
    assert train(place, "boosting")["run"] == str(place.run)
    predicted = place("predict")
    assert predicted["plain"] == {}
    forecasts = pd.read_parquet(place.run / "forecasts.parquet")
    assert len(forecasts) == NUM_BARS - TEST_START
    assert forecasts.notna().all(axis=None)
    assert predicted["scores"][0]["bars"] == len(forecasts) - HORIZON

    tested = place("backtest")
    assert tested["metrics"]["num_trades"] > 0
    assert set(tested["references"]) == {"buy_and_hold", "cash"}

    place("predict", "--split", "all")
    among_all = pd.read_parquet(place.run / "forecasts.parquet")
    pd.testing.assert_frame_equal(among_all[-len(forecasts) :], forecasts, check_exact=True, check_freq=False)
    place("predict", "--split", "latest", "--out", place.root / "latest.parquet")
    latest = pd.read_parquet(place.root / "latest.parquet")
    pd.testing.assert_frame_equal(latest, forecasts[-1:], check_exact=True, check_freq=False)


def test_every_score_stands_beside_the_plain_models(place: Place) -> None:
    trained = train(place)
    assert list(trained["plain"]) == FAMILIES
    assert all(score["validation_loss"] > 0 for score in trained["plain"].values())

    predicted = place("predict")
    assert list(predicted["plain"]) == ["returns", *FAMILIES]
    own = [score["ic"] for score in predicted["scores"]]
    assert predicted["plain"]["returns"]["ic"] == pytest.approx(np.mean(own))
    persistence = predicted["plain"]["persistence"]
    assert persistence == {"ic": None, "ic_error": None, "r2": 0, "skill": 0, "direction": None}

    tested = place("backtest")
    assert list(tested["references"]) == ["buy_and_hold", "cash", *FAMILIES]
    assert all(metrics.keys() == tested["metrics"].keys() for metrics in tested["references"].values())
    assert tested["references"]["persistence"]["num_trades"] == 0
    assert tested["references"]["ridge"]["total_cost"] > 0
    written = json.loads((place.run / "backtest.json").read_text())
    assert written["references"] == tested["references"]
    page = (place.run / "report.html").read_text()
    assert all(name in page for name in ("Persistence", "Drift", "Momentum", "Ridge", "DLinear", "Boosting"))

    alone = train(place, "ridge")["run"]
    place("predict", "--run", alone)
    assert place("backtest", "--run", alone)["metrics"] == tested["references"]["ridge"]


def test_people_see_a_table_of_a_row_for_each_model(place: Place) -> None:
    train(place)
    predicted = place.command.succeeds("predict", *place.places()).out
    tested = place.command.succeeds("backtest", *place.places()).out
    for text in (predicted, tested):
        beside = text.partition("Beside plain models")[2].splitlines()
        assert all(any(line.strip().startswith(family) for line in beside) for family in FAMILIES)


def test_changing_every_input_after_a_bar_changes_no_plain_forecast_before_it(place: Place) -> None:
    train(place)
    cut = TEST_START + 30
    for seed, (symbol, bars) in enumerate(two_markets().items()):
        noise = random_bars(NUM_BARS, 70 + seed)
        store_bars(
            place.root / "noise", symbol, bars.where(bars["timestamp"] <= cut * HOUR_MS, noise).astype(bars.dtypes)
        )

    def forecasts(data: str) -> dict[str, pd.DataFrame]:
        place("predict", data=data)
        return {family: pd.read_parquet(place.run / "plain" / f"{family}.parquet") for family in FAMILIES}

    before, after = forecasts("data"), forecasts("noise")
    until = pd.Timestamp(cut * HOUR_MS, unit="ms", tz="UTC")
    for family in FAMILIES:
        pd.testing.assert_frame_equal(after[family][:until], before[family][:until], check_exact=True)
    for family in ("momentum", "ridge", "dlinear"):
        assert not after[family].equals(before[family])


def test_none_are_shown_where_none_are_asked_for(place: Place) -> None:
    trained = place("train", "--config", place.config, "--set", "training.plain_models=[]")
    assert trained["plain"] == {}
    assert place("predict")["plain"] == {}
    assert "Beside plain models" not in place.command.succeeds("backtest", *place.places()).out
    assert set(json.loads((place.run / "backtest.json").read_text())["references"]) == {"buy_and_hold", "cash"}


def test_what_needs_a_transformer_is_refused_in_one_line(place: Place) -> None:
    train(place, "ridge")
    assert place.tells("predict --follow") == (
        2,
        "model.family: ridge is a plain model, fitted at once and without a transformer, which --dry-run, --follow and "
        "--attention are about; leave the option out",
    )


def test_a_damaged_model_and_forecasts_of_other_bars_are_one_line(place: Place) -> None:
    train(place)
    model = place.run / "plain" / "dlinear.safetensors"
    whole = model.read_bytes()
    model.write_bytes(whole[:-9])
    assert place.fails(1, "predict").startswith(f"{model}: damaged checkpoint ")
    model.write_bytes(whole)

    place("predict")
    forecasts = place.run / "plain" / "drift.parquet"
    pd.read_parquet(forecasts)[5:].to_parquet(forecasts)
    assert place.fails(1, "backtest") == (
        f"{forecasts}: not of the bars of the run's own; make both again with `flashtrader predict`"
    )
    place("predict")
    place("backtest")


def test_the_smoke_config_goes_from_the_exchange_to_the_report(tmp_path: Path, flashtrader: Command) -> None:
    places = ("--data-dir", tmp_path / "data", "--runs-dir", tmp_path / "runs")
    when = ("--start", "2024-01-01", "--end", "2024-04-01")
    flashtrader.succeeds("fetch", "--source", "simulated", "--symbols", "SIM1,SIM2", *when, *places[:2])
    flashtrader.succeeds("train", "--config", SMOKE, "--set", "model.family=dlinear", *places)
    flashtrader.succeeds("backtest", *places)
    assert (tmp_path / "runs" / "plain-001" / "report.html").is_file()
