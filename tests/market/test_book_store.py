"""Order books on disk: runs are extended, never bridged, whoever writes and wherever a writer is killed."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flashtrader.config import DataConfig
from flashtrader.errors import ConfigError, DataError
from flashtrader.market import book_store as store_module
from flashtrader.market import parts as parts_module
from flashtrader.market.book_ledger import BookLedger, Break
from flashtrader.market.book_store import BookSeries, BookStore, load_books
from flashtrader.market.books import Books, best_levels
from test_books import START_MS, a_book

BTC = BookSeries("bybit", "BTCUSDT", 3)
BOOK = a_book(100)
TIMES = BOOK["timestamp"].to_numpy()
NOISE = Break("out_of_sequence", "update 9 came where 8 was due")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BookStore:
    """A store whose parts hold 16 rows."""
    monkeypatch.setattr(store_module, "ROWS_PER_PART", 16)
    return BookStore(tmp_path / "data")


def put(store: BookStore, first: int, end: int, follows: int | None = None) -> int:
    rows = BOOK.iloc[first:end].assign(gap_before=False)
    return store.append(BTC, rows, follows_ms=None if follows is None else int(TIMES[follows]))


def parts(store: BookStore) -> list[Path]:
    return sorted(store.directory(BTC).glob("books-*.parquet"))


def gaps(store: BookStore) -> list[int]:
    """Return the numbers of the stored rows after a gap, as both rows and ledger have them."""
    books = store.read(BTC)
    marked = books["timestamp"][books["gap_before"]].tolist()
    assert [run.first_ms for run in store.ledger(BTC).runs] == marked
    assert store.ledger(BTC).rows == len(books)
    return np.searchsorted(TIMES, marked).tolist()


def test_rows_that_follow_make_one_run(store: BookStore) -> None:
    assert [put(store, 0, 10), put(store, 10, 11, 9), put(store, 11, 100, 10)] == [10, 1, 89]
    pd.testing.assert_frame_equal(store.read(BTC), BOOK)
    assert gaps(store) == [0]
    assert [len(pd.read_parquet(part)) for part in parts(store)] == [16, 16, 16, 16, 16, 16, 4]


def test_rows_that_say_nothing_or_follow_something_else_begin_a_run(store: BookStore) -> None:
    put(store, 0, 10)
    put(store, 10, 20)
    put(store, 20, 30, 18)
    put(store, 31, 40, 29)
    assert gaps(store) == [0, 10, 20]


def test_what_is_stored_wins_and_runs_are_never_bridged(store: BookStore) -> None:
    put(store, 20, 40)
    put(store, 60, 70)
    other = BOOK.assign(ask_size_1=7.0, gap_before=False)
    assert store.append(BTC, other) == 70
    books = store.read(BTC)
    stored = np.r_[20:40, 60:70]
    assert (books["ask_size_1"][stored] == 1).all()
    assert (books["ask_size_1"].drop(stored) == 7).all()
    assert gaps(store) == [0, 20, 40, 60, 70]
    assert store.append(BTC, other) == 0


def test_reasons_are_kept(store: BookStore) -> None:
    rows = BOOK.iloc[:10].assign(gap_before=np.arange(10) % 5 == 0)
    store.append(BTC, rows, {int(TIMES[5]): NOISE})
    began, broken = store.ledger(BTC).runs
    assert (began.broken.reason, broken.broken, broken.rows) == ("began", NOISE, 5)
    assert store.ledger(BTC).gaps == {"out_of_sequence": 1}
    assert BookLedger.from_json(json.loads(json.dumps(store.ledger(BTC).to_json()))) == store.ledger(BTC)


def test_a_time_asked_for(store: BookStore) -> None:
    put(store, 0, 100)
    books = store.read(BTC, int(TIMES[30]), int(TIMES[50]))
    expected = BOOK.iloc[30:50].reset_index(drop=True)
    expected.loc[0, "gap_before"] = True
    pd.testing.assert_frame_equal(books, expected)
    with pytest.raises(DataError) as refused:
        store.read(BTC, 0, START_MS)
    assert str(refused.value) == (
        f"{store.directory(BTC)}: nothing of the book of BTCUSDT, 3 levels, from bybit in the time asked for; stored "
        "is 2023-11-14T22:13:20Z to 2023-11-14T22:13:44Z"
    )


def test_nothing_stored_says_how_to_get_it(store: BookStore) -> None:
    with pytest.raises(DataError) as refused:
        store.read(BTC)
    assert str(refused.value) == (
        f"{store.directory(BTC)}: nothing of the book of BTCUSDT, 3 levels, from bybit; get it with "
        "`flashtrader fetch --kind orderbook --source bybit --symbols BTCUSDT --levels 3`"
    )


@pytest.mark.parametrize("survivors", range(6))
def test_a_kill_between_two_files_never_bridges(
    store: BookStore, monkeypatch: pytest.MonkeyPatch, survivors: int
) -> None:
    """Stop an append after each of its writes: what is there is right, marked, and goes on."""
    put(store, 0, 10)
    put(store, 60, 70)
    real, done = parts_module.replacing, 0

    def dies(path: Path):
        nonlocal done
        done += 1
        if done > survivors:
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(parts_module, "replacing", dies)
    monkeypatch.setattr("flashtrader.files.replacing", dies)
    if survivors < 5:  # the ledger, three parts, the ledger
        with pytest.raises(KeyboardInterrupt):
            put(store, 15, 55)
    else:
        put(store, 15, 55)
    monkeypatch.setattr(parts_module, "replacing", real)
    monkeypatch.setattr("flashtrader.files.replacing", real)

    assert set(gaps(store)) == ({0, 60} if survivors < 2 else {0, 15, 60})
    put(store, 15, 55)
    assert store.ledger(BTC).examined
    stored = np.r_[0:10, 15:55, 60:70]
    assert store.read(BTC)["timestamp"].tolist() == TIMES[stored].tolist()
    assert {0, 15, 60} <= set(gaps(store)) <= {0, 15, 31, 47, 60}


def test_a_part_that_is_gone_leaves_a_gap(store: BookStore) -> None:
    put(store, 0, 100)
    parts(store)[2].unlink()
    assert gaps(store) == [0, 48]
    assert store.ledger(BTC).gaps == {"unexplained": 1}
    assert put(store, 0, 100) == 16
    assert gaps(store) == [0, 32, 48]


def test_a_ledger_that_is_gone_is_made_anew(store: BookStore) -> None:
    put(store, 0, 10)
    put(store, 10, 20)
    (store.directory(BTC) / "ledger.json").unlink()
    assert gaps(store) == [0, 10]
    put(store, 20, 30, 19)
    assert gaps(store) == [0, 10]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda directory: (directory / "ledger.json").write_text("{}"),
            "{directory}/ledger.json: not a ledger (runs: field required); set it aside with `flashtrader fetch "
            "--check --repair`: it is made anew, without the reasons of gaps",
        ),
        (
            lambda directory: next(directory.glob("books-*")).write_bytes(b"PAR1"),
            "{directory}/books-20231114T221320000Z.parquet: damaged (Parquet file size is 4 bytes, smaller than the "
            "minimum file footer (8 bytes)); set it aside with `flashtrader fetch --check --repair`; the time it held "
            "is then marked as a gap",
        ),
        (
            lambda directory: (directory / "books-new.parquet").touch(),
            "{directory}/books-new.parquet: not named as a part of stored books is; move it elsewhere",
        ),
    ],
)
def test_damage_is_an_error_of_one_line(store: BookStore, spoil: Callable[[Path], object], message: str) -> None:
    put(store, 0, 10)
    spoil(store.directory(BTC))
    with pytest.raises(DataError) as refused:
        store.read(BTC)
    assert str(refused.value) == message.format(directory=store.directory(BTC))


def test_what_is_invalid_is_refused_before_anything_is_written(store: BookStore) -> None:
    with pytest.raises(DataError, match="crossed"):
        store.append(BTC, BOOK.assign(bid_price_1=101.0))
    with pytest.raises(DataError) as refused:
        store.append(BTC, best_levels(BOOK, 2))
    assert str(refused.value) == "the book of BTCUSDT, 3 levels, from bybit: the snapshots have 2 levels"
    assert not store.data_dir.exists()


def config(**keys: object) -> DataConfig:
    return DataConfig(kind="books", symbols=("BTCUSDT",), **{"levels": 2, **keys})


def of_depth(depth: int, size: float) -> Books:
    return a_book(5, depth).assign(ask_size_1=size)


def test_a_config_gets_its_levels_from_the_shallowest_book_that_has_them(tmp_path: Path) -> None:
    store = BookStore(tmp_path)
    for depth in (1, 3, 30):
        store.append(BookSeries("bybit", "BTCUSDT", depth), of_depth(depth, float(depth)))
    books = load_books(config(), tmp_path)["BTCUSDT"]
    pd.testing.assert_frame_equal(books, best_levels(of_depth(3, 3.0), 2))
    assert load_books(config(levels=20), tmp_path)["BTCUSDT"]["ask_size_1"].tolist() == [30.0] * 5
    with pytest.raises(DataError) as refused:
        load_books(config(levels=31), tmp_path)
    assert str(refused.value) == (
        f"{tmp_path}/bybit/BTCUSDT: stored are books of 30 levels, and 31 are asked for; set data.levels to 30, or get "
        "more with `flashtrader fetch --kind orderbook --source bybit --symbols BTCUSDT --levels 31`"
    )


def test_a_config_gets_its_time(tmp_path: Path) -> None:
    BookStore(tmp_path).append(BTC, BOOK)
    books = load_books(config(start="2023-11-14T22:13:21", end="2023-11-14T22:13:22"), tmp_path)["BTCUSDT"]
    assert books["timestamp"].tolist() == TIMES[4:8].tolist()
    assert books["gap_before"].tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("keys", "stored", "options"),
    [
        ({}, "bybit", "--source bybit --symbols BTCUSDT --levels 2"),
        ({"category": "spot"}, "bybit-spot", "--source bybit --category spot --symbols BTCUSDT --levels 2"),
        ({"source": "file"}, "file", "--source file --path FILE --symbols BTCUSDT"),
    ],
)
def test_where_nothing_is_stored_the_command_is_named(
    tmp_path: Path, keys: dict[str, str], stored: str, options: str
) -> None:
    (tmp_path / stored / "BTCUSDT" / "book-of-mine").mkdir(parents=True)
    (tmp_path / stored / "BTCUSDT" / "book-of-mine" / "books-1.parquet").touch()
    with pytest.raises(DataError) as refused:
        load_books(config(**keys), tmp_path)
    assert str(refused.value) == (
        f"{tmp_path}/{stored}/BTCUSDT: no order book of BTCUSDT; get it with `flashtrader fetch --kind orderbook "
        f"{options}`"
    )


def test_a_symbol_is_no_path() -> None:
    with pytest.raises(ConfigError, match="can't name a directory"):
        BookSeries("bybit", "../BTC", 3)
