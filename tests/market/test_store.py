import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fake_source import FIRST_MS, HOUR, HOUR_MS, hours, market_bars
from flashtrader.config import DataConfig
from flashtrader.errors import ConfigError, DataError, UnreadableError
from flashtrader.interval import Interval
from flashtrader.market import parts as parts_module
from flashtrader.market import store as store_module
from flashtrader.market.bars import Bars
from flashtrader.market.store import Series, Store, load_bars, stored_source

BTC = Series("bybit", "BTCUSDT", HOUR)
BARS = market_bars(100)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Return a store with parts of sixteen bars, so that a hundred bars make several."""
    monkeypatch.setattr(store_module, "BARS_PER_PART", 16)
    return Store(tmp_path / "data")


def put(store: Store, start: int, end: int, bars: Bars = BARS, series: Series = BTC) -> int:
    return store.append(series, bars.iloc[start:end], hours(start, end))


def parts(store: Store) -> list[Path]:
    return sorted(store.directory(BTC).glob("bars-*.parquet"))


def test_bars_come_back_as_they_went_in(store: Store) -> None:
    assert put(store, 0, 100) == 100
    pd.testing.assert_frame_equal(store.read(BTC), BARS)
    assert len(parts(store)) >= 7


def test_any_order_of_appends_gives_the_same_bars(store: Store) -> None:
    for start, end in [(40, 60), (90, 100), (55, 95), (0, 41)]:
        put(store, start, end)
    pd.testing.assert_frame_equal(store.read(BTC), BARS)
    ledger = store.examine(BTC)
    assert (ledger.answered, ledger.rows, ledger.gaps) == ((hours(0, 100),), 100, ())


def test_a_range_is_half_open(store: Store) -> None:
    put(store, 0, 100)
    some = store.read(BTC, FIRST_MS + 10 * HOUR_MS, FIRST_MS + 37 * HOUR_MS)
    pd.testing.assert_frame_equal(some, BARS.iloc[10:37].reset_index(drop=True))


def test_an_append_rewrites_only_the_parts_that_it_touches(store: Store) -> None:
    put(store, 0, 90)
    before = {path: path.stat().st_ino for path in parts(store)}
    put(store, 85, 100)
    kept = [path for path, inode in before.items() if path.stat().st_ino == inode]
    assert len(kept) >= len(before) - 1


def test_stored_rows_win(store: Store) -> None:
    put(store, 0, 50)
    other = BARS.assign(volume=9.0)
    assert put(store, 40, 60, other) == 10
    volume = store.read(BTC)["volume"]
    assert list(volume[:50]) == list(BARS["volume"][:50])
    assert set(volume[50:]) == {9.0}


def test_turnover_may_come_later(store: Store) -> None:
    put(store, 0, 10)
    put(store, 10, 20, BARS.assign(turnover=5.0))
    turnover = store.read(BTC)["turnover"]
    assert turnover[:10].isna().all()
    assert set(turnover[10:]) == {5.0}


@pytest.mark.parametrize("code", ["1", "D", "W", "M"])
def test_every_interval_has_its_parts(store: Store, code: str) -> None:
    interval = Interval.parse(code)
    timestamps = interval.opening(np.arange(-40, 40))
    bars = market_bars(80).assign(timestamp=timestamps)
    series = Series("yahoo", "^GSPC", interval)
    store.append(series, bars, store_module.Span(int(timestamps[0]), int(interval.close(timestamps[-1:])[0])))
    pd.testing.assert_frame_equal(store.read(series), bars)
    assert store.ledger(series).gaps == ()


def test_invalid_bars_leave_no_trace(store: Store) -> None:
    with pytest.raises(DataError, match=r"BTCUSDT 60 from bybit: bar .* high below low"):
        put(store, 0, 10, BARS.assign(high=0.5))
    with pytest.raises(DataError) as refused:
        store.append(BTC, BARS, hours(0, 99))
    assert str(refused.value) == (
        "BTCUSDT 60 from bybit: bars outside 2020-09-13T13:00:00Z to 2020-09-17T16:00:00Z, the time that they answer "
        "for; the source is at fault"
    )
    assert not store.data_dir.exists()


@pytest.mark.parametrize("symbol", ["../x", "a/b", "", ".hidden", "a\\b", "a b"])
def test_a_symbol_can_not_leave_its_directory(symbol: str) -> None:
    with pytest.raises(ConfigError, match="can't name a directory"):
        Series("bybit", symbol, HOUR)


def test_nothing_stored_says_how_to_get_it(store: Store) -> None:
    with pytest.raises(DataError) as refused:
        store.read(BTC)
    assert str(refused.value) == (
        f"{store.directory(BTC)}: no bars of BTCUSDT 60 from bybit; get them with `flashtrader fetch --source bybit "
        "--symbols BTCUSDT --interval 60`"
    )
    assert "--category spot" in Series("bybit-spot", "X", HOUR).fetch_command
    assert "--path" in Series("file", "X", HOUR).fetch_command
    put(store, 0, 10)
    with pytest.raises(DataError) as refused:
        store.read(BTC, FIRST_MS + 50 * HOUR_MS)
    assert str(refused.value) == (
        f"{store.directory(BTC)}: no bars of BTCUSDT 60 from bybit in the time asked for; stored are "
        "2020-09-13T13:00:00Z to 2020-09-13T22:00:00Z"
    )


@pytest.mark.parametrize("kept_bytes", [0, 3, 500, -1])
def test_a_damaged_part_is_named_and_once_deleted_asked_for_again(store: Store, kept_bytes: int) -> None:
    put(store, 0, 100)
    store.examine(BTC)
    part = parts(store)[2]
    part.write_bytes(part.read_bytes()[:kept_bytes])
    for use in (lambda: store.read(BTC), lambda: put(store, 0, 100), lambda: store.examine(BTC)):
        with pytest.raises(
            DataError,
            match=f"{part.name}: damaged .*set it aside .* with `flashtrader fetch --check --repair`",
        ):
            use()
    part.unlink()
    assert len(store.recorded(BTC).answered) == 2
    assert {gap.reason for gap in store.ledger(BTC).gaps} == {"fetch_failed"}
    assert put(store, 0, 100) == 16
    pd.testing.assert_frame_equal(store.read(BTC), BARS)
    assert store.ledger(BTC).answered == (hours(0, 100),)


def test_a_part_edited_by_hand_is_checked(store: Store) -> None:
    put(store, 0, 20)
    part = parts(store)[0]
    pd.read_parquet(part).iloc[::-1].to_parquet(part, index=False)
    with pytest.raises(DataError, match=f"{part.name}: bar .* is out of order"):
        store.read(BTC)


def test_a_damaged_ledger_costs_no_bars(store: Store) -> None:
    put(store, 0, 20)
    path = store.directory(BTC) / "ledger.json"
    path.write_text("{}")
    with pytest.raises(DataError, match="not a ledger"):
        store.ledger(BTC)
    path.unlink()
    assert store.ledger(BTC).answered == ()
    assert put(store, 0, 20) == 0


@pytest.mark.parametrize("part_gone", [False, True])
@pytest.mark.parametrize("survivors", range(7))
def test_a_kill_between_two_files_only_makes_us_ask_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, survivors: int, part_gone: bool
) -> None:
    """Stop an append after each of its writes: the ledger never claims a bar, or a gap, that is not there."""
    put(store, 0, 10)
    put(store, 20, 30)
    assert store.examine(BTC).gaps
    if part_gone:
        parts(store)[0].unlink()

    real, done = parts_module.replacing, 0

    def dies(path: Path):
        nonlocal done
        done += 1
        if done > survivors:
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(parts_module, "replacing", dies)
    monkeypatch.setattr("flashtrader.files.replacing", dies)
    if survivors < 6:  # a ledger, four parts, and the ledger again
        with pytest.raises(KeyboardInterrupt):
            put(store, 5, 60)
    else:
        put(store, 5, 60)
    monkeypatch.undo()
    monkeypatch.setattr(store_module, "BARS_PER_PART", 16)

    again = Store(store.data_dir)
    there = set(again.read(BTC)["timestamp"])
    ledger = again.ledger(BTC)
    claimed = {ms for span in ledger.answered for ms in range(span.start_ms, span.end_ms, HOUR_MS)}
    assert claimed <= there
    assert not there & {ms for gap in ledger.gaps for ms in range(gap.start_ms, gap.end_ms, HOUR_MS)}
    put(again, 0, 60)
    pd.testing.assert_frame_equal(again.read(BTC), BARS.iloc[:60])
    assert again.ledger(BTC).answered == (hours(0, 60),)


WRITER = """
import sys
from pathlib import Path
from fake_source import hours, market_bars
from flashtrader.interval import Interval
from flashtrader.market import store
store.BARS_PER_PART = 16
bars = market_bars(100)
series = store.Series("bybit", "BTCUSDT", Interval("60"))
print("ready", flush=True)
while True:
    for start in range(int(sys.argv[2]), 100, 20):
        store.Store(Path(sys.argv[1])).append(series, bars.iloc[start:start + 10], hours(start, start + 10))
    if sys.argv[3] == "once":
        break
