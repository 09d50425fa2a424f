"""Order books from files of every shape, each made by hand, and the recorded ones where they are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flashtrader.errors import ConfigError, DataError, SourceError, UnknownSymbolError
from flashtrader.market.book_store import BookSeries, BookStore
from flashtrader.market.books import book_columns, book_values
from flashtrader.market.sources.book_files import read_book_file
from test_books import a_book

NO_ASK, NO_BID = 9_999_999_999, -9_999_999_999
LOBSTER_NAME = "AAPL_2012-06-21_34200000_57600000_{}_2.csv"
# Ask price, ask size, bid price, bid size of two levels; prices in dollars × 10,000.
LOBSTER_ROWS = [
    (34200.004241176, 1, [5859400, 200, 5853300, 18, 5859800, 200, 5853000, 150]),
    (34200.004260640, 3, [5859400, 200, 5853300, 18, NO_ASK, 0, 5853000, 150]),
    (34200.025552, 1, [5859400, 200, NO_BID, 0, 5859800, 200, NO_BID, 0]),
    (34201.685155243, 4, [5859400, 100, 5853300, 18, 5859800, 200, 5853000, 150]),
    (34202.0, 7, [5859400, 100, 5853300, 18, 5859800, 200, 5853000, 150]),
    (34203.0, 1, [5859400, 90, 5853300, 18, 5859800, 200, 5853000, 150]),
]
OPENING_MS = 1_340_285_400_000
"""2012-06-21 09:30 in New York, four hours behind UTC."""


def lobster(directory: Path, rows: list[tuple[float, int, list[int]]]) -> Path:
    messages = [f"{time:.9f},{kind},16113575,18,5853300,1" for time, kind, _ in rows]
    (directory / LOBSTER_NAME.format("message")).write_text("\n".join(messages) + "\n")
    path = directory / LOBSTER_NAME.format("orderbook")
    path.write_text("".join(",".join(map(str, book)) + "\n" for _, _, book in rows))
    return path


def test_lobster(tmp_path: Path) -> None:
    books, breaks = read_book_file(lobster(tmp_path, LOBSTER_ROWS), "AAPL")
    assert (books["timestamp"] - OPENING_MS).tolist() == [4, 1_685, 3_000]
    assert books["gap_before"].tolist() == [True, True, True]
    assert {time - OPENING_MS: broken.reason for time, broken in breaks.items()} == {
        1_685: "one_sided",
        3_000: "halted",
    }
    np.testing.assert_array_equal(
        book_values(books),
        [
            [[585.94, 200, 585.33, 18], [np.nan, 0, 585.3, 150]],
            [[585.94, 100, 585.33, 18], [585.98, 200, 585.3, 150]],
            [[585.94, 90, 585.33, 18], [585.98, 200, 585.3, 150]],
        ],
    )


def test_lobster_in_winter_is_five_hours_behind(tmp_path: Path) -> None:
    lobster(tmp_path, LOBSTER_ROWS)
    for path in list(tmp_path.iterdir()):
        path.rename(path.with_name(path.name.replace("2012-06-21", "2012-12-21")))
    books, _ = read_book_file(tmp_path / LOBSTER_NAME.format("orderbook").replace("06-21", "12-21"), "AAPL")
    assert pd.Timestamp(int(books["timestamp"].iloc[-1]), unit="ms").isoformat() == "2012-12-21T14:30:03"


def fi2010(directory: Path, mids: list[float], labels: int = 109) -> Path:
    """Write one event a column: ten levels a side around each mid, then the rest of the 149 rows."""
    level = np.arange(10)[:, None]
    mid = np.array(mids)
    rows = np.stack(
        [mid + 0.001 * (level + 1), level + 0.5 + 0 * mid, mid - 0.001 * (level + 1), level + 2.5 + 0 * mid], 1
    )
    values = np.vstack([rows.reshape(40, -1), np.full((labels, len(mids)), 2.0)])
    path = directory / "Train_Dst_NoAuction_DecPre_CF_1.txt"
    np.savetxt(path, values, fmt="%.7e")
    return path


def test_fi2010(tmp_path: Path) -> None:
    books, breaks = read_book_file(fi2010(tmp_path, [0.26, 0.2601, 0.26, 0.53, 0.531]), "FI2010")
    assert books["timestamp"].tolist() == [0, 1, 2, 3, 4]
    assert books["gap_before"].tolist() == [True, False, False, True, False]
    assert {time: broken.reason for time, broken in breaks.items()} == {3: "joined"}
    np.testing.assert_allclose(book_values(books)[1, :2], [[0.2611, 0.5, 0.2591, 2.5], [0.2621, 1.5, 0.2581, 3.5]])
    assert book_values(books).shape == (5, 10, 4)


@pytest.mark.parametrize(
    "scale",
    [
        lambda rows: (rows - rows.mean(1, keepdims=True)) / 0.1,
        lambda rows: (rows - rows.min(1, keepdims=True)) / np.ptp(rows, 1).clip(1e-9)[:, None],
    ],
)
def test_fi2010_scaled_row_by_row_is_refused(tmp_path: Path, scale) -> None:
    path = fi2010(tmp_path, [0.26, 0.2601, 0.26])
    np.savetxt(path, scale(np.loadtxt(path)))
    with pytest.raises(DataError) as refused:
        read_book_file(path, "FI2010")
    assert str(refused.value) == (
        f"{path}: prices are not in order, as after z-score or min-max scaling; give the DecPre file of FI-2010"
    )


def test_our_own_columns(tmp_path: Path) -> None:
    book = a_book()
    book.to_parquet(tmp_path / "BTCUSDT-binance.parquet")
    book.to_csv(tmp_path / "btcusdt.csv", index=False)
    for name in ("BTCUSDT-binance.parquet", "btcusdt.csv"):
        books, breaks = read_book_file(tmp_path / name, "BTCUSDT")
        pd.testing.assert_frame_equal(books, book)
        assert breaks == {}


def text(name: str, content: str) -> Callable[[Path], Path]:
    def write(directory: Path) -> Path:
        path = directory / name
        path.write_text(content)
        return path

    return write


def spoiled(kind: str, change: Callable[[str], str]) -> Callable[[Path], Path]:
    """Return what writes LOBSTER's files with another text in one of the two."""

    def write(directory: Path) -> Path:
        path = lobster(directory, LOBSTER_ROWS)
        changed = directory / LOBSTER_NAME.format(kind)
        changed.write_text(change(changed.read_text()))
        return path

    return write


