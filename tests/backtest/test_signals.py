import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flashtrader.backtest.signals import check_signals, read_signals
from flashtrader.errors import ConfigError, DataError
from flashtrader.interval import Interval

HOUR_MS = 3_600_000
HOURLY = Interval("60")
START_MS = 1_704_067_200_000  # 2024-01-01 00:00 UTC
CLOCK = START_MS + HOUR_MS * np.delete(np.arange(48), 30)  # a bar is missing on the second day, at 06:00
SYMBOLS = ("BTCUSDT", "ETHUSDT")


@pytest.fixture
def weights() -> pd.DataFrame:
    index = pd.to_datetime(CLOCK[5:15], unit="ms", utc=True).as_unit("ms").rename("time")
    values = np.random.default_rng(0).normal(size=(10, 2))
    values[3, 1] = math.nan
    return pd.DataFrame(values, index=index, columns=list(SYMBOLS))


def check(signals: pd.DataFrame) -> pd.DataFrame:
    return check_signals(signals, CLOCK, SYMBOLS, HOURLY, "weights.csv")


def as_csv(signals: pd.DataFrame, path: Path) -> Path:
    signals.to_csv(path, index=signals.index.name is not None)
    return path


def as_parquet(signals: pd.DataFrame, path: Path) -> Path:
    path = path.with_suffix(".parquet")
    signals.to_parquet(path)
    return path


def milliseconds(signals: pd.DataFrame) -> pd.DataFrame:
    return signals.set_axis(signals.index.as_unit("ms").asi8).rename_axis("time")


@pytest.mark.parametrize("write", [as_csv, as_parquet])
@pytest.mark.parametrize(
    "variant",
    [
        lambda signals: signals,
        lambda signals: signals.reset_index(),
        lambda signals: signals.tz_localize(None),
        lambda signals: signals.tz_convert("Asia/Tokyo"),
        lambda signals: signals.set_axis(signals.index.as_unit("ns")),
        lambda signals: signals.set_axis([time.isoformat() for time in signals.index]).rename_axis("time"),
        lambda signals: signals[["ETHUSDT", "BTCUSDT"]],
        milliseconds,
    ],
)
def test_every_way_to_write_the_times_reads_back_the_same(weights, tmp_path, write, variant) -> None:
    path = write(variant(weights), tmp_path / "weights.csv")
    pd.testing.assert_frame_equal(read_signals(path, CLOCK, SYMBOLS, HOURLY), weights, check_freq=False)


def test_some_symbols_and_some_bars_are_enough(weights) -> None:
    some = weights.loc[weights.index[::3], ["ETHUSDT"]].astype(np.float32)
    checked = check(some)
    assert list(checked.columns) == ["ETHUSDT"]
    assert checked.dtypes.iloc[0] == np.float64
    np.testing.assert_array_equal(checked, some)


def test_whole_numbers_are_weights_too(weights) -> None:
    assert check(pd.DataFrame(1, weights.index, weights.columns)).eq(1.0).all().all()


def moved(signals: pd.DataFrame, milliseconds: int) -> pd.DataFrame:
    return signals.set_axis(signals.index + pd.Timedelta(milliseconds, "ms")).rename_axis("time")


def retimed(signals: pd.DataFrame, times) -> pd.DataFrame:
    return signals.iloc[: len(times)].set_axis(pd.Index(times, name="time"))


