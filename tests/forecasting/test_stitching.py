"""Forecasts of a run of several models: by whom each bar is forecast, and what that model can have known."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments import SYMBOLS, tiny
from flashtrader.config import (
    Experiment,
)
from flashtrader.errors import ConfigError, DataError, TrainingError
from flashtrader.files import write_json
from flashtrader.forecasting.follow import Follower
from flashtrader.forecasting.forecast import Forecasts, answer_run, forecast_run, load_best
from flashtrader.run import Run
from flashtrader.training.loop import train_model
from panels import HOUR_MS, random_bars, store_bars

NUM_BARS = 400
FIRST, SECOND = 260, 340
"""First bars of the folds' tests."""


def store(data_dir: Path, *, stop: int = NUM_BARS, noise_from: int | None = None) -> Path:
    for seed, symbol in enumerate(SYMBOLS):
        bars, noise = random_bars(600, seed), random_bars(600, 50 + seed)
        if noise_from is not None:
            bars = bars.where(bars["timestamp"] < noise_from * HOUR_MS, noise).astype(bars.dtypes)
        store_bars(data_dir, symbol, bars[:stop])
    return data_dir


def experiment(*, walks: bool = True, family: str = "returns", seeds: tuple[int, ...] = (3, 4)) -> Experiment:
    return tiny(
        split={"walk_forward": {"train": 200, "validation": 60, "test": 80}} if walks else None,
        model={"family": family, "layers": 2, "dropout": 0.0},
        max_steps=4,
        learning_rate=0.01,
        evaluate_every=2,
        schedule_warmup_steps=100,
        seeds=seeds,
        plain_models=("ridge",),
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained")


@pytest.fixture(scope="module")
def data_dir(place: Path) -> Path:
    return store(place / "data")


def train(settings: Experiment, data_dir: Path, runs_dir: Path) -> Run:
    return train_model(settings, data_dir, runs_dir, lambda _metrics: None).run


@pytest.fixture(scope="module")
def run(place: Path, data_dir: Path) -> Run:
    return train(experiment(), data_dir, place / "runs")


@pytest.fixture(scope="module")
def made(run: Run, data_dir: Path) -> Forecasts:
    return forecast_run(run, data_dir)


def identical(first: pd.DataFrame, second: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(first, second, check_exact=True, check_freq=False)


def time_of(row: int) -> pd.Timestamp:
    return pd.Timestamp(row * HOUR_MS, unit="ms", tz="UTC")


def test_each_bar_from_the_first_test_on_has_one_forecast(made: Forecasts) -> None:
    assert list(made.forecasts.index) == [time_of(row) for row in range(FIRST, NUM_BARS)]
    assert made.forecasts.notna().all(axis=None)
    assert [(table.index[0], len(table)) for table in made.folds] == [
        (time_of(FIRST), SECOND - FIRST),
        (time_of(SECOND), NUM_BARS - SECOND),
    ]
    assert made.forecasts.attrs["target"]["horizon_bars"] == 2


def test_a_fold_is_forecast_as_its_members_forecast_alone(run: Run, made: Forecasts, data_dir: Path) -> None:
    for seed in (3, 4):
        alone = [forecast_run(run.member(f"fold-{fold:02}-seed-{seed}"), data_dir) for fold in (1, 2)]
        identical(pd.concat([each.forecasts for each in alone]), made.seeds[seed])
        if seed == 3:
            identical(pd.concat([each.plain["ridge"] for each in alone]), made.plain["ridge"])


def test_forecasts_are_the_mean_of_the_seeds(made: Forecasts) -> None:
    three, four = (table.to_numpy() for table in made.seeds.values())
    assert list(made.seeds) == [3, 4]
    assert not np.allclose(three, four)
    np.testing.assert_allclose(made.forecasts.to_numpy(), (three + four) / 2, rtol=1e-6)
    spread = made.spread_over_seeds(lambda table: float(table.iloc[0, 0]))
    assert spread is not None
    assert (spread.minimum, spread.maximum) == (min(three[0, 0], four[0, 0]), max(three[0, 0], four[0, 0]))


@pytest.mark.parametrize("cut", [FIRST + 20, SECOND - 1, SECOND + 30])
def test_later_bars_change_no_forecast_of_earlier_ones(run: Run, made: Forecasts, tmp_path: Path, cut: int) -> None:
    """Neither through the inputs, nor through the models: folds that end before the cut are trained alike without them.

    A fold whose test begins after the cut learns from the noise; none of its forecasts lies before the cut.
    """
    other = store(tmp_path / "data", noise_from=cut + 1)
    for noisy in (run, train(experiment(), other, tmp_path / "runs")):
        again = forecast_run(noisy, other)
        for table, before in ((again.forecasts, made.forecasts), (again.plain["ridge"], made.plain["ridge"])):
            identical(table[: time_of(cut)], before[: time_of(cut)])
            assert not np.allclose(table[time_of(cut + 4) :], before[time_of(cut + 4) :], rtol=1e-9, atol=0)


def test_the_newest_fold_forecasts_all_later_bars(run: Run, made: Forecasts, tmp_path: Path) -> None:
    longer = store(tmp_path / "data", stop=450)
    more = forecast_run(run, longer)
    assert len(more.forecasts) == 450 - FIRST
    identical(more.forecasts[: time_of(NUM_BARS - 1)], made.forecasts)
    newest = np.mean(
        [
            forecast_run(without_end(run.member(f"fold-02-seed-{seed}"), tmp_path), longer).forecasts.to_numpy()
            for seed in (3, 4)
        ],
        axis=0,
    )
    np.testing.assert_allclose(more.forecasts[time_of(SECOND) :], newest, rtol=1e-6)
    latest = forecast_run(run, longer, "latest")
    pd.testing.assert_frame_equal(latest.forecasts, more.forecasts[-1:], rtol=1e-5, check_freq=False)
    assert len(latest.folds) == 1


def without_end(run: Run, place: Path) -> Run:
    """Return a copy of a run that reads all stored bars."""
    copy = Run(shutil.copytree(run.path, place / run.name))
    data = run.experiment.data.model_copy(update={"end": None})
    copy.write_config(run.experiment.model_copy(update={"data": data}))
    return copy


def test_in_the_middle_of_the_tests_the_fold_of_that_time_is_the_newest(run: Run, tmp_path: Path) -> None:
    """As a person would have had it there and then: no fold that was trained later."""
    shorter = store(tmp_path / "data", stop=FIRST + 30)
    latest = forecast_run(run, shorter, "latest").forecasts
    assert latest.index[0] == time_of(FIRST + 29)
    values = [forecast_run(run.member(f"fold-01-seed-{seed}"), shorter).forecasts.iloc[-1] for seed in (3, 4)]
    np.testing.assert_allclose(latest.iloc[0], np.mean(values, axis=0), rtol=1e-5)


def test_following_is_by_the_newest_fold_and_the_mean_of_its_seeds(run: Run, tmp_path: Path) -> None:
    follower = Follower(run, store(tmp_path / "data"))
    first = follower.update()
    store_more(tmp_path / "data", NUM_BARS, 420)
    followed = pd.concat([first, follower.update()])
    at_once = forecast_run(run, tmp_path / "data").forecasts.loc[followed.index]
    assert len(followed) == 21
    pd.testing.assert_frame_equal(followed, at_once, rtol=0, atol=1e-6, check_freq=False)


def store_more(data_dir: Path, start: int, stop: int) -> None:
    for seed, symbol in enumerate(SYMBOLS):
        store_bars(data_dir, symbol, random_bars(600, seed)[start:stop].reset_index(drop=True))


def test_what_no_fold_leaves_unseen_is_refused(run: Run, data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as every:
        forecast_run(run, data_dir, "all")
    assert str(every.value) == (
        f"{run.path}: no fold of a walk-forward leaves the bars before its first test unseen; forecast those from "
        "there on with --split test, or the newest one with --split latest"
    )
    early = store(tmp_path / "data", stop=200)
    for part in ("test", "latest"):
        with pytest.raises(DataError) as refused:
            forecast_run(run, early, part)
        assert str(refused.value) == (
            f"{run.path}: no bar at or after 1970-01-11T20:00:00Z, where the run's test part begins; fetch newer bars"
        )


def test_a_bar_right_behind_an_outage_has_no_forecast(tmp_path: Path, run: Run) -> None:
    for seed, symbol in enumerate(SYMBOLS):
        bars = random_bars(NUM_BARS, seed)
        store_bars(tmp_path / "data", symbol, pd.concat([bars[:300], bars[-3:]], ignore_index=True))
    with pytest.raises(DataError) as refused:
        forecast_run(run, tmp_path / "data", "latest")
    assert str(refused.value) == (
        f"{run.path}: none of the 1 bars asked for has the 8 bars before it, without an outage, that a forecast "
        f"needs; fetch more into {tmp_path / 'data'}"
    )


def test_what_is_about_one_model_names_one(run: Run, data_dir: Path) -> None:
    for ask in (lambda: answer_run(run, data_dir), lambda: load_best(run)):
        with pytest.raises(ConfigError) as refused:
            ask()
        assert str(refused.value) == (
            f"{run.path}: a run of 4 models, where one is needed; give --run {run.path}/members/fold-02-seed-4, or "
            "another of them"
        )


def test_a_run_that_is_not_done_says_how_to_go_on(data_dir: Path, tmp_path: Path, run: Run) -> None:
    copy = Run(shutil.copytree(run.path, tmp_path / "tiny-001"))
    manifest = copy.manifest
    manifest["members"][1]["status"] = "interrupted"
    write_json(copy.path / "manifest.json", manifest)
    with pytest.raises(TrainingError) as refused:
        forecast_run(copy, data_dir)
    assert str(refused.value) == (
        f"{copy.path}: models not trained to their end yet: 1 of 4, from fold-01-seed-4 on; go on with: flashtrader "
        f"train --resume {copy.path}"
    )


@pytest.mark.parametrize("part", ["test", "all", "latest"])
def test_seeds_alone_forecast_any_part(data_dir: Path, tmp_path: Path, part: Any) -> None:
    run = train(experiment(walks=False), data_dir, tmp_path)
    made = forecast_run(run, data_dir, part)
    assert len(made.forecasts) == {"test": 80, "all": NUM_BARS, "latest": 1}[part]
    alone = [forecast_run(run.member(f"seed-{seed}"), data_dir, part).forecasts for seed in (3, 4)]
    np.testing.assert_allclose(made.forecasts, np.mean([table.to_numpy() for table in alone], axis=0), rtol=1e-6)
    assert made.folds == ()


def test_a_plain_model_walks_forward_too(data_dir: Path, tmp_path: Path, made: Forecasts) -> None:
    run = train(experiment(family="ridge"), data_dir, tmp_path)
    again = forecast_run(run, data_dir)
    identical(again.forecasts, made.plain["ridge"])
    assert (list(again.seeds), len(again.folds)) == ([], 2)
