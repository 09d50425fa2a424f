from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashtrader.errors import ConfigError, DataError
from flashtrader.interval import Interval
from flashtrader.market.bars import COLUMNS, fingerprint, no_bars, resample, validate_bars

MINUTE = Interval("1")
FIVE = Interval("5")
HOUR = Interval("60")


def walk(num_bars: int, interval: Interval = HOUR, first: int = 1_600_000_000_000, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    close = 100 * np.exp(random.normal(scale=0.01, size=num_bars).cumsum())
    open_ = close * np.exp(random.normal(scale=0.005, size=num_bars))
    number = interval.index(np.array([first])) + np.arange(num_bars)
    return pd.DataFrame(
        {
            "timestamp": interval.opening(number),
            "open": open_,
            "high": np.maximum(open_, close) * 1.001,
            "low": np.minimum(open_, close) * 0.999,
            "close": close,
            "volume": random.uniform(1, 2, num_bars),
        }
    )


def test_valid_bars_come_back_as_they_are() -> None:
    bars = walk(10).assign(turnover=np.nan)
    pd.testing.assert_frame_equal(validate_bars(bars, HOUR, "here"), bars)


def test_columns_are_normalised() -> None:
    bars = walk(3)
    messy = bars.assign(volume=[1, 2, 3], symbol="BTC")[["symbol", *reversed(COLUMNS)]].set_index(pd.Index([5, 6, 7]))
    clean = validate_bars(messy, HOUR, "here")
    assert list(clean.columns) == list(COLUMNS)
    assert list(clean.index) == [0, 1, 2]
    assert set(clean.dtypes[1:]) == {np.dtype(np.float64)}


def test_no_bars_are_valid() -> None:
    assert validate_bars(no_bars(), HOUR, "here").empty


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("open", 0.0, "has no usable open: prices are above zero (open 0)"),
        ("close", -1.0, "has no usable close: prices are above zero (close -1)"),
        ("high", np.inf, "has no usable high: prices are above zero (high inf)"),
        ("low", np.nan, "has no usable low: prices are above zero (low nan)"),
        ("high", 1e-3, "has high below low (high 0.001, low 99)"),
        ("open", 1e6, "has open outside [low, high] (open 1e+06, low 99, high 102)"),
        ("close", 1e6, "has close outside [low, high] (close 1e+06, low 99, high 102)"),
        ("volume", -1.0, "has no usable volume: zero or more (volume -1)"),
        ("volume", np.nan, "has no usable volume: zero or more (volume nan)"),
        ("turnover", -1.0, "has a turnover below zero (turnover -1)"),
    ],
)
def test_a_wrong_value_is_named_with_its_bar(column: str, value: float, problem: str) -> None:
    bars = walk(5).assign(turnover=1.0)
    bars.loc[2, ["open", "high", "low", "close"]] = [100.0, 102.0, 99.0, 101.0]
    bars.loc[2, column] = value
    assert refusal(bars) == f"here: bar {iso(bars, 2)} {problem}; correct or remove this row"


@pytest.mark.parametrize(
    ("order", "problem", "bad"),
    [
        ([0, 2, 1], "is out of order: opening times must increase", 2),
        ([0, 1, 1], "is there twice", 2),
        ([2, 0], "is out of order: opening times must increase", 1),
    ],
)
def test_disorder_is_refused(order: list[int], problem: str, bad: int) -> None:
    bars = walk(3).iloc[order].reset_index(drop=True)
    assert refusal(bars) == f"here: bar {iso(bars, bad)} {problem}; correct or remove this row"


def test_a_bar_off_the_grid_is_refused() -> None:
    bars = walk(3)
    bars.loc[1, "timestamp"] += 60_000
    assert refusal(bars) == f"here: bar {iso(bars, 1)} does not open on the 60 grid; correct or remove this row"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda bars: bars.drop(columns=["high", "volume"]),
            "no column high, volume; bars need timestamp, open, high, low, close, volume, "
            "found timestamp, open, low, close",
        ),
        (
            lambda bars: bars.assign(close="dear"),
            "column close holds something other than numbers (could not convert string to float: 'dear')",
        ),
        (
            lambda bars: bars.assign(timestamp=bars["timestamp"] / 1e3),
            "column timestamp holds float64; give whole milliseconds since 1970, UTC",
        ),
        (lambda bars: pd.concat([bars, bars[["close"]]], axis=1), "column close is there twice; keep one"),
    ],
)
def test_wrong_columns_are_refused(change: Any, problem: str) -> None:
    assert refusal(change(walk(3))) == f"here: {problem}"