NO_BAR = "is not the opening time of a bar of the data"
CLOSING = "these look like closing times; label a row with its bar's opening time"
EMPTY = "empty; expected a row per decision bar and a column per symbol"
BAD_TABLES = {
    "closing times at the last second": (
        lambda w: moved(w, HOUR_MS - 1_000),
        f"time 2024-01-01T05:59:59Z {NO_BAR}: {CLOSING}",
    ),
    "closing times at the last millisecond": (
        lambda w: moved(w, HOUR_MS - 1),
        f"time 2024-01-01T05:59:59Z {NO_BAR}: {CLOSING}",
    ),
    "closing times after the last bar": (
        lambda w: retimed(w, pd.to_datetime(CLOCK[-5:] + HOUR_MS, unit="ms")),
        f"time 2024-01-03T00:00:00Z {NO_BAR}: {CLOSING}",
    ),
    "another interval": (
        lambda w: retimed(w, pd.date_range("2024-01-01", periods=6, freq="15min")),
        f"time 2024-01-01T00:15:00Z {NO_BAR}: rows are 15 minutes apart, the data's interval is 60",
    ),
    "off the grid": (
        lambda w: moved(w, 5 * 60_000),
        f"time 2024-01-01T05:05:00Z {NO_BAR}: it is not on the grid of interval 60",
    ),
    "seconds": (
        lambda w: retimed(w, CLOCK[:5] // 1_000),
        f"time 1970-01-20T17:21:07Z {NO_BAR}: these look like seconds; write milliseconds",
    ),
    "a hole in the data": (
        lambda w: retimed(w, pd.to_datetime(["2024-01-02T05:00Z", "2024-01-02T06:00Z"])),
        f"time 2024-01-02T06:00:00Z {NO_BAR}: the data has no bar there; leave the row out",
    ),
    "before the data": (
        lambda w: moved(w, -48 * HOUR_MS),
        f"time 2023-12-30T05:00:00Z {NO_BAR}: the data runs from 2024-01-01T00:00:00Z to 2024-01-02T23:00:00Z; cut the "
        "file, or widen data.start and data.end",
    ),
    "twice": (lambda w: w.iloc[[0, 1, 1, 2]], "time 2024-01-01T06:00:00Z is there more than once; keep one row"),
    "out of order": (
        lambda w: w.iloc[[0, 2, 1]],
        "time 2024-01-01T06:00:00Z comes after 2024-01-01T07:00:00Z; sort the rows, one a bar",
    ),
    "not a time": (
        lambda w: retimed(w, ["2024-01-01T05:00", "yesterday"]),
        "row 2: column time: expected ISO 8601 times or whole milliseconds, found 'yesterday'",
    ),
    "a fraction for a time": (
        lambda w: retimed(w, [1.5, 2.5]),
        "column time: expected ISO 8601 times or whole milliseconds, found float64",
    ),
    "a time is missing": (
        lambda w: retimed(w, pd.to_datetime(["2024-01-01T05:00Z", None])),
        "row 2: no time; give each row its bar's opening time",
    ),
    "no time": (
        lambda w: w.reset_index(drop=True),
        "no column `time`, found BTCUSDT, ETHUSDT; it holds the bars' opening times",
    ),
    "unknown symbol": (
        lambda w: w.rename(columns={"ETHUSDT": "ETHUSD"}),
        "column ETHUSD: not a symbol of the data (BTCUSDT, ETHUSDT); the nearest is ETHUSDT",
    ),
    "a symbol twice": (
        lambda w: w.set_axis(["BTCUSDT", "BTCUSDT"], axis=1),
        "column BTCUSDT: there more than once; keep one",
    ),
    "infinite": (
        lambda w: w.replace(w.iloc[2, 0], -math.inf),
        "column BTCUSDT, time 2024-01-01T07:00:00Z: -inf is not a finite number; leave a cell empty for none",
    ),
    "text": (
        lambda w: w.astype(object).replace(w.iloc[2, 1], "buy"),
        "column ETHUSDT, time 2024-01-01T07:00:00Z: buy is not a finite number; leave a cell empty for none",
    ),
    "no rows": (lambda w: w.iloc[:0], EMPTY),
    "no columns": (lambda w: w[[]], EMPTY),
    "no numbers": (lambda w: w * math.nan, "no number in any column; every cell is empty"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_what_is_wrong_is_said_in_one_line(weights, name) -> None:
    spoil, message = BAD_TABLES[name]
    with pytest.raises(DataError) as refused:
        check(spoil(weights))
    assert str(refused.value) == f"weights.csv: {message}"


@pytest.mark.parametrize(
    ("name", "content", "kind", "message"),
    [
        ("empty.csv", b"", DataError, "empty; expected a column `time` and a column per symbol"),
        ("header.csv", b"time,BTCUSDT\n", DataError, EMPTY),
        (
            "twice.csv",
            b"time,BTCUSDT,BTCUSDT\n0,1,1\n",
            DataError,
            "column BTCUSDT: there more than once; keep one",
        ),
        (
            "wide.csv",
            b"time,BTCUSDT\n0,1,1\n3600000,1,1\n",
            DataError,
            "rows of more cells than the header's 2; name each column, `time` or a symbol",
        ),
        (
            "ragged.csv",
            b"time,BTCUSDT\n2024-01-01,1,2,3\n2024-01-01T01:00,1,2,3,4,5\n",
            DataError,
            "damaged, not readable as a table (Error tokenizing data. C error: Expected 4 fields in line 3, saw 6); "
            "make it again",
        ),
        (
            "binary.csv",
            b"\xff\xfe\x00\x81\n",
            DataError,
            "damaged, not readable as a table ('utf-8' codec can't decode byte 0xff in position 0: invalid start "
            "byte); make it again",
        ),
        (
            "cut.parquet",
            b"PAR1 and then nothing",
            DataError,
            "damaged, not readable as a table (Parquet magic bytes not found in footer. Either the file is corrupted "
            "or this is not a parquet file.); make it again",
        ),
        ("weights.xlsx", b"", ConfigError, "forecasts and weights are read from .csv or .parquet files"),
    ],
)
def test_files_that_are_not_tables(tmp_path, name, content, kind, message) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(kind) as refused:
        read_signals(path, CLOCK, SYMBOLS, HOURLY)
    assert str(refused.value) == f"{path}: {message}"


def test_a_file_made_for_bars_of_another_interval(weights, tmp_path) -> None:
    weights.attrs["interval"] = "5"
    path = as_parquet(weights, tmp_path / "weights")
    with pytest.raises(DataError) as refused:
        read_signals(path, CLOCK, SYMBOLS, HOURLY)
    assert str(refused.value) == f"{path}: made for bars of interval 5, and the data's is 60; set data.interval to 5"


@pytest.mark.parametrize("name", ["absent.csv", "absent.parquet"])
def test_a_file_that_is_not_there(tmp_path, name) -> None:
    path = tmp_path / name
    with pytest.raises(ConfigError) as refused:
        read_signals(path, CLOCK, SYMBOLS, HOURLY)
    assert str(refused.value) == f"{path}: no such file; give a CSV or Parquet file of forecasts or weights"
