"""Bars from files: every shape, every time format, and a line for everything that is wrong."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flashtrader.errors import ConfigError, DataError, FlashtraderError, SourceError, UnknownSymbolError
from flashtrader.interval import DAY_MS, Interval
from flashtrader.market.bars import Bars
from flashtrader.market.sources import Span
from flashtrader.market.sources.files import FileSource

HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000 // DAY_MS * DAY_MS
HOURLY, DAILY = Interval("60"), Interval("D")
NO_PARQUET = "Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file."


def make_bars(num_bars: int, step_ms: int = HOUR_MS) -> Bars:
    closes = 100.0 + np.arange(num_bars)
    return pd.DataFrame(
        {
            "timestamp": START_MS + step_ms * np.arange(num_bars),
            "open": closes - 0.5,
            "high": closes + 1.0,
            "low": closes - 1.0,
            "close": closes,
            "volume": 10.0 + np.arange(num_bars),
        }
    )


def write(table: pd.DataFrame, path: Path) -> Path:
    table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path, index=False)
    return path


def all_bars(path: Path, symbol: str, interval: Interval = HOURLY, now_ms: int | None = None) -> Bars:
    source = FileSource(path, now_ms=now_ms)
    [page] = source.pages(symbol, interval, source.history(symbol, interval))
    return page.bars


def refusal(kind: type[FlashtraderError], path: Path, symbol: str = "BTC", interval: Interval = HOURLY) -> str:
    """Return what is wrong with a file or directory, without its path, with which every message begins."""
    with pytest.raises(kind) as error:
        all_bars(path, symbol, interval)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("name", ["BTC-60.parquet", "BTC.csv", "Exchange_BTC_1h.csv"])
def test_a_file_of_one_market_comes_back_as_written(tmp_path: Path, name: str) -> None:
    bars = make_bars(30)
    pd.testing.assert_frame_equal(all_bars(write(bars, tmp_path / name), "BTC"), bars)


def test_pages_hold_the_span_and_claim_no_more_than_the_file_has(tmp_path: Path) -> None:
    bars = make_bars(30)
    source = FileSource(write(bars, tmp_path / "BTC.csv"))
    history = source.history("BTC", HOURLY)
    assert history == Span(START_MS, START_MS + 30 * HOUR_MS)
    [page] = source.pages("BTC", HOURLY, Span(START_MS + 20 * HOUR_MS, START_MS + 99 * HOUR_MS))
    assert page.answered == Span(START_MS + 20 * HOUR_MS, history.end_ms)
    pd.testing.assert_frame_equal(page.bars, bars.iloc[20:].reset_index(drop=True))
    assert list(source.pages("BTC", HOURLY, Span(history.end_ms, history.end_ms + HOUR_MS))) == []


TIMES = {
    "s": lambda ms: ms // 1000,
    "s as float": lambda ms: (ms // 1000).astype(float),
    "ms": lambda ms: ms,
    "us": lambda ms: ms * 1000,
    "ns": lambda ms: ms * 1_000_000,
    "UTC times": lambda ms: pd.to_datetime(ms, unit="ms", utc=True),
    "times elsewhere": lambda ms: pd.to_datetime(ms, unit="ms", utc=True).dt.tz_convert("America/New_York"),
    "times without a zone": lambda ms: pd.to_datetime(ms, unit="ms"),
    "ISO text": lambda ms: pd.to_datetime(ms, unit="ms").dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
    "text with an offset": lambda ms: pd.to_datetime(ms + 2 * HOUR_MS, unit="ms").dt.strftime("%Y-%m-%d %H:%M+02:00"),
    "text that is no CSV time": lambda ms: pd.to_datetime(ms, unit="ms").dt.strftime("%Y%m%dT%H%M%S"),
}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("form", TIMES)
def test_times_are_utc_in_any_form(tmp_path: Path, form: str, suffix: str) -> None:
    bars = make_bars(30)
    table = bars.assign(timestamp=TIMES[form](bars["timestamp"])).rename(columns={"timestamp": "Date"})
    pd.testing.assert_frame_equal(all_bars(write(table, tmp_path / f"BTC{suffix}"), "BTC"), bars)


@pytest.mark.parametrize("index_name", [None, "Date"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_times_may_be_the_index_that_pandas_wrote(tmp_path: Path, index_name: str | None, suffix: str) -> None:
    bars = make_bars(30)
    index = pd.to_datetime(bars["timestamp"].to_numpy(), unit="ms")
    table = bars.drop(columns="timestamp").rename(columns=str.capitalize).set_index(index.rename(index_name))
    path = tmp_path / f"BTC{suffix}"
    table.to_csv(path) if suffix == ".csv" else table.to_parquet(path)
    pd.testing.assert_frame_equal(all_bars(path, "BTC"), bars)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_wide_closes_repeat_the_close_and_have_no_volume(tmp_path: Path, suffix: str) -> None:
    days = make_bars(5, DAY_MS)
    wide = pd.DataFrame({"date": pd.to_datetime(days["timestamp"], unit="ms").dt.date, "AAA": days["close"]})
    wide["BBB"] = [1.0, np.nan, 3.0, 4.0, 5.0]
    path = write(wide, tmp_path / f"closes{suffix}")
    bars = all_bars(path, "AAA", DAILY)
    assert bars["timestamp"].tolist() == days["timestamp"].tolist()
    for price in ("open", "high", "low", "close"):
        assert bars[price].tolist() == days["close"].tolist()
    assert (bars["volume"] == 0).all()
    assert all_bars(path, "BBB", DAILY)["close"].tolist() == [1, 3, 4, 5], "a day without a close has no bar"


def test_long_tables_are_split_by_symbol_however_their_rows_lie(tmp_path: Path) -> None:
    btc, eth = make_bars(30), make_bars(20).assign(volume=7.0)
    mixed = pd.concat([btc.assign(Symbol="BTC"), eth.assign(Symbol="ETH")]).sort_values("timestamp", kind="stable")
    for table in (mixed, mixed.astype({"Symbol": "category"})):
        path = write(table, tmp_path / "all.parquet")
        pd.testing.assert_frame_equal(all_bars(path, "ETH"), eth)
        assert all_bars(path, "BTC")["close"].tolist() == btc["close"].tolist()


def test_turnover_is_kept_and_other_columns_are_not(tmp_path: Path) -> None:
    table = make_bars(5).assign(Turnover=7.0, trades=3)
    assert all_bars(write(table, tmp_path / "BTC.csv"), "BTC")["turnover"].tolist() == [7.0] * 5
    assert "trades" not in all_bars(tmp_path / "BTC.csv", "BTC")


def test_a_row_without_a_price_is_no_bar_and_with_half_of_them_an_error(tmp_path: Path) -> None:
    table = make_bars(5)
    table.loc[2, ["open", "high", "low", "close", "volume"]] = np.nan
    assert len(all_bars(write(table, tmp_path / "BTC.csv"), "BTC")) == 4
    table.loc[2, "close"] = 1.0
    assert refusal(DataError, write(table, tmp_path / "BTC.csv")) == (
        "BTC: bar 2023-11-14T02:00:00Z has no usable open: prices are above zero (open nan); correct or remove this row"
    )


def test_shorter_bars_are_joined_where_all_of_a_longer_one_is_there(tmp_path: Path) -> None:
    minutes = make_bars(150, 60_000)
    path = write(minutes.drop(index=[70]), tmp_path / "BTC.csv")
    [first] = all_bars(path, "BTC").to_dict("records")
    hour = minutes.iloc[:60]
    assert first == {
        "timestamp": START_MS,
        "open": hour["open"].iloc[0],
        "high": hour["high"].max(),
        "low": hour["low"].min(),
        "close": hour["close"].iloc[-1],
        "volume": hour["volume"].sum(),
    }


def test_a_directory_gives_the_longest_interval_that_makes_the_one_asked_for(tmp_path: Path) -> None:
    write(make_bars(300, 60_000), tmp_path / "BTC-1.parquet")
    write(make_bars(300, 300_000), tmp_path / "BTC-5.parquet")
    write(make_bars(300, HOUR_MS), tmp_path / "BTC-60.parquet")
    write(make_bars(20, HOUR_MS), tmp_path / "ETH.csv")
    assert len(all_bars(tmp_path, "BTC", HOURLY)) == 300
    assert len(all_bars(tmp_path, "BTC", Interval("15"))) == 100
    assert len(all_bars(tmp_path, "BTC", Interval("3"))) == 100
    assert len(all_bars(tmp_path, "BTC", Interval("120"))) == 150
    assert len(all_bars(tmp_path, "ETH")) == 20


def test_months_are_recognised_by_their_length(tmp_path: Path) -> None:
    months = make_bars(24, DAY_MS)
    months["timestamp"] = Interval("M").opening(np.arange(600, 624))
    path = write(months, tmp_path / "BTC.csv")
    assert len(all_bars(path, "BTC", Interval("M"))) == 24
    assert refusal(UnknownSymbolError, path, "BTC", DAILY) == (
        "BTC has bars of interval M, which can't make those of D; ask for --interval M or whole multiples of it"
    )


def test_a_last_bar_during_which_the_file_was_written_is_left_out(tmp_path: Path) -> None:
    path = write(make_bars(5), tmp_path / "BTC.csv")
    last_ms = START_MS + 4 * HOUR_MS
    for written_ms, num_bars in ((last_ms, 4), (last_ms + HOUR_MS - 1, 4), (last_ms + HOUR_MS, 5), (0, 5)):
        os.utime(path, ns=(0, written_ms * 1_000_000))
        assert len(all_bars(path, "BTC")) == num_bars


def test_bars_that_have_not_closed_by_now_are_left_out(tmp_path: Path) -> None:
    path = write(make_bars(5), tmp_path / "BTC.csv")
    assert len(all_bars(path, "BTC", now_ms=START_MS + 3 * HOUR_MS)) == 3
    with pytest.raises(DataError) as error:
        all_bars(path, "BTC", now_ms=START_MS)
    assert str(error.value) == f"{path}: BTC has no bar that has closed; check its times"


def test_a_market_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    bars = make_bars(5)
    write(pd.DataFrame({"time": bars["timestamp"], "BTC": 1.0, "ETH": 1.0}), tmp_path / "wide.csv")
    write(pd.concat([bars.assign(symbol="ETC"), bars.assign(symbol="DOGE")]), tmp_path / "long.csv")
    write(bars, tmp_path / "ETH-60.parquet")
    write(bars, tmp_path / "prices.csv")
    nearest = "no market BTS; the nearest of"
    assert refusal(UnknownSymbolError, tmp_path / "wide.csv", "BTS") == f"{nearest} 2 there: BTC, ETH"
    assert refusal(UnknownSymbolError, tmp_path / "long.csv", "BTS") == f"{nearest} 2 there: ETC, DOGE"
    assert refusal(UnknownSymbolError, tmp_path / "ETH-60.parquet", "BTS") == f"{nearest} 1 there: ETH"
    assert refusal(UnknownSymbolError, tmp_path / "prices.csv", "BTS") == (
        "holds one market, and its name does not say BTS; "
        "rename it BTS.csv if it is that, or ask for the symbol in its name"
    )
    assert refusal(UnknownSymbolError, tmp_path, "ETHER") == (
        "no market ETHER; the nearest of 4 there: ETH, wide, prices"
    )
    (tmp_path / "none").mkdir()
    assert refusal(UnknownSymbolError, tmp_path / "none") == "no market BTC; it holds none"


def test_an_interval_that_is_not_there_names_the_one_that_is(tmp_path: Path) -> None:
    path = write(make_bars(5), tmp_path / "BTC-60.csv")
    for asked in (path, tmp_path):
        with pytest.raises(UnknownSymbolError) as error:
            all_bars(asked, "BTC", Interval("5"))
        assert str(error.value) == (
            f"{path}: BTC has bars of interval 60, which can't make those of 5; "
            "ask for --interval 60 or whole multiples of it"
        )
    assert refusal(DataError, path, "BTC", Interval("W")) == (
        "BTC has no bar of interval W of which all bars of 60 are there; "
        "ask for a shorter --interval, or save more bars"
    )
    strange = write(make_bars(5, 420_000), tmp_path / "ETH.csv")
    assert refusal(DataError, strange, "ETH") == (
        "ETH has bars 7 minutes apart, which is no interval; "
        "save bars of one of 1, 3, 5, 15, 30, 60, 120, 240, 360, 720, D, W, M"
    )


DAMAGES = {
    "missing": (
        lambda table: table.drop(columns="close"),
        "no column close; bars need timestamp, open, high, low, close, volume; "
        "found timestamp, open, high, low, volume",
    ),
    "no time": (
        lambda table: table.rename(columns={"timestamp": "when"}),
        "no column of times; name it one of timestamp, open_time, time, datetime, date; "
        "found when, open, high, low, close, volume",
    ),
    "twice": (
        lambda table: pd.concat([table, table.iloc[-1:]]),
        "BTC: bar 2023-11-14T04:00:00Z is there twice; correct or remove this row",
    ),
    "out of order": (
        lambda table: table.iloc[::-1],
        "BTC: bar 2023-11-14T03:00:00Z is out of order: opening times must increase; correct or remove this row",
    ),
    "crossed": (
        lambda table: table.assign(high=table["low"] - 1),
        "BTC: bar 2023-11-14T00:00:00Z has high below low (high 98, low 99); correct or remove this row",
    ),
    "free": (
        lambda table: table.assign(low=[99.0, 0.0, 101.0, 102.0, 103.0]),
        "BTC: bar 2023-11-14T01:00:00Z has no usable low: prices are above zero (low 0); correct or remove this row",
    ),
    "text": (
        lambda table: table.astype({"close": object}).replace({"close": {102.0: "about 102"}}),
        "BTC: row 3: column close holds 'about 102', not a number; correct or remove this row",
    ),
    "bad time": (
        lambda table: table.assign(timestamp=[f"2023-11-14T0{hour}:00Z" for hour in range(4)] + ["yesterday"]),
        "BTC: row 5: column timestamp holds 'yesterday', not a time; correct or remove this row",
    ),
    "no time at all": (
        lambda table: table.assign(timestamp=["2023-11-14"] * 4 + [None]),
        "BTC: row 5: column timestamp holds 'None', not a time; correct or remove this row",
    ),
    "a date as a number": (
        lambda table: table.assign(timestamp=20231114),
        "BTC: column timestamp holds 20231114, which is no time; "
        "give s, ms, µs or ns since 1970, or ISO 8601 text such as 2024-01-31T12:00Z",
    ),
    "no date": (
        lambda table: table.assign(timestamp=[f"0{hour}:00:00" for hour in range(5)]),
        "BTC: column timestamp holds time32[s], which has no date; "
        "save it with dates, or as ISO 8601 text such as 2024-01-31T12:00Z",
    ),
    "booleans": (
        lambda table: table.assign(close=True),
        "BTC: column close holds bool, not numbers; save it as numbers",
    ),
    "no prices": (
        lambda table: table.assign(open=None, high=None, low=None, close=None),
        "no row of BTC has a price; save it again",
    ),
    "no rows": (lambda table: table.iloc[:0], "no rows below the header; save it again"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_with_its_place(tmp_path: Path, damage: str) -> None:
    change, message = DAMAGES[damage]
    assert refusal(DataError, write(change(make_bars(5)), tmp_path / "BTC.csv")) == message


def test_a_bar_off_the_grid_is_named(tmp_path: Path) -> None:
    table = make_bars(9)
    table.loc[4, "timestamp"] += 17 * 60_000
    assert refusal(DataError, write(table, tmp_path / "BTC.csv")) == (
        "BTC: bar 2023-11-14T04:17:00Z does not open on the 60 grid; correct or remove this row"
    )


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "BTC.csv").write_bytes(b"")
    assert refusal(DataError, tmp_path / "BTC.csv") == "empty file; save it again"
    (tmp_path / "BTC.csv").write_text("time,close\n1,2\n3,4,5\n")
    assert refusal(SourceError, tmp_path / "BTC.csv") == (
        "can't be read as CSV (CSV parse error: Expected 2 columns, got 3: 3,4,5); save it again"
    )
    (tmp_path / "BTC.csv").write_text("time,Close,Close\n1,2,3\n")
    assert refusal(DataError, tmp_path / "BTC.csv") == "column Close is there twice; keep one"
    (tmp_path / "BTC.csv").write_bytes(b"\xff\xfe\x00a,b\n1,2\n")
    assert refusal(SourceError, tmp_path / "BTC.csv") == (
        "can't be read as CSV ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte); save it again"
    )
    (tmp_path / "BTC.parquet").write_bytes(b"PAR1 and nothing else")
    assert refusal(SourceError, tmp_path / "BTC.parquet") == f"can't be read as Parquet ({NO_PARQUET}); save it again"
    write(make_bars(5), tmp_path / "cut.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "cut.parquet").read_bytes()[:-20])
    assert refusal(SourceError, tmp_path / "cut.parquet") == f"can't be read as Parquet ({NO_PARQUET}); save it again"
    (tmp_path / "BTC.xlsx").write_bytes(b"PK")
    assert refusal(SourceError, tmp_path / "BTC.xlsx") == (
        "not a file that ends in .parquet or .csv; save the bars as one"
    )
    assert refusal(ConfigError, tmp_path / "nowhere") == (
        "no such file or directory; give --path a file of bars or their directory"
    )


def test_absurd_sizes_are_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(make_bars(50), tmp_path / "BTC.parquet")
    monkeypatch.setattr("flashtrader.market.tables._MOST_CELLS", 299)
    assert refusal(SourceError, path) == "more than 299 values; split it by market"
    with (tmp_path / "BTC.csv").open("wb") as sparse:
        sparse.truncate(5 * 2**30)
    assert refusal(SourceError, tmp_path / "BTC.csv") == "5.0 GiB, more than 4; split it by market"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"time": pa.nulls(20_000_000)},
            "declares 20,000,000 values in {bytes} bytes, too few for a market's; save it again",
        ),
        ({"time": [[1]]}, "column time holds list<element: int64>; save it with one value in each cell"),
        (
            {"time": [{"a long name for a number": 1}]},
            "column time holds struct<a long name for a number: int64>; save it with one value in each cell",
        ),
    ],
)
def test_absurd_tables_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    path = tmp_path / "BTC.parquet"
    pq.write_table(pa.table(columns), path)
    assert refusal(SourceError, path) == message.format(bytes=f"{path.stat().st_size:,}")


def test_two_files_of_the_same_bars_are_a_question(tmp_path: Path) -> None:
    write(make_bars(5), tmp_path / "BTC-60.csv")
    write(make_bars(5), tmp_path / "BTC-60.parquet")
    assert refusal(ConfigError, tmp_path) == (
        "BTC-60.csv and BTC-60.parquet hold the same; keep one or give --path the file"
    )


REAL = [
    ("bybit-linear", "BTCUSDT", "60", 45_038),
    ("bybit-linear", "BTCUSDT", "15", 13_389),
    ("bybit-linear", "XRPUSDT", "5", 25_918),
    ("binance-um", "ADAUSDT", "60", 20_760),
    ("binance-spot/BTCUSDT-60.parquet", "BTCUSDT", "60", 58_419),
    ("bitfinex", "BTCUSD", "1", 259_781),
    ("bybit-linear-pages/ALL50-D.parquet", "ETHUSDT", "D", 1_000),
    ("bybit-linear-pages", "BTCUSDT", "5", 1_000),
    ("bybit-defects/BNBUSDT-1-gappy.parquet", "BNBUSDT", "1", 105_076),
    ("daily/SP500-20-D-close.parquet", "AAPL", "D", 8_313),
    ("daily/SP500TOP100-D.parquet", "AAPL", "D", 1_000),
    ("benchmarks/exchange_rate-D-close.parquet", "JPY", "D", 7_588),
    ("api_samples/kaggle_bitstamp/btcusd_1-min_data.head9999.csv", "BTCUSD", "1", 9_999),
]


@pytest.mark.market_data
@pytest.mark.parametrize(("path", "symbol", "code", "num_bars"), REAL)
def test_real_files_are_read_whole(market_data: Path, path: str, symbol: str, code: str, num_bars: int) -> None:
    bars = all_bars(market_data / path, symbol, Interval.parse(code))
    assert abs(len(bars) - num_bars) <= 1, "the file's last bar may have been open when it was written"
