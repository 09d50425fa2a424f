"""What is stored is what was written: damage is noticed, named and put right, and nothing whole is called damaged."""

import errno
import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from exchange_server import ExchangeServer, random_bars
from flashtrader.errors import DataError, UnreadableError
from flashtrader.interval import Interval
from flashtrader.market import parts as parts_module
from flashtrader.market import repair as repair_module
from flashtrader.market import store as store_module
from flashtrader.market.audit import Audit, FundingSeries, History, audit, stored_histories
from flashtrader.market.book_store import BookSeries, BookStore
from flashtrader.market.fetch import fetch
from flashtrader.market.fetch_funding import fetch_funding
from flashtrader.market.funding_store import FundingStore
from flashtrader.market.parts import write_part
from flashtrader.market.profile import Profile
from flashtrader.market.repair import Repair, repair
from flashtrader.market.sources.bybit import BybitSource
from flashtrader.market.sources.bybit_funding import BybitFunding
from flashtrader.market.spans import Span
from flashtrader.market.store import Series, Store
from test_books import a_book

HOUR = Interval("60")
BTC = Series("bybit", "BTCUSDT", HOUR)
FUNDING = FundingSeries("bybit", "BTCUSDT")
BOOK = BookSeries("bybit", "BTCUSDT", 3)
BARS = random_bars(101).drop(index=range(40, 43)).reset_index(drop=True)
CLOSED = BARS.iloc[:-1]
START_MS = int(BARS["timestamp"].iloc[0])
SETTLEMENTS = pd.DataFrame({"timestamp": START_MS + 8 * 3_600_000 * np.arange(12), "rate": 1e-4})


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "BARS_PER_PART", 16)


@pytest.fixture
def exchange() -> Iterator[ExchangeServer]:
    with ExchangeServer({"BTCUSDT": BARS}, funding={"BTCUSDT": SETTLEMENTS}) as server:
        yield server


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, stored once, for tests that change nothing."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "BARS_PER_PART", 16)
        Store(root).append(BTC, CLOSED, Span(START_MS, int(CLOSED["timestamp"].iloc[-1]) + 3_600_000))
        Store(root).examine(BTC)
    FundingStore(root).append("bybit", "BTCUSDT", SETTLEMENTS, Span(START_MS, START_MS + 101 * 3_600_000))
    BookStore(root).append(BOOK, a_book(30))
    return root


@pytest.fixture
def data_dir(exchange: ExchangeServer, tmp_path: Path) -> Path:
    """Bars, funding and books, as they come."""
    [bars] = fetch(BybitSource(base_url=exchange.url), Store(tmp_path), ["BTCUSDT"], HOUR, START_MS)
    [funding] = fetch_funding(BybitFunding(exchange.url), FundingStore(tmp_path), ["BTCUSDT"], START_MS)
    assert (bars.failed, funding.failed) == (None, None)
    for first, end in ((0, 30), (40, 70)):
        BookStore(tmp_path).append(BOOK, a_book(100).iloc[first:end])
    return tmp_path


def test_a_fetch_that_was_killed_before_its_first_write_left_no_damage(tmp_path: Path) -> None:
    with parts_module.writing(Store(tmp_path).directory(BTC)):
        pass
    assert audit(tmp_path, BTC).findings == ()


def parts(data_dir: Path) -> list[Path]:
    return sorted(Store(data_dir).directory(BTC).glob("bars-*.parquet"))


def flip(path: Path, place: int = 100) -> bytes:
    """Change one bit of a file; return what it held."""
    before = path.read_bytes()
    damaged = bytearray(before)
    damaged[place] ^= 1
    path.write_bytes(damaged)
    return before


def problems(found: Audit) -> list[str]:
    assert all(finding.problem.startswith(str(finding.path)) for finding in found.findings)
    return [finding.problem for finding in found.findings]


def test_what_is_whole_is_called_so(data_dir: Path) -> None:
    histories = list(stored_histories(data_dir))
    assert set(map(str, histories)) == {str(BTC), str(FUNDING), str(BOOK)}
    assert {str(history): audit(data_dir, history).rows for history in histories} == {
        str(BTC): 97,
        str(FUNDING): 12,
        str(BOOK): 60,
    }
    assert [problems(audit(data_dir, history)) for history in histories] == [[], [], []]