def refusal(bars: pd.DataFrame) -> str:
    with pytest.raises(DataError) as refused:
        validate_bars(bars, HOUR, "here")
    return str(refused.value)


def iso(bars: pd.DataFrame, row: int) -> str:
    return pd.Timestamp(bars["timestamp"].iloc[row], unit="ms").strftime("%Y-%m-%dT%H:%M:%SZ")


@given(missing=st.sets(st.integers(0, 119), max_size=20), first_minute=st.integers(0, 59))
def test_resampling_makes_exactly_the_whole_hours(missing: set[int], first_minute: int) -> None:
    bars = walk(120, MINUTE, first=1_599_998_400_000 + first_minute * 60_000).drop(index=list(missing))
    longer = resample(bars, MINUTE, HOUR)
    whole = {hour: group for hour, group in bars.groupby(bars["timestamp"] // 3_600_000) if len(group) == 60}
    assert list(longer["timestamp"]) == [hour * 3_600_000 for hour in whole]
    for row, group in zip(longer.itertuples(), whole.values(), strict=True):
        assert (row.open, row.close) == (group["open"].iloc[0], group["close"].iloc[-1])
        assert (row.high, row.low) == (group["high"].max(), group["low"].min())
        assert row.volume == pytest.approx(group["volume"].sum())
    if len(longer):
        validate_bars(longer, HOUR, "resampled")


@given(missing=st.sets(st.integers(0, 119), max_size=20), limit=st.integers(0, 4))
def test_resampling_may_bridge_short_holes(missing: set[int], limit: int) -> None:
    bars = walk(120, MINUTE, first=1_599_998_400_000).drop(index=list(missing))
    longer = resample(bars, MINUTE, HOUR, limit)
    minutes = bars["timestamp"].to_numpy() // 60_000
    for hour in (1_599_998_400_000 // 3_600_000, 1_599_998_400_000 // 3_600_000 + 1):
        there = minutes[minutes // 60 == hour]
        holes = np.diff(there, prepend=hour * 60 - 1, append=hour * 60 + 60) - 1
        assert (hour * 3_600_000 in set(longer["timestamp"])) == (len(there) > 0 and holes.max() <= limit)


def test_resampling_in_two_steps_is_resampling_in_one() -> None:
    bars = walk(1_000, MINUTE).assign(turnover=3.0)
    twice = resample(resample(bars, MINUTE, FIVE), FIVE, HOUR)
    pd.testing.assert_frame_equal(twice, resample(bars, MINUTE, HOUR))
    pd.testing.assert_frame_equal(resample(bars, MINUTE, MINUTE), bars)


def test_days_make_months() -> None:
    days = walk(91, Interval("D"), first=1_577_836_800_000)  # 2020-01-01, and 2020 is a leap year
    assert len(resample(days, Interval("D"), Interval("M"))) == 3
    assert len(resample(days.iloc[1:], Interval("D"), Interval("M"))) == 2


@pytest.mark.parametrize(("interval", "to"), [("3", "5"), ("60", "1"), ("W", "M"), ("M", "W"), ("M", "D")])
def test_bars_that_do_not_fit_are_refused(interval: str, to: str) -> None:
    with pytest.raises(ConfigError) as refused:
        resample(no_bars(), Interval.parse(interval), Interval.parse(to))
    assert str(refused.value) == (
        f"bars of interval {to} don't consist of whole bars of interval {interval}; choose a whole multiple of it"
    )


def test_a_fingerprint_tells_any_change() -> None:
    bars = walk(5)
    same = fingerprint(bars.copy())
    assert same == fingerprint(bars)
    assert (same["rows"], same["first"], same["last"]) == (5, iso(bars, 0), iso(bars, 4))
    for column in COLUMNS:
        changed = bars.copy()
        changed.loc[3, column] += 1
        assert fingerprint(changed)["sha256"] != same["sha256"]
    assert fingerprint(bars.iloc[:4])["sha256"] != same["sha256"]
    assert fingerprint(no_bars())["first"] is None
