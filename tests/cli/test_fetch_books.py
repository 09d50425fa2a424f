"""`flashtrader fetch --kind orderbook` as it is typed: from files, and from a server that speaks Bybit's stream."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from book_server import FAULTS, BookMarket, BookServer, SnapshotServer, Wire
from command import Command
from flashtrader.config import DataConfig
from flashtrader.market.book_store import load_books
from flashtrader.market.books import book_table

ORDERBOOK = ("fetch", "--kind", "orderbook", "--symbols")


def a_file(directory: Path, rows: int = 4, levels: int = 3) -> Path:
    """Write valid snapshots one second apart."""
    values = np.ones((rows, levels, 4))
    values[:, :, 0] = 101 + np.arange(levels)
    values[:, :, 2] = 100 - np.arange(levels)
    path = directory / "BTCUSDT-book.parquet"
    book_table(np.arange(rows) * 1_000, values).to_parquet(path)
    return path


def test_a_file_is_stored_once(flashtrader: Command, tmp_path: Path) -> None:
    arguments = [*ORDERBOOK, "BTCUSDT", "--source", "file", "--path", a_file(tmp_path), "--data-dir", tmp_path / "data"]
    first = flashtrader.succeeds(*arguments, "--json")
    assert first.json == {
        "source": "file",
        "data_dir": str(tmp_path / "data"),
        "symbols": {
            "BTCUSDT": {
                "levels": 3,
                "rows": 4,
                "added": 4,
                "first": "1970-01-01T00:00:00.000Z",
                "last": "1970-01-01T00:00:03.000Z",
                "gaps": {},
                "failed": None,
            }
        },
    }
    [line] = [line for line in flashtrader.succeeds(*arguments).out.splitlines() if "BTCUSDT" in line]
    assert line.split() == ["BTCUSDT", "4", "+0", "1970-01-01", "00:00", "1970-01-01", "00:00", "none"]


def test_fewer_levels_than_a_file_has(flashtrader: Command, tmp_path: Path) -> None:
    path, data_dir = a_file(tmp_path), tmp_path / "data"
    flashtrader.succeeds(
        *ORDERBOOK, "BTCUSDT", "--source", "file", "--path", path, "--levels", 2, "--data-dir", data_dir
    )
    assert (data_dir / "file" / "BTCUSDT" / "book-2").is_dir()


def test_the_command_that_an_error_names_gets_the_book(flashtrader: Command, tmp_path: Path) -> None:
    """Record through a stream with every fault, for a while; then a model's loader finds it."""
    wire = Wire(BookMarket(seed=4), FAULTS, seed=4, rate=0.01)
    with BookServer(wire, steps=100_000) as server:
        options = ["--levels", 7, "--duration", "1s", "--every", "5ms", "--base-url", server.url]
        outcome = flashtrader.succeeds(*ORDERBOOK, "BTCUSDT", *options, "--data-dir", tmp_path, "--json")
    data = DataConfig(kind="books", symbols=("BTCUSDT",), levels=5)
    books = load_books(data, tmp_path)["BTCUSDT"]
    assert len(books) == outcome.json["symbols"]["BTCUSDT"]["added"] > 0
    assert len(set(books["timestamp"] // 5)) == len(books)
    assert "ask_price_6" not in books


def test_one_snapshot(flashtrader: Command, tmp_path: Path) -> None:
    with SnapshotServer(BookMarket()) as server:
        options = ["--once", "--levels", 7, "--base-url", server.url, "--data-dir", tmp_path, "--json"]
        assert flashtrader.succeeds(*ORDERBOOK, "BTCUSDT", *options).json["symbols"]["BTCUSDT"]["rows"] == 1
        assert server.requests[0].query == {"category": "linear", "symbol": "BTCUSDT", "limit": "7"}
        assert "NOPE is not listed" in flashtrader.fails(2, *ORDERBOOK, "NOPE", *options)


def test_ctrl_c_keeps_what_has_come(tmp_path: Path) -> None:
    with BookServer(Wire(BookMarket()), steps=100_000) as server:
        options = ["--base-url", server.url, "--data-dir", str(tmp_path)]
        program = [sys.executable, "-c", "from flashtrader.cli import main; main()", *ORDERBOOK, "BTCUSDT", *options]
        process = subprocess.Popen(program, stderr=subprocess.PIPE, text=True)
        while server.wires["BTCUSDT"].steps < 200:
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, words = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in words
    ledger = json.loads((tmp_path / "bybit" / "BTCUSDT" / "book-20" / "ledger.json").read_text())
    assert words.splitlines()[-1] == (
        f"stopped: {ledger['rows']:,} of BTCUSDT snapshots are stored in {tmp_path}; the same command goes on, after a "
        "gap"
    )
    assert ledger["rows"] > 0
    assert len(ledger["runs"]) == 1


@pytest.mark.parametrize(
    ("exit_code", "options", "message"),
    [
        (2, ["--source", "yahoo"], "--kind orderbook goes with --source bybit or file, not yahoo"),
        (2, ["--source", "file"], "--source file needs --path: one file of order books"),
        (
            2,
            ["--source", "file", "--path", "nowhere.parquet"],
            "nowhere.parquet: no such file; give --path one file of order books",
        ),
        (
            2,
            ["--source", "file", "--path", "x", "--every", "1s"],
            "--source file takes --path and --levels: its books are recorded already",
        ),
        (2, ["--path", "x"], "--path goes with --source file, not bybit"),
        (2, ["--interval", "5"], "--interval goes with --kind bars"),
        (2, ["--start", "2024-01-01"], "--start goes with --kind bars"),
        (2, ["--duration", "60"], "--duration 60: write a time such as 100ms, 60s, 10m, 2h or 1d"),
        (2, ["--duration", "0s"], "--duration 0s: write a time such as 100ms, 60s, 10m, 2h or 1d"),
        (
            2,
            ["--once", "--duration", "1s"],
            "--once is one snapshot: it takes neither --duration nor --every",
        ),
        (2, ["--levels", "0"], "--levels 0: Bybit's books have 1 to 200 levels"),
        (
            2,
            ["--base-url", "http://127.0.0.1:1"],
            "--base-url http://127.0.0.1:1: write it as wss://host or ws://host:port",
        ),
        (
            2,
            ["--once", "--base-url", "ws://127.0.0.1:1"],
            "--base-url ws://127.0.0.1:1: write it as https://host or http://host:port",
        ),
        (
            1,
            ["--duration", "0.2s", "--base-url", "ws://127.0.0.1:9"],
            "the book of BTCUSDT, 20 levels, from bybit: no snapshot came; 127.0.0.1:9: unreachable ([Errno 111] "
            "Connection refused); check the network, the proxy settings and --base-url",
        ),
    ],
)
def test_what_can_not_be_done_is_one_line(
    flashtrader: Command, tmp_path: Path, exit_code: int, options: list[str], message: str
) -> None:
    told = flashtrader.fails(exit_code, *ORDERBOOK, "BTCUSDT", *options, "--data-dir", tmp_path / "data")
    assert told == message
    assert not (tmp_path / "data").exists()


def test_options_of_order_books_are_not_for_bars(flashtrader: Command, tmp_path: Path) -> None:
    for levels in (3, 0):
        said = flashtrader.fails(2, "fetch", "--symbols", "X", "--levels", levels)
        assert said == "--levels goes with --kind orderbook"