"""


def writer(store: Store, first: int, times: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(store.data_dir), str(first), times]
    process = subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process


def test_two_processes_write_and_a_third_reads(store: Store) -> None:
    processes = [writer(store, first, "once") for first in (0, 10)]
    while any(process.poll() is None for process in processes):
        if parts(store):
            seen = store.read(BTC)
            assert set(seen["timestamp"]) <= set(BARS["timestamp"])
    assert [process.wait() for process in processes] == [0, 0]
    for process in processes:
        process.communicate()
    pd.testing.assert_frame_equal(store.read(BTC), BARS)
    assert store.ledger(BTC).answered == (hours(0, 100),)


def test_a_killed_writer_leaves_no_lock_and_no_litter(store: Store) -> None:
    process = writer(store, 0, "forever")
    assert process.stdout is not None
    process.stdout.readline()
    while not (store.directory(BTC) / "ledger.json").exists():
        assert process.poll() is None
    process.kill()
    process.communicate()
    (store.directory(BTC) / ".ledger.json.0.part").touch()

    finished = threading.Event()
    thread = threading.Thread(target=lambda: (put(store, 0, 100), finished.set()), daemon=True)
    thread.start()
    assert finished.wait(10)
    pd.testing.assert_frame_equal(store.read(BTC), BARS)
    assert not list(store.directory(BTC).glob("*.part"))
    assert not list(store.directory(BTC).glob(".*.part"))


HOLDER = """
import sys, time
from pathlib import Path
from flashtrader.market.parts import writing
with writing(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_waited_for_and_dies_with_its_holder(store: Store) -> None:
    command = [sys.executable, "-c", HOLDER, str(store.directory(BTC))]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    finished = threading.Event()
    thread = threading.Thread(target=lambda: (put(store, 0, 100), finished.set()), daemon=True)
    thread.start()
    assert not finished.wait(0.3)
    holder.kill()
    holder.communicate()
    assert finished.wait(10)
    assert len(store.read(BTC)) == 100


def test_a_disk_that_refuses_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the directory should be")
    with pytest.raises(DataError) as refused:
        put(Store(tmp_path / "data"), 0, 10)
    assert str(refused.value) == (
        f"{tmp_path}/data/bybit/BTCUSDT/60: can't be written (Not a directory); what is stored is unharmed"
    )


def test_a_file_that_can_not_be_read_is_not_called_damaged(store: Store) -> None:
    """A directory is one that even root can't read."""
    put(store, 0, 10)
    for path, read in ((parts(store)[0], store.read), (store.directory(BTC) / "profile.npz", store.ledger)):
        path.unlink(missing_ok=True)
        path.mkdir()
        with pytest.raises(UnreadableError) as refused:
            read(BTC)
        assert str(refused.value) == f"{path}: can't be read (Is a directory); check the disk and the permissions"


def test_the_ledger_is_readable_json(store: Store) -> None:
    store.append(BTC, BARS.drop(index=range(40, 50)), hours(0, 100))
    store.examine(BTC)
    [gap] = json.loads((store.directory(BTC) / "ledger.json").read_text())["gaps"]
    assert (gap["bars"], gap["reason"]) == (10, "outage")


def test_load_bars_follows_the_config(store: Store) -> None:
    put(store, 0, 100)
    put(store, 0, 50, series=Series("bybit", "ETHUSDT", HOUR))
    data = DataConfig.model_validate(
        {"symbols": ["ETHUSDT", "BTCUSDT"], "start": "2020-09-13T15:00", "end": "2020-09-14"}
    )
    bars = load_bars(data, store.data_dir)
    assert list(bars) == ["ETHUSDT", "BTCUSDT"]
    pd.testing.assert_frame_equal(bars["BTCUSDT"], BARS.iloc[2:11].reset_index(drop=True))
    with pytest.raises(DataError, match="--symbols SOLUSDT"):
        load_bars(DataConfig(symbols=("SOLUSDT",)), store.data_dir)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "bybit"),
        ({"category": "spot"}, "bybit-spot"),
        ({"source": "yahoo"}, "yahoo"),
        ({"source": "simulated"}, "simulated"),
        ({"source": "simulated", "noise_only": True}, "simulated-noise"),
        ({"source": "file", "category": "spot"}, "file"),
    ],
)
def test_the_stored_name_of_a_source(settings: dict[str, object], name: str) -> None:
    assert stored_source(DataConfig.model_validate({"symbols": ["X"], **settings})) == name
