"""The exact message and exit code of what commands refuse of data: bars that changed, damaged files, books of files.

{root} stands for the directory of the test, {run} for its run.
"""

import shutil
from collections.abc import Callable

import pytest

from panels import random_bars, store_bars
from place import TRAIN, Place, Spoil

BOOKS = "fetch --kind orderbook --symbols AAA --source file --path {root}/"
FETCH = "fetch --source file --symbols AAA --path {root}/AAA.csv --data-dir {root}/new"
BARS = "timestamp,open,high,low,close,volume\n"
BOOK = "timestamp,bid_price_1,bid_size_1,ask_price_1,ask_size_1\n"


def bars(count: int, *symbols: str, hours_later: int = 0) -> Spoil:
    """Put other bars in place of those stored."""

    def spoil(place: Place) -> None:
        for symbol in symbols:
            shutil.rmtree(place.root / "data/file" / symbol)
            table = random_bars(count, seed=9)
            table["timestamp"] += 3_600_000 * hours_later
            store_bars(place.root / "data", symbol, table)

    return spoil


def cut_bars(place: Place) -> None:
    (path,) = (place.root / "data/file/AAA/60").glob("*.parquet")
    path.write_bytes(path.read_bytes()[:-9])


def file(name: str, text: str) -> Spoil:
    return lambda place: (place.root / name).write_text(text)


def plain(place: Place) -> None:
    exit_code, told = place.tells(TRAIN + " --set model.family=ridge --set name=plain")
    assert exit_code == 0, told