@pytest.mark.parametrize("history", [BTC, FUNDING, BOOK], ids=str)
def test_a_changed_bit_anywhere_is_noticed(data_dir: Path, history: Series | FundingSeries | BookSeries) -> None:
    directory = data_dir / "bybit" / "BTCUSDT"
    part = sorted(directory.glob({BTC: "60/bars", FUNDING: "funding/f", BOOK: "book-3/b"}[history] + "*.parquet"))[0]
    whole = part.read_bytes()
    rng = random.Random(0)
    # The metadata, where the checksum itself is, at the end; and some of the rest.
    places = [*range(len(whole) - 12, len(whole)), *rng.sample(range(len(whole)), 40)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        part.write_bytes(damaged)
        assert [finding.path for finding in audit(data_dir, history).findings] == [part], place
    part.write_bytes(whole)
    assert audit(data_dir, history).findings == ()


@pytest.mark.parametrize("survivors", range(12))
def test_a_kill_between_two_files_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survivors: int) -> None:
    """Stop after each write of an append and of the examination that follows."""
    store = Store(tmp_path)
    real, done = parts_module.replacing, 0

    def dies(path: Path):
        nonlocal done
        done += 1
        if done > survivors:
            raise KeyboardInterrupt
        return real(path)

    def span(first: int, end: int) -> Span:
        return Span(int(BARS["timestamp"].iloc[first]), int(BARS["timestamp"].iloc[end]))

    store.append(BTC, BARS.iloc[:30], span(0, 30))
    store.examine(BTC)
    with monkeypatch.context() as patch:
        for place in ("parts", "profile"):
            patch.setattr(f"flashtrader.market.{place}.replacing", dies)
        patch.setattr("flashtrader.files.replacing", dies)
        try:
            store.append(BTC, BARS.iloc[20:70], span(20, 70))
            store.examine(BTC)
        except KeyboardInterrupt:
            assert survivors < 9
    assert problems(audit(tmp_path, BTC)) == []
    store.append(BTC, BARS.iloc[20:97], span(20, 97))
    again = store.examine(BTC)
    (store.directory(BTC) / "profile.npz").unlink()
    assert store.examine(BTC) == again
    assert problems(audit(tmp_path, BTC)) == []
    pd.testing.assert_frame_equal(store.read(BTC), BARS.iloc[:97])


def garble(path: Path) -> None:
    path.write_text("{")


def copy(part: Path, name: str) -> None:
    part.with_name(name).write_bytes(part.read_bytes())


def swap(part: Path) -> None:
    part.write_bytes(parts(part.parents[3])[0].read_bytes())


def claim(ledger: Path) -> None:
    ledger.write_text(json.dumps(json.loads(ledger.read_text()) | {"rows": 98}))


def unseal(part: Path) -> None:
    pd.read_parquet(part).to_parquet(part, index=False)