def without_messages(directory: Path) -> Path:
    path = lobster(directory, LOBSTER_ROWS)
    (directory / LOBSTER_NAME.format("message")).unlink()
    return path


def of_no_day(directory: Path) -> Path:
    lobster(directory, LOBSTER_ROWS)
    for path in list(directory.iterdir()):
        path.rename(path.with_name(path.name.replace("2012-06-21", "2012-06-31")))
    return directory / LOBSTER_NAME.format("orderbook").replace("06-21", "06-31")


BOOK, MESSAGES = (LOBSTER_NAME.format(kind) for kind in ("orderbook", "message"))
FEW_ROWS = "FI-2010 has 40 of prices and sizes at least, all of them finite"
OTHER_NAME = "its name does not say AAPL; rename it if it is that, or ask for the symbol in its name"


@pytest.mark.parametrize(
    ("write", "error", "name", "message"),
    [
        (lambda directory: directory / "no", ConfigError, "no", "no such file; give --path one file of order books"),
        (lambda directory: directory, ConfigError, "", "no such file; give --path one file of order books"),
        (
            text("AAPL.xlsx", "1"),
            SourceError,
            "AAPL.xlsx",
            "not a file of order books: .parquet or .csv with their columns, LOBSTER, FI-2010",
        ),
        (
            text("AAPL.parquet", "1"),
            SourceError,
            "AAPL.parquet",
            "can't be read (Parquet file size is 1 bytes, smaller than the minimum file footer (8 bytes)); "
            "save it again",
        ),
        (
            text("AAPL.csv", "timestamp,price\n1,2\n"),
            DataError,
            "AAPL.csv",
            "no column ask_price_1, ask_size_1, bid_price_1, bid_size_1; a book has timestamp and, for each level i "
            "from 1, ask_price_i, ask_size_i, bid_price_i, bid_size_i",
        ),
        (
            text("AAPL.csv", ",".join(["timestamp", *book_columns(1)]) + "\n"),
            DataError,
            "AAPL.csv",
            "holds no order book with a bid and an ask; save it again",
        ),
        (text("AAPLX.csv", "timestamp\n1\n"), UnknownSymbolError, "AAPLX.csv", OTHER_NAME),
        (text(BOOK.replace("AAPL", "MSFT"), "1"), UnknownSymbolError, BOOK.replace("AAPL", "MSFT"), OTHER_NAME),
        (
            without_messages,
            SourceError,
            MESSAGES,
            "no such file; LOBSTER's order books have their times in it",
        ),
        (
            of_no_day,
            SourceError,
            BOOK.replace("06-21", "06-31"),
            "2012-06-31 in its name is no date; name it as LOBSTER does",
        ),
        (
            spoiled("orderbook", lambda rows: rows.split("\n", 1)[1]),
            DataError,
            BOOK,
            "5 rows of 8 columns beside 6 messages; 8 columns and a message for each row are expected",
        ),
        (
            spoiled("orderbook", lambda rows: rows.replace("200", "many", 1)),
            SourceError,
            BOOK,
            "can't be read as LOBSTER's CSV (could not convert string to float: 'many'); save it again",
        ),
        (
            spoiled("message", lambda rows: rows.replace("34200.025552000", "1e400", 1)),
            DataError,
            MESSAGES,
            "row 3: inf is no time in seconds after midnight; save it again",
        ),
        (
            spoiled("message", lambda rows: rows.replace("34200.025552000", "", 1)),
            DataError,
            MESSAGES,
            "row 3: nan is no time in seconds after midnight; save it again",
        ),
        (
            lambda directory: lobster(directory, LOBSTER_ROWS[2:3]),
            DataError,
            BOOK,
            "holds no order book with a bid and an ask; save it again",
        ),
        (text("x.txt", "1 2\n3 4\n"), DataError, "x.txt", f"2 rows of numbers; {FEW_ROWS}"),
        (text("x.txt", "# none\n"), DataError, "x.txt", f"0 rows of numbers; {FEW_ROWS}"),
        (text("x.txt", "inf -inf\n" * 40), DataError, "x.txt", f"40 rows of numbers; {FEW_ROWS}"),
        (
            text("x.txt", "one two\n"),
            SourceError,
            "x.txt",
            "can't be read as FI-2010 (could not convert string 'one' to float64 at row 0, column 1.); "
            "it is numbers, divided by spaces",
        ),
    ],
)
def test_what_can_not_be_read_is_one_line(
    tmp_path: Path, write: Callable[[Path], Path], error: type[Exception], name: str, message: str
) -> None:
    path = write(tmp_path)
    with pytest.raises(error) as refused:
        read_book_file(path, "AAPL")
    assert type(refused.value) is error
    assert str(refused.value) == f"{tmp_path / name}: {message}"


@pytest.mark.market_data
@pytest.mark.parametrize(
    ("name", "symbol", "rows"),
    [("BTCUSDT-binance-spot-L20-20240808", "BTCUSDT", 6_492), ("BTCUSD-bitstamp-L20-20150501", "BTCUSD", 5_011)],
)
def test_the_recorded_books(market_data: Path, tmp_path: Path, name: str, symbol: str, rows: int) -> None:
    path = market_data / "books" / f"{name}.parquet"
    books, breaks = read_book_file(path, symbol)
    store, series = BookStore(tmp_path), BookSeries("file", symbol, 20)
    assert store.append(series, books, breaks) == rows
    pd.testing.assert_frame_equal(store.read(series).drop(columns="gap_before"), pd.read_parquet(path))
    assert store.ledger(series).gaps == {}
