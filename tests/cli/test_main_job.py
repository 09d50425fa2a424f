"""The way of a bar from the store to the report, through the commands that a user types."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from command import Command
from flashtrader.interval import Interval
from flashtrader.market.store import Series, Span, Store
from panels import HOUR_MS, random_bars, store_bars
from place import Place

NUM_BARS = 700
HORIZON = 4
SETTINGS: dict[str, Any] = {
    "data": {"source": "file", "symbols": ["AAA", "BBB"], "interval": "60"},
    "panel": {
        "features": ["log_return", "volatility_6", "volume_ratio_6", "price_ratio_6", "rsi_5", "calendar"],
        "target": {"horizon_bars": HORIZON},
    },
    "split": {"validation": 0.2, "test": 0.2},
    "model": {"context_bars": 8, "width": 8, "layers": 2, "heads": 2},
    "training": {
        "segment_bars": 48,
        "batch_size": 2,
        "max_steps": 6,
        "evaluate_every": 3,
        "device": "cpu",
        "plain_models": ["ridge"],
    },
    "policy": {"kind": "tanh", "scale": 1000.0, "max_weight": 0.5},
    "backtest": {"fee_bps": 5.0, "slippage_bps": 2.5},
}
TEST_START = NUM_BARS - round(0.2 * NUM_BARS)


def two_markets() -> dict[str, pd.DataFrame]:
    return {"AAA": random_bars(NUM_BARS, 1), "BBB": random_bars(NUM_BARS - 30, 2, first_hour=30)}


@pytest.fixture
def place(tmp_path: Path, flashtrader: Command) -> Place:
    return Place(tmp_path, flashtrader, SETTINGS, two_markets())


@pytest.fixture
def trained(place: Place) -> Place:
    place("train", "--config", place.config)
    return place


def utc(hours: int) -> pd.Timestamp:
    return pd.Timestamp(hours * HOUR_MS, unit="ms", tz="UTC")


def test_train_predict_backtest_leave_everything_in_the_run(trained: Place) -> None:
    predicted = trained("predict")
    forecasts = pd.read_parquet(trained.run / "forecasts.parquet")
    assert list(forecasts.columns) == ["AAA", "BBB"]
    assert forecasts.index.name == "time"
    assert forecasts.index[0] == utc(TEST_START)
    assert forecasts.index[-1] == utc(NUM_BARS - 1)
    assert forecasts.notna().all(axis=None)
    assert predicted["horizon_bars"] == HORIZON
    assert predicted["scores"][0]["bars"] == len(forecasts) - HORIZON

    tested = trained("backtest")
    equity = pd.read_parquet(trained.run / "equity.parquet")
    assert equity.index[0] == utc(TEST_START)
    assert equity["equity"].iloc[0] == 100_000
    assert tested["metrics"]["final_equity"] == equity["equity"].iloc[-1]
    assert set(tested["references"]) == {"buy_and_hold", "cash", "ridge"}
    assert tested["references"]["cash"]["total_return"] == 0
    assert tested["metrics"]["total_cost"] > 0
    for name in ("config.yaml", "manifest.json", "metrics.jsonl", "trades.parquet", "weights.parquet", "report.html"):
        assert (trained.run / name).stat().st_size > 0
    assert (trained.run / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_backtest_without_forecasts_makes_them_first(trained: Place) -> None:
    without = trained("backtest")["metrics"]
    assert (trained.run / "forecasts.parquet").is_file()
    trained("predict")
    assert trained("backtest")["metrics"] == without


def test_changing_every_input_after_a_bar_changes_nothing_at_or_before_it(trained: Place) -> None:
    """The whole promise, through the commands: prices and volumes after the cut become noise."""
    generator = np.random.default_rng(5)
    cuts = (TEST_START + 20, TEST_START + 77)

    def results(data: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        trained("predict", "--split", "all", data=data)
        trained("backtest", data=data)
        return pd.read_parquet(trained.run / "forecasts.parquet"), pd.read_parquet(trained.run / "weights.parquet")

    forecasts, weights = results("data")
    assert forecasts.notna().any(axis=None)
    for cut in cuts:
        for symbol, bars in two_markets().items():
            later = bars["timestamp"] > cut * HOUR_MS
            noise = generator.lognormal(3, 1, size=(int(later.sum()), 4))
            bars.loc[later, "open"], bars.loc[later, "close"] = noise[:, 0], noise[:, 1]
            bars.loc[later, "high"] = noise.max(axis=1)
            bars.loc[later, "low"] = noise.min(axis=1)
            bars.loc[later, "volume"] = generator.lognormal(2, 2, size=int(later.sum()))
            store_bars(trained.root / f"noise{cut}", symbol, bars)
        changed_forecasts, changed_weights = results(f"noise{cut}")
        pd.testing.assert_frame_equal(changed_forecasts[: utc(cut)], forecasts[: utc(cut)], check_exact=True)
        pd.testing.assert_frame_equal(changed_weights[: utc(cut)], weights[: utc(cut)], check_exact=True)
        assert not changed_forecasts[utc(cut + 1) :].equals(forecasts[utc(cut + 1) :])
        assert not changed_weights[utc(cut + 1) :].equals(weights[utc(cut + 1) :])


def test_the_newest_bar_alone_gets_the_forecast_that_it_gets_among_all(trained: Place) -> None:
    trained("predict", "--split", "all")
    among_all = pd.read_parquet(trained.run / "forecasts.parquet").iloc[-1:]
    latest = trained("predict", "--split", "latest", "--out", trained.root / "latest.parquet")
    alone = pd.read_parquet(trained.root / "latest.parquet")
    pd.testing.assert_frame_equal(alone, among_all, rtol=0, atol=1e-6)
    assert latest["newest"]["AAA"] == alone["AAA"].iloc[0]


def test_anyones_weights_need_only_data_and_backtest(place: Place) -> None:
    config = place.root / "bare.yaml"
    config.write_text(yaml.safe_dump({key: SETTINGS[key] for key in ("data", "backtest")}))
    times = pd.DatetimeIndex([utc(hour) for hour in range(100, 200)], name="time")
    weights = pd.DataFrame({"AAA": 0.5, "BBB": -0.25}, index=times)
    weights.to_csv(place.root / "weights.csv")
    weights.to_parquet(place.root / "weights.parquet")
    from_csv = place("backtest", "--weights", place.root / "weights.csv", "--config", config)
    from_parquet = place("backtest", "--weights", place.root / "weights.parquet", "--config", config)
    assert from_csv["metrics"] == from_parquet["metrics"]
    assert from_csv["directory"] != from_parquet["directory"]
    assert from_csv["metrics"]["num_trades"] > 2
    assert (Path(from_csv["directory"]) / "report.html").is_file()


def test_anyones_forecasts_go_through_the_policy(trained: Place) -> None:
    trained("predict")
    ours = trained("backtest")
    path = trained.root / "forecasts.parquet"
    path.write_bytes((trained.run / "forecasts.parquet").read_bytes())
    assert trained("backtest", "--forecasts", path, "--config", trained.config)["metrics"] == ours["metrics"]
    assert trained("backtest", "--forecasts", path, "--run", "tiny-001")["metrics"] == ours["metrics"]


def test_a_runs_forecasts_in_a_file_are_not_taken_for_something_else(trained: Place) -> None:
    """Of another horizon they would be scored beside other outcomes; as weights, returns would be hardly anything."""
    trained("predict", "--out", trained.root / "mine.parquet")
    of_another = "backtest --forecasts {root}/mine.parquet --config {root}/tiny.yaml --set panel.target.horizon_bars=9"
    assert trained.tells(of_another) == (
        2,
        "panel.target: not that of the run that made {root}/mine.parquet (kind: log_return, horizon_bars: 4); give the "
        "config of that run, or --run",
    )
    assert trained.tells("backtest --weights {root}/mine.parquet --config {root}/tiny.yaml") == (
        2,
        "{root}/mine.parquet: holds forecasts of log_return and no target weights; give it to --forecasts",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--bars", "3"), "--bars needs --follow beside it"),
        (("--base-url", "http://127.0.0.1:1"), "--base-url needs --follow beside it"),
        (("--attention", "latest", "--paths", "3"), "--paths needs --rollout BARS beside it"),
    ],
)
def test_an_option_without_the_one_it_belongs_to_is_refused(
    trained: Place, options: tuple[str, ...], message: str
) -> None:
    assert trained.fails(2, "predict", *options) == message


@pytest.mark.parametrize(
    ("override", "key"),
    [("data.interval=5", "data.interval"), ("data.source=simulated", "data.source"),
     ("panel.target.horizon_bars=9", "panel.target")],
)  # fmt: skip
def test_a_runs_forecasts_are_traded_as_what_they_are(trained: Place, override: str, key: str) -> None:
    """Hourly forecasts on the grid of 5-minute bars would be traded 55 minutes before they are known."""
    for seed, symbol in enumerate(SETTINGS["data"]["symbols"]):
        bars = random_bars(NUM_BARS * 12, seed)
        bars["timestamp"] //= 12
        Store(trained.root / "data").append(Series("file", symbol, Interval("5")), bars, Span(0, NUM_BARS * HOUR_MS))
    assert trained.tells(f"backtest --set {override}") == (
        2,
        f"{key}: not that of {{run}}, whose forecasts are to be traded; leave it as it is there, or train a run with "
        "it",
    )


def test_forecasts_of_one_data_set_are_not_traded_on_another(trained: Place) -> None:
    trained("predict")
    for seed, symbol in enumerate(SETTINGS["data"]["symbols"]):
        store_bars(trained.root / "other", symbol, random_bars(NUM_BARS, 50 + seed))
        store_bars(trained.root / "longer", symbol, random_bars(NUM_BARS + 50, seed + 1))
    assert trained.tells("backtest --data-dir {root}/other") == (
        1,
        "{run}/forecasts.parquet: made of other bars than those in {root}/other; forecast these with "
        "`flashtrader predict`",
    )
    trained("predict", data="longer")
    before = trained("backtest", data="longer")["period"]["bars"]
    for seed, symbol in enumerate(SETTINGS["data"]["symbols"]):
        store_bars(trained.root / "longer", symbol, random_bars(NUM_BARS + 90, seed + 1)[NUM_BARS + 50 :])
    assert trained("backtest", data="longer")["period"]["bars"] == before + 1  # the last forecast has its fill now


def test_hourly_forecasts_in_a_file_are_refused_on_other_bars(trained: Place) -> None:
    trained("predict", "--out", trained.root / "mine.parquet")
    for symbol in SETTINGS["data"]["symbols"]:
        bars = random_bars(NUM_BARS * 12)
        bars["timestamp"] //= 12
        Store(trained.root / "data").append(Series("file", symbol, Interval("5")), bars, Span(0, NUM_BARS * HOUR_MS))
    assert trained.tells("backtest --forecasts {root}/mine.parquet --run tiny-001 --set data.interval=5") == (
        1,
        "{root}/mine.parquet: made for bars of interval 60, and the data's is 5; set data.interval to 60",
    )


def test_scores_on_training_bars_are_called_what_they_are(trained: Place) -> None:
    places = ("--data-dir", trained.root / "data", "--runs-dir", trained.root / "runs")
    said = {part: trained.command.succeeds("predict", "--split", part, *places).out for part in ("all", "test")}
    assert "these scores are no test of it" in said["all"]
    assert "these scores are no test of it" not in said["test"]


def test_a_place_that_cannot_be_written_is_named(trained: Place) -> None:
    taken = trained.root / "taken"
    taken.write_text("mine")
    for arguments in (("backtest", "--out", taken), ("predict", "--out", taken / "forecasts.parquet")):
        assert trained.fails(1, *arguments) == f"{taken}: File exists; give another path"
    assert taken.read_text() == "mine"


def test_forecasts_can_be_written_as_csv(trained: Place) -> None:
    trained("predict", "--out", trained.root / "mine.csv")
    trained("predict", "--out", trained.root / "mine.parquet")
    of_csv, of_parquet = (
        trained("backtest", "--forecasts", trained.root / f"mine.{kind}", "--run", "tiny-001")["metrics"]
        for kind in ("csv", "parquet")
    )
    assert of_csv == of_parquet


def test_bars_that_end_before_the_runs_test_are_one_line(trained: Place) -> None:
    for symbol, bars in two_markets().items():
        store_bars(trained.root / "short", symbol, bars[bars["timestamp"] < (TEST_START - 5) * HOUR_MS])
    assert trained.tells("predict --data-dir {root}/short") == (
        1,
        "{run}: no bar at or after 1970-01-24T08:00:00Z, where the run's test part begins; fetch newer bars, or "
        "forecast with --split all",
    )
    trained("predict", "--split", "all", data="short")
    assert trained.tells("backtest --data-dir {root}/short") == (
        1,
        "{run}/forecasts.parquet: no forecast at 1970-01-24T08:00:00Z, the first of the run's test bars; make "
        "them with `flashtrader predict --split test`",
    )


def test_costs_can_be_changed_for_one_backtest(trained: Place) -> None:
    dear = trained("backtest")["metrics"]
    free = trained("backtest", "--set", "backtest.fee_bps=0", "--set", "backtest.slippage_bps=0")["metrics"]
    assert free["total_cost"] == 0
    assert free["final_equity"] > dear["final_equity"]


def test_a_dry_run_trains_nothing(place: Place) -> None:
    budget = place("train", "--config", place.config, "--dry-run")
    assert budget["parameters"] > 100
    assert budget["tokens_per_step"] == 2 * 48
    assert budget["labels_per_step"] == 2 * (48 - 8) * 2
    assert budget["peak_bytes"] > 0
    assert budget["total_seconds"] > 0
    assert not place.run.exists()


def test_a_resumed_run_goes_on(trained: Place) -> None:
    resumed = trained("train", "--resume", "tiny-001", "--set", "training.max_steps=9")
    assert resumed["steps"] == 9


@pytest.mark.parametrize(
    "override",
    ["model.widht=3", "model.heads=3", "model.attention=flsh", "training.segment_bars=9999", "data.symbols=[CCC]"],
)
def test_a_training_that_can_t_begin_leaves_no_run(place: Place, override: str) -> None:
    assert place.command("train", "--config", place.config, "--set", override, *place.places()).exit_code in (1, 2)
    assert not place.run.exists()


def test_forecasts_that_do_not_match_the_bars_are_refused(place: Place) -> None:
    times = pd.DatetimeIndex([utc(hour) for hour in range(690, 720)], name="time")
    pd.DataFrame({"AAA": 0.01}, index=times).to_parquet(place.root / "late.parquet")
    assert place.tells("backtest --forecasts {root}/late.parquet --config {root}/tiny.yaml") == (
        1,
        "{root}/late.parquet: time 1970-01-30T04:00:00Z is not the opening time of a bar of the data: the data runs "
        "from 1970-01-01T00:00:00Z to 1970-01-30T03:00:00Z; cut the file, or widen data.start and data.end",
    )


def test_a_damaged_checkpoint_makes_no_forecasts(trained: Place) -> None:
    path = trained.run / "checkpoints" / "best.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    trained.fails(1, "predict")
    assert not (trained.run / "forecasts.parquet").exists()


def test_the_newest_forecast_leaves_alone_what_is_traded(trained: Place) -> None:
    trained("predict")
    files = trained.run / "forecasts.parquet", trained.run / "plain" / "ridge.parquet"
    before = [file.read_bytes() for file in files]
    newest = trained("predict", "--split", "latest")
    assert newest["forecasts"] == str(trained.run / "latest.parquet")
    assert len(pd.read_parquet(trained.run / "latest.parquet")) == 1
    assert [file.read_bytes() for file in files] == before
    assert trained("backtest")["metrics"]["num_trades"] > 0


def test_the_newest_forecast_has_no_score_and_stands_beside_those_of_plain_models(trained: Place) -> None:
    said = trained.command.succeeds("predict", "--split", "latest", *trained.places()).out
    plain = json.loads((trained.run / "manifest.json").read_text())["plain_models"]
    assert [line.split() for line in said.splitlines() if "symbol" in line] == [["symbol", "returns", *plain]]
    assert "n/a" not in said


def test_a_training_that_goes_on_leaves_nothing_that_was_made_of_older_weights(trained: Place) -> None:
    def files() -> set[str]:
        return {path.relative_to(trained.run).as_posix() for path in trained.run.rglob("*") if path.is_file()}

    by_training = files()
    trained("predict")
    trained("predict", "--split", "latest")
    trained("predict", "--attention", 2)
    trained("backtest")
    assert len(files()) > len(by_training) + 10
    trained("train", "--resume", "tiny-001", "--set", "training.max_steps=8")
    assert files() == by_training


def test_forecasts_of_other_bars_than_the_test_are_not_traded(trained: Place) -> None:
    trained("predict", "--split", "latest", "--out", trained.run / "forecasts.parquet")
    assert trained.tells("backtest") == (
        1,
        "{run}/forecasts.parquet: no forecast at 1970-01-24T08:00:00Z, the first of the run's test bars; make "
        "them with `flashtrader predict --split test`",
    )


def test_following_prints_a_line_for_every_bar_that_is_stored(trained: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait between two looks is when somebody else stores the next bar."""
    longer = {"AAA": random_bars(NUM_BARS + 9, 1), "BBB": random_bars(NUM_BARS + 9 - 30, 2, first_hour=30)}
    stored = iter(range(NUM_BARS, NUM_BARS + 9))

    def somebody_stores_a_bar(_seconds: float) -> None:
        hour = next(stored)
        for symbol, bars in longer.items():
            store_bars(trained.root / "data", symbol, bars[bars["timestamp"] == hour * HOUR_MS].reset_index(drop=True))

    monkeypatch.setattr("time.sleep", somebody_stores_a_bar)
    places = ("--data-dir", trained.root / "data", "--runs-dir", trained.root / "runs")
    lines = trained.command.succeeds("predict", "--follow", "--bars", 4, *places, "--json").out.splitlines()
    followed = [json.loads(line) for line in lines]
    assert [line["time"] for line in followed] == [f"{utc(NUM_BARS - 1 + n):%Y-%m-%dT%H:%MZ}" for n in range(4)]
    live = pd.read_parquet(trained.run / "live.parquet")
    trained("predict", "--split", "all")
    at_once = pd.read_parquet(trained.run / "forecasts.parquet").iloc[-4:]
    pd.testing.assert_frame_equal(live, at_once, rtol=0, atol=1e-6, check_freq=False)
    assert followed[2]["forecasts"] == live.iloc[2].to_dict()