REPAIR = "`flashtrader fetch --check --repair`"
FETCH = f"set it aside and fetch its bars again with {REPAIR}"
DAMAGE: dict[str, tuple[str, Callable[[Path], object], str, int]] = {
    "bit": ("part", flip, f"{{path}}: damaged (its bytes don't match its checksum); {FETCH}", 13),
    "cut": (
        "part",
        lambda path: path.write_bytes(path.read_bytes()[:99]),
        "{path}: damaged (Parquet magic bytes not found in footer. Either the file is corrupted or this is not a "
        f"parquet file.); {FETCH}",
        13,
    ),
    "gone": ("part", Path.unlink, f"{{path}}: is gone; fetch its bars again with {REPAIR}", 13),
    "order": (
        "part",
        lambda path: pd.read_parquet(path)[::-1].to_parquet(path, index=False),
        f"{{path}}: bar 2020-09-15T14:00:00Z is out of order: opening times must increase; {FETCH}",
        13,
    ),
    "grid": (
        "part",
        lambda path: pd.read_parquet(path).eval("timestamp = timestamp + 1").to_parquet(path),
        f"{{path}}: bar 2020-09-15T00:00:00Z does not open on the 60 grid; {FETCH}",
        13,
    ),
    "column": (
        "part",
        lambda path: pd.read_parquet(path).drop(columns="low").to_parquet(path),
        "{path}: no column low; bars need timestamp, open, high, low, close, volume, found timestamp, open, high, "
        "close, volume, turnover",
        13,
    ),
    "elsewhere": (
        "part",
        swap,
        f"{{path}}: holds bars outside 2020-09-15T00:00:00Z to 2020-09-15T16:00:00Z; {FETCH}",
        13,
    ),
    "overlap": (
        "part",
        lambda path: copy(path, "bars-20200913T0500Z.parquet"),
        "{directory}/bars-20200913T0500Z.parquet: overlaps another part: none begins at 2020-09-13T05:00:00Z; set it "
        f"aside with {REPAIR}",
        0,
    ),
    "name": (
        "part",
        lambda path: copy(path, "bars-20201399T0500Z.parquet"),
        "{directory}/bars-20201399T0500Z.parquet: not named as a part of a history is; move it elsewhere",
        0,
    ),
    "unsealed": (
        "part",
        unseal,
        f"{{path}}: has no checksum, so that damage would not be seen; give it one with {REPAIR}",
        0,
    ),
    "ledger": (
        "ledger.json",
        garble,
        "{path}: damaged, not readable as JSON (Expecting property name enclosed in double quotes: line 1 column 2 "
        f"(char 1)); set it aside with {REPAIR}, which keeps the stored bars",
        0,
    ),
    "no-ledger": (
        "ledger.json",
        Path.unlink,
        f"{{path}}: is gone, and with it what the source has answered; ask it again with {REPAIR}",
        0,
    ),
    "claims": (
        "ledger.json",
        claim,
        f"{{path}}: its rows are not those of the bars; write it anew with {REPAIR}",
        0,
    ),
    "profile": ("profile.npz", garble, f"{{path}}: is not the profile of the bars; write it anew with {REPAIR}", 0),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_put_right_from_the_source(exchange: ExchangeServer, data_dir: Path, name: str) -> None:
    file, damage, message, fetched = DAMAGE[name]
    path = parts(data_dir)[3] if file == "part" else Store(data_dir).directory(BTC) / file
    damage(path)
    found = audit(data_dir, BTC)
    assert problems(found) == [message.format(path=path, directory=path.parent)]
    files = {path: path.read_bytes() for path in Store(data_dir).directory(BTC).iterdir() if path.is_file()}
    done = repair(data_dir, BTC, base_url=exchange.url)
    assert (done.fetched, done.left) == (fetched, ())
    assert [files[path.with_name(path.name.removesuffix(".damaged-0"))] for path in done.set_aside] == [
        path.read_bytes() for path in done.set_aside
    ]
    assert problems(audit(data_dir, BTC)) == []
    pd.testing.assert_frame_equal(Store(data_dir).read(BTC), CLOSED.reset_index(drop=True))
    assert [gap.reason for gap in Store(data_dir).ledger(BTC).gaps] == ["outage"]
    assert not list(data_dir.rglob("*.part"))


def test_a_damaged_part_that_no_ledger_knows_is_fetched_again(exchange: ExchangeServer, data_dir: Path) -> None:
    ledger = Store(data_dir).directory(BTC) / "ledger.json"
    ledger.write_text(json.dumps(json.loads(ledger.read_text()) | {"answered": [], "examined": False}))
    flip(parts(data_dir)[3])
    assert repair(data_dir, BTC, base_url=exchange.url).left == ()
    pd.testing.assert_frame_equal(Store(data_dir).read(BTC), CLOSED.reset_index(drop=True))


def test_what_the_source_does_not_give_again_stays_aside(
    exchange: ExchangeServer, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flashtrader.market.http.FIRST_BACKOFF_S", 0.0)
    before = flip(parts(data_dir)[3])
    exchange.__exit__(None, None, None)
    done = repair(data_dir, BTC, base_url=exchange.url)
    exchange.__enter__()
    assert ["unreachable" in line for line in done.left] == [True]
    [aside] = done.set_aside
    assert len(aside.read_bytes()) == len(before)
    gaps = Store(data_dir).ledger(BTC).gaps
    assert [gap.reason for gap in gaps].count("fetch_failed") == 1
    assert fetch(BybitSource(base_url=exchange.url), Store(data_dir), ["BTCUSDT"], HOUR)[0].added == 13


@pytest.mark.parametrize("file", ["funding.parquet", "ledger.json"])
def test_funding_is_fetched_again(exchange: ExchangeServer, data_dir: Path, file: str) -> None:
    stored = FundingStore(data_dir).read("bybit", "BTCUSDT")
    path = data_dir / "bybit" / "BTCUSDT" / "funding" / file
    flip(path, 1)
    done = repair(data_dir, FUNDING, base_url=exchange.url)
    assert (len(done.set_aside), done.left) == (1, ())
    again = FundingStore(data_dir).read("bybit", "BTCUSDT")
    pd.testing.assert_frame_equal(again.settlements, stored.settlements)
    assert audit(data_dir, FUNDING).findings == ()


ASIDE = f"set it aside with {REPAIR}; the time it held is then marked as a gap"
BOOK_PARTS: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: write_part(path, a_book(16, 2)), f"{{path}}: holds 2 levels; {ASIDE}"),
    (lambda path: write_part(path, a_book(16).iloc[:0]), f"{{path}}: holds no snapshot; {ASIDE}"),
    (
        lambda path: write_part(path, a_book(16).iloc[1:]),
        f"{{path}}: is not named after its first snapshot; {ASIDE}",
    ),
    (
        lambda path: write_part(path, a_book(60).iloc[[0, 50]]),
        f"{{fourth}}: overlaps another part from 2023-11-14T22:13:32.500Z on; {ASIDE}",
    ),
    (Path.unlink, f"{{path}}: is gone; mark its time as a gap with {REPAIR}"),
]


