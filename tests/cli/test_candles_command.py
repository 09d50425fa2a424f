"""A candles run through the commands: the next candle, its scores, rollouts, and the backtest of its close."""

import shutil
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from command import Command
from flashtrader.config import load_config
from flashtrader.training.loop import train_model
from panels import HOUR_MS, random_bars, store_bars

NUM_BARS = 700
TEST_START = NUM_BARS - round(0.2 * NUM_BARS)
CANDLE = ["open", "high", "low", "close", "volume"]
SMOKE = Path(__file__).parents[2] / "configs" / "smoke" / "candles.yaml"
SETTINGS: dict[str, Any] = {
    "name": "tiny",
    "data": {"source": "file", "symbols": ["AAA"], "interval": "60"},
    "panel": {"features": ["candle", "candle_moves"], "target": {"kind": "next_candle"}},
    "split": {"validation": 0.2, "test": 0.2},
    "model": {
        "family": "candles", "context_bars": 8, "width": 8, "layers": 2, "heads": 2, "distribution": "student_t",
    },
    "training": {"segment_bars": 48, "batch_size": 2, "max_steps": 6, "evaluate_every": 3, "device": "cpu"},
    "policy": {"kind": "tanh", "scale": 1000.0, "max_weight": 0.5},
}  # fmt: skip


def bars() -> pd.DataFrame:
    """Return bars whose opens are not quite the closes before them."""
    table = random_bars(NUM_BARS)
    nearby = table["open"] * np.random.default_rng(1).uniform(0.999, 1.001, NUM_BARS)
    return table.assign(open=nearby.clip(table["low"], table["high"]))


def utc(hours: int) -> pd.Timestamp:
    return pd.Timestamp(hours * HOUR_MS, unit="ms", tz="UTC")


class Place:
    """A directory with bars and a trained run, and the commands at work in it."""

    def __init__(self, root: Path, flashtrader: Command) -> None:
        self.root, self.flashtrader = root, flashtrader
        self.run = root / "runs" / "tiny-001"

    def places(self, data: str = "data") -> tuple[object, ...]:
        return "--run", self.run, "--data-dir", self.root / data, "--runs-dir", self.root / "runs"

    def __call__(self, *arguments: object, data: str = "data") -> Any:
        return self.flashtrader.succeeds(*arguments, *self.places(data), "--json").json

    def says(self, *arguments: object) -> str:
        return self.flashtrader.succeeds(*arguments, *self.places()).out

    def fails(self, *arguments: object) -> str:
        return self.flashtrader.fails(2, *arguments, *self.places())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("candles")
    store_bars(root / "data", "AAA", bars())
    (root / "tiny.yaml").write_text(yaml.safe_dump(SETTINGS))
    train_model(load_config(root / "tiny.yaml"), root / "data", root / "runs", lambda _: None)
    return root


@pytest.fixture
def place(trained: Path, tmp_path: Path, flashtrader: Command) -> Place:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return Place(tmp_path, flashtrader)


