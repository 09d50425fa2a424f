"""The benchmark's protocol: its windows, its figures, and that no forecast sees anything but its look-back."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import exchange_rate
from exchange_rate import LOOK_BACK, Benchmark, forecasters, persistence, score

DAYS, HORIZON, DAY_MS = 1_500, 6, 86_400_000
QUICK = {"max_steps": 8, "segment_bars": 160, "evaluate_every": 8, "learning_rate": 3e-3, "schedule_warmup_steps": 0}
MODELS = ("transformer", "dlinear", "ridge")


def table(rates: np.ndarray) -> pd.DataFrame:
    columns = {name: rates[:, asset] for asset, name in enumerate("ABC"[: rates.shape[1]])}
    return pd.DataFrame({"timestamp": np.arange(len(rates)) * DAY_MS, **columns})


def benchmark(rates: np.ndarray) -> Benchmark:
    rows = table(rates)
    return Benchmark.of(rows.drop(columns="timestamp"), rows["timestamp"].to_numpy(), HORIZON)


def reverting() -> np.ndarray:
    """Return three series that go back to their mean: what is far from it will move."""
    shocks = np.random.default_rng(0).normal(size=(DAYS, 3))
    levels = np.zeros_like(shocks)
    for day in range(1, DAYS):
        levels[day] = 0.6 * levels[day - 1] + shocks[day]
    return 100 + levels * [0.1, 1.0, 5.0]


@pytest.mark.market_data
@pytest.mark.parametrize(
    ("horizon", "mse", "mae"), [(96, 0.081, 0.196), (192, 0.167, 0.289), (336, 0.306, 0.398), (720, 0.810, 0.676)]
)
def test_persistence_has_the_literatures_errors(market_data: Path, horizon: int, mse: float, mae: float) -> None:
    series = Benchmark.read(market_data / "benchmarks" / "exchange_rate-D-close.parquet", horizon)
    result = score("persistence", persistence, series)
    assert (round(result.mse, 3), round(result.mae, 3)) == (mse, mae)
    assert result.windows == int(0.2 * 7_588) - horizon + 1


def test_the_series_are_scaled_by_the_training_days_and_windows_fill_their_part() -> None:
    series = benchmark(reverting())
    training = series.levels_TA[:1_050]
    np.testing.assert_allclose(training.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(training.std(axis=0), 1)
    split = series.split
    # The first day ahead of each part is the part's first; the last one's last day ahead is the part's last.
    assert (split.train.start, split.train.stop - 1 + HORIZON) == (LOOK_BACK - 1, 1_049)
    assert (split.validation.start + 1, split.validation.stop - 1 + HORIZON) == (1_050, 1_199)
    assert (split.test.start + 1, split.test.stop - 1 + HORIZON) == (1_200, 1_499)


def test_moves_and_look_backs_meet_at_the_newest_day() -> None:
    series = benchmark(reverting())
    rows, levels = series.split.test, series.levels_TA
    moves, seen = series.moves(rows), series.look_back(rows, asset=1)
    for window in (0, 7, len(rows) - 1):
        newest = rows.start + window
        expected = levels[newest + 1 : newest + 1 + HORIZON, 1] - levels[newest, 1]
        np.testing.assert_array_equal(moves[window, 1], expected)
        np.testing.assert_array_equal(seen[window], levels[newest - LOOK_BACK + 1 : newest + 1, 1] - levels[newest, 1])


@pytest.mark.parametrize("name", MODELS)
def test_a_forecast_sees_its_look_back_and_nothing_else(name: str) -> None:
    forecast = forecasters(QUICK)[name]
    rates = reverting()
    first = benchmark(rates).split.test.start
    told = forecast(benchmark(rates))
    cut = first + 40
    later, earlier = rates.copy(), rates.copy()
    later[cut + 1 :] *= 1.5
    np.testing.assert_array_equal(forecast(benchmark(later))[:41], told[:41])
    # Training and validation end before `first`: another value of the day after it leaves the fitted models alone.
    day = first + 1
    earlier[day] *= 1.5
    changed = (forecast(benchmark(earlier)) != told).any(axis=(1, 2))
    assert not changed[0]
    assert changed[1]
    assert changed[LOOK_BACK], "the oldest day of the look-back is seen"
    assert not changed[1 + LOOK_BACK :].any()


@pytest.mark.parametrize("name", MODELS)
def test_what_goes_back_to_its_mean_is_forecast_better_than_by_persistence(name: str) -> None:
    series = benchmark(reverting())
    ours = score(name, forecasters(QUICK | {"max_steps": 40})[name], series)
    assert ours.mse < 0.95 * score("persistence", persistence, series).mse


def test_the_script_prints_a_table_and_writes_what_it_was_made_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table(reverting()).to_parquet(tmp_path / "rates.parquet")
    out = tmp_path / "made.json"
    arguments = [tmp_path / "rates.parquet", "--models", "persistence", "ridge", "--horizons", "96", "4", "--out", out]
    monkeypatch.setattr(sys, "argv", ["exchange_rate.py", *map(str, arguments)])
    exchange_rate.main()
    made = json.loads(out.read_text())
    assert [(result["model"], result["horizon"]) for result in made["results"]] == [
        ("persistence", 96),
        ("ridge", 96),
        ("persistence", 4),
        ("ridge", 4),
    ]
    assert made["seed"] == 0
    assert made["versions"]["torch"]
    printed = capsys.readouterr().out
    assert f"{made['results'][1]['mse']:.3f}" in printed
    assert "Informer" in printed