@pytest.mark.parametrize(("damage", "message"), BOOK_PARTS)
def test_damage_to_books_is_named_and_put_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object], message: str
) -> None:
    monkeypatch.setattr("flashtrader.market.book_store.ROWS_PER_PART", 16)
    BookStore(tmp_path).append(BOOK, a_book(100))
    path, _, _, fourth, *_ = BookStore(tmp_path).parts(BOOK)
    damage(path)
    assert problems(audit(tmp_path, BOOK)) == [message.format(path=path, fourth=fourth)]
    assert repair(tmp_path, BOOK).left == ()
    assert problems(audit(tmp_path, BOOK)) == []


def test_a_book_ledger_that_tells_of_other_runs_is_written_anew(tmp_path: Path) -> None:
    for first, end in ((0, 30), (40, 70)):
        BookStore(tmp_path).append(BOOK, a_book(100).iloc[first:end])
    path = BookStore(tmp_path).directory(BOOK) / "ledger.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | {"runs": whole["runs"][:1]}))
    [problem] = problems(audit(tmp_path, BOOK))
    assert problem == f"{path}: its runs are not those of the snapshots; write it anew with {REPAIR}"
    assert repair(tmp_path, BOOK).left == ()
    assert [run["rows"] for run in json.loads(path.read_text())["runs"]] == [30, 30]


FILES = [
    (BTC, "60/bars-20200915T0000Z.parquet"),
    (BTC, "60/ledger.json"),
    (BTC, "60/profile.npz"),
    (FUNDING, "funding/funding.parquet"),
    (FUNDING, "funding/ledger.json"),
    (BOOK, "book-3/books-20231114T221320000Z.parquet"),
    (BOOK, "book-3/ledger.json"),
]


@pytest.mark.parametrize("refusal", [errno.EACCES, errno.EMFILE, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize(("history", "name"), FILES)
def test_a_file_that_can_not_be_read_stays_where_it_is(
    whole: Path, monkeypatch: pytest.MonkeyPatch, history: History, name: str, refusal: int
) -> None:
    """Neither it nor anything beside it is touched: what can't be read may be whole."""
    refused = whole / "bybit" / "BTCUSDT" / name
    for read in ("read_bytes", "read_text"):
        real = getattr(Path, read)

        def refuse(path: Path, *arguments: Any, real: Any = real, **options: Any) -> Any:
            if path == refused:
                raise OSError(refusal, os.strerror(refusal), str(path))
            return real(path, *arguments, **options)

        monkeypatch.setattr(Path, read, refuse)
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("[!.]*.*")}
    message = f"{refused}: can't be read ({os.strerror(refusal)}); check the disk and the permissions"
    assert problems(audit(whole, history)) == [message]
    assert repair(whole, history) == Repair((), 0, (message,))
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("[!.]*.*")} == before