DAMAGED = (
    "{root}/data/file/AAA/60/bars-19700101T0000Z.parquet: damaged (Parquet magic bytes not found in footer. Either the "
    "file is corrupted or this is not a parquet file.); set it aside and fetch its bars again with `flashtrader fetch "
    "--check --repair`"
)
ROWS = [
    (
        bars(400, "AAA"),
        "train --resume tiny-001 --set training.max_steps=3",
        1,
        "{run}: the stored bars of AAA are not those that this run was trained on; train a new run, or bring the old "
        "bars back",
    ),
    (
        bars(400, "AAA"),
        "train --from tiny-001",
        1,
        "{root}/data: not the data of {run}/manifest.json (AAA: other values in the same 400 rows from 1970-01-01 "
        "00:00 to 1970-01-17 15:00); bring the old bars back, or train on these with --allow-changed-data",
    ),
    (
        bars(400, "AAA"),
        "backtest",
        1,
        "{run}/forecasts.parquet: made of other bars than those in {root}/data; forecast these with "
        "`flashtrader predict`",
    ),
    (
        bars(300, "AAA", "BBB"),
        "predict",
        1,
        "{run}: no bar at or after 1970-01-14T08:00:00Z, where the run's test part begins; fetch newer bars, or "
        "forecast with --split all",
    ),
    (
        bars(400, "AAA", hours_later=1000),
        TRAIN,
        1,
        "data.symbols have no common period: BBB ends at 1970-01-17T15:00:00Z, before AAA begins at "
        "1970-02-11T16:00:00Z; leave one out or fetch more of its bars",
    ),
    (cut_bars, TRAIN, 1, DAMAGED),
    (
        file("bars.csv", "timestamp,symbol,open,high,low,close,volume\n0,AAA,1,1,1,1,1\n"),
        "fetch --symbols BBB --interval 60 --source file --path {root}/bars.csv",
        2,
        "{root}/bars.csv: no market BBB; the nearest of 1 there: AAA",
    ),
    (
        file("AAA.csv", BARS + "2024-01-01T00:00Z,1,1,1,1,1\n2024-01-01T01:00Z,1,8,9,9,1\n"),
        FETCH,
        1,
        "{root}/AAA.csv: AAA: bar 2024-01-01T01:00:00Z has high below low (high 8, low 9); correct or remove this row",
    ),
    (
        file("AAA.csv", BARS + "2024-01-01T00:00Z,1,1,1,1,1\n2024-01-01T01:00Z,0,1,0,1,1\n"),
        FETCH,
        1,
        "{root}/AAA.csv: AAA: bar 2024-01-01T01:00:00Z has no usable open: prices are above zero (open 0); correct or "
        "remove this row",
    ),
    (
        file(
            "AAA.csv", BARS + "2024-01-01T00:00Z,1,1,1,1,1\n2024-01-01T01:00Z,1,1,1,1,1\n2024-01-01T01:00Z,1,1,1,1,1\n"
        ),
        FETCH,
        1,
        "{root}/AAA.csv: AAA: bar 2024-01-01T01:00:00Z is there twice; correct or remove this row",
    ),
    (
        file("AAA.csv", BARS + "2024-01-01T02:00Z,1,1,1,1,1\n2024-01-01T01:00Z,1,1,1,1,1\n"),
        FETCH,
        1,
        "{root}/AAA.csv: AAA: bar 2024-01-01T01:00:00Z is out of order: opening times must increase; correct or "
        "remove this row",
    ),
    (
        file("AAA.csv", BARS.replace("close,", "") + "2024-01-01T00:00Z,1,1,1,1\n2024-01-01T01:00Z,1,1,1,1\n"),
        FETCH,
        1,
        "{root}/AAA.csv: no column close; bars need timestamp, open, high, low, close, volume; found timestamp, open, "
        "high, low, volume",
    ),
    (
        file("AAA.csv", "timestamp,foo\n1,2\n"),
        BOOKS + "AAA.csv",
        1,
        "{root}/AAA.csv: no column ask_price_1, ask_size_1, bid_price_1, bid_size_1; a book has timestamp and, for "
        "each level i from 1, ask_price_i, ask_size_i, bid_price_i, bid_size_i",
    ),
    (
        file("AAA.csv", BOOK + "soon,1,1,2,1\n"),
        BOOKS + "AAA.csv",
        1,
        "{root}/AAA.csv: column timestamp holds str; give whole milliseconds since 1970, UTC",
    ),
    (
        file("AAA.csv", BOOK + "1,3,1,2,1\n"),
        BOOKS + "AAA.csv",
        1,
        "{root}/AAA.csv: snapshot 1970-01-01T00:00:00.001Z: bid_price_1 3 is not below the best ask: the book is "
        "crossed; correct or remove this row",
    ),
    (
        file("AAA.csv", BOOK + "1,1,1,2,1\n"),
        BOOKS + "AAA.csv --levels 5",
        2,
        "--levels 5: the books of {root}/AAA.csv have 1 to 1 levels",
    ),
    (
        file("AAA.txt", "a b c\n"),
        BOOKS + "AAA.txt",
        1,
        "{root}/AAA.txt: can't be read as FI-2010 (could not convert string 'a' to float64 at row 0, column 1.); it "
        "is numbers, divided by spaces",
    ),
    (
        file("AAA.txt", "1 2 3\n"),
        BOOKS + "AAA.txt",
        1,
        "{root}/AAA.txt: 1 rows of numbers; FI-2010 has 40 of prices and sizes at least, all of them finite",
    ),
    (
        file("f.csv", "timestamp,rate\n0,0.1\n"),
        "fetch --kind funding --symbols AAA --source file --path {root}/f.csv",
        2,
        "{root}/f.csv: holds one market, and its name does not say AAA; rename it AAA.csv if it is that, or ask for "
        "the symbol in its name",
    ),
    (
        plain,
        "train --resume plain-001",
        2,
        "{root}/runs/plain-001: ridge is fitted at once and has nothing to go on with; train a new run with --config",
    ),
]


@pytest.mark.parametrize(("spoil", "command", "exit_code", "message"), ROWS)
def test_data_that_can_t_be_used(
    tells_of_spoiled: Callable[[Spoil, str], tuple[int, str]], spoil: Spoil, command: str, exit_code: int, message: str
) -> None:
    assert tells_of_spoiled(spoil, command) == (exit_code, message)
