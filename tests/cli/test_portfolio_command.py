"""The portfolio family through the commands that a user types."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from command import Command
from flashtrader.config import load_config

SMOKE = Path(__file__).parents[2] / "configs" / "smoke"


class Place:
    """A directory with the bars that a smoke config reads."""

    def __init__(self, root: Path, flashtrader: Command, config: str) -> None:
        self.root, self.flashtrader, self.config = root, flashtrader, SMOKE / f"{config}.yaml"
        data = load_config(self.config).data
        start, end = (f"{time:%Y-%m-%d}" for time in (data.start, data.end) if time is not None)
        self("fetch", "--source", data.source, "--symbols", ",".join(data.symbols), "--start", start, "--end", end)
        self.run = self("train", "--config", self.config, "--set", "training.max_steps=4")

    def __call__(self, *arguments: object) -> Any:
        places = ("--data-dir", self.root / "data", "--runs-dir", self.root / "runs", "--json")
        return self.flashtrader.succeeds(*arguments, *places).json


@pytest.mark.parametrize("config", ["portfolio", "portfolio-weights"])
def test_the_smoke_configs_go_from_the_exchange_to_the_report(
    tmp_path: Path, flashtrader: Command, config: str
) -> None:
    place = Place(tmp_path, flashtrader, config)
    predicted, traded = place("predict"), place("backtest")
    directory = Path(predicted["run"])
    forecasts = pd.read_parquet(directory / "forecasts.parquet")
    assert list(forecasts.columns) == ["SIM1", "SIM2", "SIM3"]
    assert predicted["newest"] == pytest.approx(forecasts.iloc[-1].to_dict())
    # Weights have no outcome to be drawn beside.
    assert ("What the forecasts were worth" in (directory / "report.html").read_text("utf-8")) == (
        config == "portfolio"
    )
    assert traded["metrics"]["num_trades"] > 100


def test_learned_weights_in_a_file_are_traded_as_weights_alone(tmp_path: Path, flashtrader: Command) -> None:
    place = Place(tmp_path, flashtrader, "portfolio-weights")
    place("predict", "--out", tmp_path / "mine.parquet")
    as_weights = place("backtest", "--weights", tmp_path / "mine.parquet", "--config", place.config)
    as_forecasts = place("backtest", "--forecasts", tmp_path / "mine.parquet", "--config", place.config)
    assert as_weights["metrics"] == as_forecasts["metrics"]
    places = ("--data-dir", tmp_path / "data", "--runs-dir", tmp_path / "runs")
    through_a_policy = ("--forecasts", tmp_path / "mine.parquet", "--config", SMOKE / "portfolio.yaml")
    assert flashtrader.fails(2, "backtest", *through_a_policy, *places) == (
        f"panel.target: not that of the run that made {tmp_path / 'mine.parquet'} (kind: fill_return); give the config "
        "of that run, or --run"
    )


def test_weights_are_shown_with_what_they_earned_beside_equal_ones(tmp_path: Path, flashtrader: Command) -> None:
    place = Place(tmp_path, flashtrader, "portfolio-weights")
    assert "validation_sharpe" in place.run
    own, equal = place("predict")["scores"]
    assert (own["name"], equal["name"]) == ("weights", "equal")
    assert 0 < own["gross"] <= 1
    assert equal["gross"] == pytest.approx(1.0)
    # The backtest counts one bar more: the first, before anything is held.
    assert own["annual_sharpe"] == pytest.approx(place("backtest")["metrics"]["sharpe"], rel=0.01)
    shown = flashtrader.succeeds("predict", "--data-dir", tmp_path / "data", "--runs-dir", tmp_path / "runs").out
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "bars gross turnover net return Sharpe, 95 % a year" in lines
    assert any(line.startswith("equal 435 100.0%") for line in lines)
    assert max(map(len, shown.splitlines()[:6])) <= 80