@pytest.mark.parametrize("refused", ["bybit", "bybit/BTCUSDT", "bybit/BTCUSDT/60", "bybit/BTCUSDT/book-3"])
def test_a_directory_that_can_not_be_looked_into_is_told_of(
    whole: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """Where a market's histories can't be seen, none can be called whole; one of them alone holds up no other."""
    look = os.scandir

    def refuse(path: Path) -> Any:
        if path == whole / refused:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return look(path)

    monkeypatch.setattr(os, "scandir", refuse)
    message = f"{whole / refused}: can't be read (Permission denied); check the disk and the permissions"
    if refused.count("/") < 2:
        with pytest.raises(UnreadableError) as failed:
            list(stored_histories(whole))
        assert str(failed.value) == message
    else:
        histories = list(stored_histories(whole))
        assert histories == [BTC, BOOK, FUNDING]
        assert [line for history in histories for line in problems(audit(whole, history))] == [message]


@pytest.mark.parametrize("damage", [flip, unseal])
def test_what_a_fetch_mends_while_the_repair_waits_for_it_is_left_alone(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object]
) -> None:
    part = parts(data_dir)[3]
    mended = part.read_bytes()
    damage(part)

    @contextmanager
    def writing_after_a_fetch(directory: Path) -> Iterator[None]:
        with parts_module.writing(directory):
            part.write_bytes(mended)
            before = part.stat().st_ino
            yield
            assert part.stat().st_ino == before

    monkeypatch.setattr(repair_module, "writing", writing_after_a_fetch)
    assert len(problems(audit(data_dir, BTC))) == 1
    assert repair(data_dir, BTC) == Repair((), 0, ())
    assert part.read_bytes() == mended


def test_funding_that_is_gone_is_fetched_again(exchange: ExchangeServer, data_dir: Path) -> None:
    path = data_dir / "bybit" / "BTCUSDT" / "funding" / "funding.parquet"
    path.unlink()
    assert problems(audit(data_dir, FUNDING)) == [
        f"{path}: is gone; fetch it again with `flashtrader fetch --check --repair`"
    ]
    assert repair(data_dir, FUNDING, base_url=exchange.url) == Repair((), 12, ())


def test_books_can_not_be_fetched_again(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashtrader.market.book_store.ROWS_PER_PART", 16)
    BookStore(data_dir).append(BOOK, a_book(100).iloc[70:100])
    _, second, *_ = BookStore(data_dir).parts(BOOK)
    flip(second)
    with pytest.raises(DataError, match="set it aside with `flashtrader fetch --check --repair`; the time it held is"):
        BookStore(data_dir).read(BOOK)
    done = repair(data_dir, BOOK)
    assert ([path.name for path in done.set_aside], done.left) == ([f"{second.name}.damaged-0"], ())
    assert audit(data_dir, BOOK).findings == ()
    assert len(BookStore(data_dir).read(BOOK)) == 90 - 16
    assert BookStore(data_dir).ledger(BOOK).gaps == {"began": 1, "unexplained": 1}


def test_long_histories_are_extended_without_being_read(
    exchange: ExchangeServer, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts that are read are those beside the new bars, however many there are; the ledger is the same."""
    read: list[Path] = []
    real = store_module.read_bars
    monkeypatch.setattr(store_module, "read_bars", lambda path, interval: (read.append(path), real(path, interval))[1])
    exchange.now_ms += 3_600_000
    [report] = fetch(BybitSource(base_url=exchange.url), Store(data_dir), ["BTCUSDT"], HOUR)
    assert report.added == 1
    assert len(parts(data_dir)) >= 7
    assert set(read) <= set(parts(data_dir)[-2:])
    ledger = Store(data_dir).ledger(BTC)
    (Store(data_dir).directory(BTC) / "profile.npz").unlink()
    assert Store(data_dir).examine(BTC) == ledger


def test_a_profile_with_any_byte_damaged_is_one_that_can_be_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "profile.npz"
    index = np.arange(0, 4_000, 3)
    profile = Profile(index, index % 2 == 0, index % 5 == 0)
    profile.write(path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
        assert len(Profile.read(path).index) in (0, len(index)), f"byte {place}"


def test_a_profile_comes_back_as_it_went_in(tmp_path: Path) -> None:
    bars = random_bars(500).drop(index=[3, 4, 250]).assign(volume=lambda table: table["volume"] * (table.index % 3 > 0))
    bars.loc[7, ["open", "high", "low", "close"]] = 5.0
    for table in (bars, bars.iloc[:1], bars.iloc[:0]):
        profile = Profile.of(table, HOUR)
        profile.write(tmp_path / "profile.npz")
        read = Profile.read(tmp_path / "profile.npz")
        for name in ("index", "flat", "traded"):
            np.testing.assert_array_equal(getattr(read, name), getattr(profile, name))
    assert len(Profile.read(tmp_path / "missing").index) == 0