def test_predict_writes_candles_that_its_scores_are_of(place: Place) -> None:
    said = place("predict")
    candles = pd.read_parquet(place.run / "candles.parquet")
    assert list(candles.columns) == CANDLE
    assert candles.index.name == "time"
    assert (candles.index[0], candles.index[-1]) == (utc(TEST_START), utc(NUM_BARS - 1))
    assert (candles["high"] >= candles[["open", "close"]].max(axis=1)).all()
    assert (candles["low"] <= candles[["open", "close"]].min(axis=1)).all()
    assert said["newest_candle"] == candles.iloc[-1].to_dict()

    this = bars()[CANDLE].set_index(candles.index[-1] - pd.to_timedelta(np.arange(NUM_BARS)[::-1], unit="h"))
    came, this = this.shift(-1).reindex(candles.index)[:-1], this.reindex(candles.index)
    forecasts = pd.read_parquet(place.run / "forecasts.parquet")["AAA"]
    np.testing.assert_allclose(forecasts, np.log(candles["close"] / this["close"]), atol=1e-6)
    scores = {(score["space"], score["feature"]): score for score in said["candle_scores"]}
    for feature in CANDLE:
        score = scores["price", feature]
        assert score["bars"] == len(candles) - 1
        error, naive = candles[feature][:-1] - came[feature], this[feature][:-1] - came[feature]
        assert score["model"]["mae"] == pytest.approx(error.abs().mean())
        assert score["persistence"]["mse"] == pytest.approx((naive**2).mean())
        assert score["mae_skill"] == pytest.approx(1 - error.abs().mean() / naive.abs().mean())
    assert {score["feature"] for score in said["calibration"]} == set(CANDLE)
    for name in ("candles", "calibration"):
        assert (place.run / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_rollout_is_written_with_its_quantiles(place: Place) -> None:
    said = place("predict", "--rollout", 12, "--paths", 40, "--starts", 3)
    table = pd.read_parquet(place.run / "rollout.parquet")
    assert table.index.tolist() == [utc(NUM_BARS + step) for step in range(12)]
    assert table["step"].tolist() == list(range(1, 13))
    quantiles = [[f"{feature}_q{level}" for level in ("05", "25", "50", "75", "95")] for feature in CANDLE]
    assert list(table.columns) == ["step", *CANDLE, *(name for names in quantiles for name in names)]
    for names in quantiles:
        assert (np.diff(table[names].to_numpy(), axis=1) >= 0).all()
    assert (table["high"] >= table["low"]).all()
    assert said["rollout"]["decision"] == utc(NUM_BARS - 1).isoformat()
    assert said["rollout"]["last"]["close_q95"] == table["close_q95"].iloc[-1]
    assert [(score["feature"], score["rollouts"]) for score in said["rollout"]["bands"]] == [
        (feature, 3) for feature in CANDLE
    ]
    assert (place.run / "rollout.png").read_bytes().startswith(b"\x89PNG")


def test_a_rollout_from_a_bar_sees_nothing_after_it(place: Place) -> None:
    cut = TEST_START + 60
    other = bars()
    other.loc[cut + 1 :, CANDLE] *= 3
    store_bars(place.root / "other", "AAA", other)
    tables = []
    for data in ("data", "other"):
        decision = f"{utc(cut):%Y-%m-%dT%H}:30"
        place("predict", "--split", "latest", "--rollout", 5, "--paths", 10, "--from", decision, data=data)
        tables.append(pd.read_parquet(place.run / "rollout.parquet"))
    assert tables[0].index[0] == utc(cut + 1)
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_the_tables_say_what_is_in_the_scores_in_eighty_columns(place: Place) -> None:
    lines = place.says("predict", "--rollout", 12, "--paths", 10, "--starts", 2).splitlines()
    tables = list(takewhile(lambda line: " bars, 1970-" not in line, lines))
    assert max(map(len, tables)) <= 80
    titles = ("Next candle", "Its distribution", "Close after", "Steps inside")
    assert [sum(line.startswith(title) for line in tables) for title in titles] == [3, 1, 1, 1]
    assert sum(line.startswith(" persisted") for line in tables) == 3 * 6


def test_the_newest_candle_alone_has_no_score_yet(place: Place) -> None:
    said = place("predict", "--split", "latest", "--out", place.root / "newest" / "forecasts.parquet")
    assert len(pd.read_parquet(place.root / "newest" / "candles.parquet")) == 1
    assert said["candle_scores"][0]["bars"] == 0
    assert said["calibration"] == []
    assert "Next candle" not in place.says("predict", "--split", "latest")
    assert len(pd.read_parquet(place.run / "latest_candles.parquet")) == 1
    assert not (place.run / "candles.parquet").exists()


def test_its_forecasts_of_the_close_are_traded_and_made_first_if_need_be(place: Place) -> None:
    traded = place("backtest")
    assert traded["metrics"]["num_trades"] > 0
    assert pd.read_parquet(place.run / "forecasts.parquet").index[0] == utc(TEST_START)


def test_a_model_of_points_rolls_out_its_point_path_alone(place: Place) -> None:
    place.flashtrader.succeeds(
        "train", "--config", place.root / "tiny.yaml", "--set", "model.distribution=point", "--set", "name=point",
        "--data-dir", place.root / "data", "--runs-dir", place.root / "runs",
    )  # fmt: skip
    place.run = place.root / "runs" / "point-001"
    said = place("predict", "--split", "latest", "--rollout", 6)
    assert list(pd.read_parquet(place.run / "rollout.parquet").columns) == ["step", *CANDLE]
    assert said["calibration"] == said["rollout"]["bands"] == []
    assert place.fails("predict", "--split", "latest", "--rollout", 6, "--paths", 5) == (
        "model.distribution: a model that learned points alone has no sample paths; train with student_t, or leave "
        "--paths out"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--from", "1970-01-20"), "--from needs --rollout BARS beside it"),
        (
            ("--rollout", 5, "--from", "soon"),
            "--from: 'soon' is not a date such as 2024-01-31 or 2024-01-31T12:00",
        ),
        (
            ("--split", "latest", "--rollout", 5, "--from", "1969-12-31"),
            "--from: no bar opens by 1969-12-31T00:00:00Z; give a time from 1970-01-01T00:00:00Z on",
        ),
        (("--rollout", 5, "--follow"), "give --follow or --rollout, not both"),
    ],
)
def test_what_a_rollout_cannot_do_is_said(place: Place, options: tuple[object, ...], message: str) -> None:
    assert place.fails("predict", *options) == message


def test_other_families_do_not_roll_out(place: Place) -> None:
    config = place.run / "config.yaml"
    other = yaml.safe_load(config.read_text()) | {"model": {"family": "returns", "context_bars": 8}}
    other["panel"] = {"target": {"kind": "log_return"}}
    config.write_text(yaml.safe_dump(other))
    assert place.fails("predict", "--rollout", 5) == (
        f"--rollout: {place.run} is of family returns; only runs of family candles roll out"
    )


def test_the_smoke_config_goes_from_the_exchange_to_the_report(tmp_path: Path, flashtrader: Command) -> None:
    data = load_config(SMOKE).data
    assert data.source == "simulated"
    places = ("--data-dir", tmp_path / "data", "--runs-dir", tmp_path / "runs")
    span = [*(("--start", f"{data.start:%Y-%m-%d}") if data.start else ()), "--end", f"{data.end:%Y-%m-%d}"]
    flashtrader.succeeds(
        "fetch", "--source", "simulated", "--symbols", data.symbols[0], "--interval", data.interval, *span,
        "--data-dir", tmp_path / "data",
    )  # fmt: skip
    flashtrader.succeeds("train", "--config", SMOKE, *places)
    said = flashtrader.succeeds("predict", "--rollout", 8, "--paths", 20, "--starts", 2, *places, "--json").json
    assert all(Path(path).is_file() for path in said["written"])
    traded = flashtrader.succeeds("backtest", *places, "--json").json
    assert Path(traded["report"]).is_file()
