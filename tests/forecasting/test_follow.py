from pathlib import Path

import pandas as pd
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
from flashtrader.forecasting.follow import Follower
from flashtrader.forecasting.forecast import forecast_run
from flashtrader.run import Run
from flashtrader.training.loop import train_model
from panels import random_bars, store_bars

SYMBOLS = ("AAA", "BBB")
BARS = {symbol: random_bars(500, seed) for seed, symbol in enumerate(SYMBOLS)}
STORED = 430


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("trained")
    store(place / "data", 0, STORED)
    experiment = Experiment(
        name="tiny",
        data=DataConfig(source="file", symbols=SYMBOLS),
        panel=PanelConfig(
            features=("log_return", "rsi_3", "volatility_6"), target=LogReturnTarget(kind="log_return", horizon_bars=2)
        ),
        split=SplitConfig(validation=0.2, test=0.2),
        model=ModelConfig(context_bars=8, width=8, layers=2, heads=2),
        training=TrainingConfig(
            segment_bars=48, batch_size=2, max_steps=4, evaluate_every=2, device="cpu", plain_models=()
        ),
    )
    return train_model(experiment, place / "data", place / "runs", lambda _metrics: None).run


def store(data_dir: Path, start: int, stop: int, symbols: tuple[str, ...] = SYMBOLS) -> None:
    for symbol in symbols:
        store_bars(data_dir, symbol, BARS[symbol].iloc[start:stop].reset_index(drop=True))


def test_stepping_bar_by_bar_equals_one_pass(run: Run, tmp_path: Path) -> None:
    store(tmp_path, 0, STORED)
    follower = Follower(run, tmp_path)
    updates = [follower.update()]
    for start, stop in ((430, 431), (431, 432), (432, 450), (450, 450), (460, 463), (463, 499), (499, 500)):
        if stop > start:
            store(tmp_path, start, stop)
        updates.append(follower.update())
    assert [len(update) for update in updates] == [1, 1, 1, 18, 0, 3, 36, 1]
    followed = pd.concat(updates)
    at_once = forecast_run(run, tmp_path, "all").forecasts.loc[followed.index]
    assert followed.isna().any(axis=None)  # the ten missing bars are an outage: a new run warms up
    pd.testing.assert_frame_equal(followed, at_once, rtol=0, atol=1e-6, check_freq=False)


def test_a_bar_is_read_once_every_market_has_it(run: Run, tmp_path: Path) -> None:
    store(tmp_path, 0, STORED)
    follower = Follower(run, tmp_path)
    assert follower.update().index[-1] == time_of(STORED - 1)
    store(tmp_path, 430, 432, ("AAA",))
    assert follower.update().empty
    store(tmp_path, 430, 431, ("BBB",))
    assert list(follower.update().index) == [time_of(430)]


def test_a_market_that_lags_for_long_is_not_waited_for(run: Run, tmp_path: Path) -> None:
    store(tmp_path, 0, STORED)
    follower = Follower(run, tmp_path)
    follower.update()
    store(tmp_path, 430, 440, ("AAA",))
    update = follower.update()
    assert update.index[-1] == time_of(440 - 1 - 3)
    assert update["AAA"].notna().all()
    assert update["BBB"].isna().all()


def time_of(row: int) -> pd.Timestamp:
    return pd.Timestamp(int(BARS["AAA"]["timestamp"].iloc[row]), unit="ms", tz="UTC")
