"""The recorder, through faults of every kind: what is on disk is the exchange's book, or says that it isn't known."""

import errno
import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pytest

from book_server import FAULTS, BookMarket, BookServer, SnapshotServer, Wire
from exchange_server import json_reply
from flashtrader.errors import SourceError, UnknownSymbolError
from flashtrader.market import http, recorder
from flashtrader.market.book_store import BookSeries, BookStore
from flashtrader.market.books import Books, book_values
from flashtrader.market.live_book import BookMessage, LiveBook
from flashtrader.market.recorder import record, record_once, report
from flashtrader.market.sources import bybit_books
from flashtrader.market.sources.bybit_books import BrokenStreamError, BybitBooks, read_message

LEVELS = 5
SERIES = BookSeries("bybit", "BTCUSDT", LEVELS)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flush often, and lose no time between two attempts."""
    monkeypatch.setattr(recorder, "FLUSH_S", 0.2)
    monkeypatch.setattr(recorder, "RESUBSCRIBE_S", 0.0)
    monkeypatch.setattr(recorder, "FIRST_BACKOFF_S", 0.0)
    monkeypatch.setattr(recorder, "_TICK_S", 0.02)


@pytest.fixture
def store(tmp_path: Path) -> BookStore:
    return BookStore(tmp_path / "data")


class FinishedError(Exception):
    """The schedule has ended."""


class ScheduledStream:
    """A stream without sockets: the same messages every time; a snapshot comes some messages after it is asked for."""

    def __init__(self, wire: Wire, steps: int) -> None:
        self._wire, self._steps = wire, steps
        self._queue: deque[str | None] = deque()
        self._snapshot_after: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def subscribe(self, symbol: str) -> None:
        self._snapshot_after = 1

    def resubscribe(self, symbol: str) -> None:
        self._snapshot_after = 4

    def receive(self, timeout_s: float) -> BookMessage | None:
        if self._snapshot_after is not None:
            self._snapshot_after -= 1
            if self._snapshot_after == 0:
                self._snapshot_after = None
                self._queue.append(json.dumps(self._wire.market.snapshot()))
        if not self._queue:
            if self._wire.steps == self._steps:
                raise FinishedError
            for message in self._wire.step():
                self._queue.append(json.dumps(message) if isinstance(message, dict) else message)
        if not self._queue:
            return None
        text = self._queue.popleft()
        if text is None:
            raise BrokenStreamError("the connection broke")
        try:
            return read_message(text, self._wire.market.depth, "here")
        except ValueError:
            raise BrokenStreamError("a message that can't be read") from None


class ScheduledBooks(BybitBooks):
    """An exchange without sockets."""

    def __init__(self, wire: Wire, steps: int) -> None:
        super().__init__(levels=LEVELS)
        self._stream_of = wire, steps

    def connect(self) -> ScheduledStream:  # type: ignore[override]
        return ScheduledStream(*self._stream_of)


def recorded(store: BookStore, wire: Wire, steps: int, every_ms: int = 1) -> Books:
    """Return what is on disk after a schedule has run."""
    with pytest.raises(FinishedError):
        record(ScheduledBooks(wire, steps), store, ["BTCUSDT"], every_ms=every_ms)
    return store.read(SERIES)


def assert_right_or_marked(books: Books, market: BookMarket, every_ms: int = 1) -> None:
    """Each row is a state of its millisecond, and within a run each is the last of its stretch and none is missing."""
    times, gaps, rows = books["timestamp"].to_numpy(), books["gap_before"].to_numpy(), book_values(books)
    for time_ms, row in zip(times.tolist(), rows, strict=True):
        assert any(np.array_equal(row, state[:LEVELS]) for state in market.states[time_ms]), time_ms
    last_of = {time_ms // every_ms: time_ms for time_ms in sorted(market.states)}
    stretches = np.array(sorted(last_of))
    for place in np.flatnonzero(~gaps[1:]):
        before, after = times[place : place + 2] // every_ms
        assert not ((before < stretches) & (stretches < after)).any(), f"missing after {times[place]}"
        assert times[place] == last_of[before]
        assert np.array_equal(rows[place], market.states[times[place]][-1][:LEVELS])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("every_ms", [1, 20])
def test_the_book_on_disk_is_right_or_marked_as_a_gap(store: BookStore, seed: int, every_ms: int) -> None:
    market = BookMarket(seed=seed)
    wire = Wire(market, FAULTS, seed, rate=0.04)
    books = recorded(store, wire, 1_000, every_ms)
    assert len(wire.met) > 20
    assert_right_or_marked(books, market, every_ms)
    harmless = wire.met.count("repeat")
    assert 10 < books["gap_before"].sum() <= 1 + 3 * (len(wire.met) - harmless)
    stretches = len({time_ms // every_ms for time_ms in market.states})
    assert stretches * 0.6 < len(books) <= stretches
    assert_ledger_agrees(store, books)


def assert_ledger_agrees(store: BookStore, books: Books) -> None:
    ledger = store.ledger(SERIES)
    assert ledger.examined
    assert [run.first_ms for run in ledger.runs] == books["timestamp"][books["gap_before"]].tolist()
    assert ledger.rows == len(books)
    assert "unexplained" not in ledger.gaps


@pytest.mark.parametrize("faults", [(), ("repeat",)])
def test_without_losses_everything_is_stored_and_nothing_marked(store: BookStore, faults: tuple[str, ...]) -> None:
    market = BookMarket(seed=3)
    books = recorded(store, Wire(market, faults, rate=0.1), 500)
    assert books["timestamp"].tolist() == sorted(market.states)
    assert books["gap_before"].sum() == 1
    assert_right_or_marked(books, market)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_alone(store: BookStore, fault: str) -> None:
    market = BookMarket(seed=5)
    wire = Wire(market, [fault], seed=2, rate=0.05)
    assert_right_or_marked(recorded(store, wire, 300), market)
    reasons = {
        "repeat": set(),
        "disconnect": {"disconnected"},
        "unreadable": {"disconnected"},
        "restart": {"restarted"},
    }
    assert set(store.ledger(SERIES).gaps) == reasons.get(fault, {"out_of_sequence"})


def renumbering(monkeypatch: pytest.MonkeyPatch, when: Callable[[int, int], bool]) -> None:
    """Let a book take messages for the next ones, where `when` holds of their number and the one that is due."""
    apply = LiveBook.apply

    def trusting(book: LiveBook, message: BookMessage) -> bool:
        due = book._update_id + 1
        return apply(book, message._replace(update_id=due) if when(message.update_id, due) else message)

    monkeypatch.setattr(LiveBook, "apply", trusting)


def accepts_a_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    renumbering(monkeypatch, lambda number, due: number > due)


def accepts_a_late_one(monkeypatch: pytest.MonkeyPatch) -> None:
    renumbering(monkeypatch, lambda number, due: number < due)


def marks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LiveBook, "_break_off", lambda *_: None)


def misses_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    put = LiveBook._put
    monkeypatch.setattr(LiveBook, "_put", lambda book, message: put(book, message._replace(bids=message.bids[:8])))


@pytest.mark.parametrize("break_it", [accepts_a_skip, accepts_a_late_one, marks_nothing, misses_a_change])
def test_the_check_notices_a_recorder_that_trusts_its_stream(
    store: BookStore, monkeypatch: pytest.MonkeyPatch, break_it: Callable[[pytest.MonkeyPatch], None]
) -> None:
    break_it(monkeypatch)
    market = BookMarket(seed=0)
    books = recorded(store, Wire(market, FAULTS, 0, rate=0.03), 600)
    with pytest.raises(AssertionError):
        assert_right_or_marked(books, market)


def message(update_id: int, *, asks=(), bids=(), kind="delta", time_ms: int | None = None) -> BookMessage:
    return BookMessage(update_id, "X", kind, 100 + update_id if time_ms is None else time_ms, asks, bids)


FIRST = message(10, kind="snapshot", asks=((101.0, 1.0), (102.0, 2.0)), bids=((100.0, 3.0), (99.0, 4.0)))


@pytest.fixture
def book() -> LiveBook:
    book = LiveBook(depth=2)
    assert book.apply(FIRST)
    assert book.take_break() is not None
    return book


def test_a_delta_inserts_updates_deletes_and_pushes_out(book: LiveBook) -> None:
    assert book.apply(message(11, bids=((100.2, 6.0),)))
    np.testing.assert_array_equal(book.best(3)[:, 2:], [[100.2, 6.0], [100.0, 3.0], [np.nan, 0.0]])
    assert book.apply(message(12, asks=((100.5, 5.0), (101.0, 1.5)), bids=((100.0, 0.0), (42.0, 0.0))))
    np.testing.assert_array_equal(book.best(3)[:, :2], [[100.5, 5.0], [101.0, 1.5], [np.nan, 0.0]])
    np.testing.assert_array_equal(book.best(3)[:, 2:], [[100.2, 6.0], [np.nan, 0.0], [np.nan, 0.0]])
    assert book.take_break() is None


def test_a_crossed_book_is_not_known(book: LiveBook) -> None:
    assert not book.apply(message(11, bids=((101.0, 1.0),)))
    assert not book.following
    assert book.apply(message(12, kind="snapshot", asks=FIRST.asks, bids=FIRST.bids))
    assert book.take_break() == ("crossed", "after update 11 the best bid is 101 and the best ask 101")


def test_a_book_without_a_side_is_known_but_not_kept(book: LiveBook) -> None:
    assert not book.apply(message(11, bids=((100.0, 0.0), (99.0, 0.0))))
    assert book.following
    assert book.apply(message(12, bids=((98.0, 1.0),)))
    assert book.take_break() == ("one_sided", "update 11 leaves no bid")


def test_the_first_of_several_reasons_is_told(book: LiveBook) -> None:
    book.apply(message(13))
    assert not book.apply(message(14, kind="snapshot", asks=FIRST.asks))
    assert book.apply(message(15, bids=FIRST.bids))
    assert book.take_break() == ("out_of_sequence", "update 13 came where 11 was due")


@pytest.mark.parametrize(("update_id", "gap"), [(10, False), (11, False), (12, True), (9, True), (1, True)])
def test_a_snapshot_leaves_a_gap_if_updates_are_missing_before_it(book: LiveBook, update_id: int, gap: bool) -> None:
    book.apply(message(update_id, kind="snapshot", asks=FIRST.asks, bids=FIRST.bids, time_ms=200))
    assert book.following
    assert (book.take_break() is not None) == gap


def test_a_snapshot_of_the_same_number_with_another_book_leaves_a_gap(book: LiveBook) -> None:
    assert book.apply(FIRST._replace(time_ms=200, asks=((101.0, 9.0),)))
    assert book.take_break() is not None


def test_a_repeated_number_with_other_content_is_no_repetition(book: LiveBook) -> None:
    delta = message(11, bids=((100.0, 7.0),))
    assert book.apply(delta)
    assert not book.apply(delta)
    assert book.following
    assert not book.apply(delta._replace(bids=((100.0, 8.0),)))
    assert not book.following


def test_a_snapshot_from_the_past_does_not_help(book: LiveBook) -> None:
    book.apply(message(13))
    assert not book.apply(FIRST._replace(time_ms=FIRST.time_ms - 1))
    assert not book.following


def record_until(done: Callable[[], bool], server: BookServer, store: BookStore, *symbols: str, **options: Any) -> None:
    """Record through sockets until `done`."""

    def stop(*_: object) -> None:
        if done():
            raise FinishedError

    source = BybitBooks(levels=LEVELS, base_url=server.url)
    with pytest.raises(FinishedError):
        record(source, store, symbols or ["BTCUSDT"], 20.0, progress=stop, **options)


def test_two_markets_over_one_connection_that_breaks(store: BookStore) -> None:
    said: list[str] = []
    wires = [
        Wire(BookMarket(symbol, seed), FAULTS, seed, rate=0.03) for seed, symbol in enumerate(["BTCUSDT", "ETHUSDT"])
    ]
    with BookServer(*wires, steps=400, pause_s=0.001) as server:
        record_until(lambda: server.exhausted, server, store, "BTCUSDT", "ETHUSDT", say=said.append)
    assert server.connections > 1
    troubles = {line.partition(" (")[0] for line in said}
    broke = f"{server.host}: the connection broke"
    assert broke in troubles <= {broke, f"{server.host}: a message that can't be read"}
    for wire in wires:
        series = BookSeries("bybit", wire.market.symbol, LEVELS)
        books = store.read(series)
        assert_right_or_marked(books, wire.market)
        assert len(books) > 0.1 * len(wire.market.states)
        assert store.ledger(series).gaps["disconnected"] > 0


def test_a_second_recording_goes_on_after_a_gap(store: BookStore) -> None:
    wire = Wire(BookMarket())
    rows = [0]
    for steps in (150, 300):
        with BookServer(wire, steps=steps) as server:
            record_until(lambda: server.exhausted, server, store)
        rows.append(report(store, SERIES, 0).rows)
    assert_right_or_marked(store.read(SERIES), wire.market)
    assert report(store, SERIES, 0).gaps == {"began": 1}
    assert rows == sorted(set(rows))


def test_it_ends_in_time_and_says_what_it_added(store: BookStore) -> None:
    with BookServer(Wire(BookMarket(seed=1)), steps=100_000) as server:
        [ended] = record(BybitBooks(levels=LEVELS, base_url=server.url), store, ["BTCUSDT"], 0.5)
    assert (ended.rows, ended.added, ended.failed) == (len(store.read(SERIES)), ended.rows, None)


def test_a_time_too_short_for_a_snapshot_is_said(store: BookStore) -> None:
    [ended] = record(BybitBooks(base_url="ws://127.0.0.1:9"), store, ["BTCUSDT"], 0.0)
    assert ended.failed == ("the book of BTCUSDT, 20 levels, from bybit: no snapshot came; ask for a longer --duration")


@pytest.mark.parametrize(
    ("kind", "update_id", "time_ms", "reason", "evidence"),
    [
        ("delta", 4, 20, "out_of_sequence", "update 4 came where 3 was due"),
        ("delta", 3, 5, "out_of_sequence", "update 3 is older than update 2"),
        ("snapshot", 9, 20, "out_of_sequence", "a snapshot with update 9 came after update 2"),
        ("snapshot", 1, 20, "restarted", "a snapshot with update 1 came after update 2"),
    ],
)
def test_the_ledger_says_why_the_book_was_lost(
    kind: Literal["snapshot", "delta"], update_id: int, time_ms: int, reason: str, evidence: str
) -> None:
    book = LiveBook(50)
    asks, bids = ((101.0, 1.0),), ((100.0, 1.0),)
    book.apply(BookMessage(2, "BTCUSDT", "snapshot", 10, asks, bids))
    assert book.take_break() == ("began", "a recording begins here")
    book.apply(BookMessage(update_id, "BTCUSDT", kind, time_ms, asks, bids))
    assert book.take_break() == (reason, evidence)


def test_a_server_that_never_sends_a_snapshot_is_left(store: BookStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "SNAPSHOT_S", 0.05)
    with BookServer(Wire(BookMarket()), snapshots=False) as server:
        [ended] = record(BybitBooks(base_url=server.url), store, ["BTCUSDT"], 0.7)
    assert server.connections > 1
    assert (ended.added, ended.rows) == (0, 0)
    assert ended.failed == (
        "the book of BTCUSDT, 20 levels, from bybit: no snapshot came; no snapshot of BTCUSDT came within 0.05 s"
    )


def test_a_quiet_market_is_asked_again_and_stays_one_run(store: BookStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "QUIET_S", 0.1)
    with BookServer(Wire(BookMarket()), steps=5) as server:
        subscriptions = lambda: [request["op"] for request in server.requests].count("subscribe")  # noqa: E731
        record_until(lambda: subscriptions() > 2, server, store)
    assert (server.connections, store.ledger(SERIES).gaps) == (1, {})


def test_a_subscription_that_has_died_is_left(store: BookStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection lives, but updates have stopped, and no snapshot comes when asked."""
    monkeypatch.setattr(recorder, "QUIET_S", 0.1)
    monkeypatch.setattr(recorder, "SNAPSHOT_S", 0.1)
    with BookServer(Wire(BookMarket()), steps=5) as server:

        def left() -> bool:
            server.snapshots = not server.exhausted
            return server.connections > 1

        record_until(left, server, store)


def test_a_silent_server_is_pinged_then_left(store: BookStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bybit_books, "PING_S", 0.05)
    with BookServer(Wire(BookMarket()), steps=5) as server:
        record_until(lambda: {"op": "ping"} in server.requests, server, store)
        assert server.connections == 1
        monkeypatch.setattr(bybit_books, "PING_S", 60.0)
        monkeypatch.setattr(bybit_books, "SILENT_S", 0.2)
        said: list[str] = []
        record_until(lambda: server.connections > 2, server, store, say=said.append)
    assert said[0] == f"{server.host}: not a word for 0.2 s; connecting again"


def test_an_unknown_symbol_ends_it(store: BookStore) -> None:
    with BookServer(Wire(BookMarket())) as server, pytest.raises(UnknownSymbolError) as refused:
        record(BybitBooks(base_url=server.url), store, ["NOPE"], 5.0)
    assert str(refused.value) == (
        f"{server.host}: 'error:handler not found,topic:orderbook.50.NOPE': NOPE has no book of "
        "50 levels there; check the spelling (upper case, such as BTCUSDT) and the category"
    )
    assert not store.data_dir.exists()


def test_no_server_is_an_error_after_some_attempts(store: BookStore) -> None:
    with pytest.raises(SourceError) as refused:
        record(BybitBooks(base_url="ws://127.0.0.1:9"), store, ["BTCUSDT"])
    assert str(refused.value) == (
        f"127.0.0.1:9: unreachable ([Errno {errno.ECONNREFUSED}] Connection refused); "
        "check the network, the proxy settings and --base-url (tried 5 times)"
    )


def test_one_snapshot_by_http(store: BookStore, monkeypatch: pytest.MonkeyPatch) -> None:
    market = BookMarket()
    with SnapshotServer(market) as server:
        source = BybitBooks(levels=LEVELS, base_url=server.url)
        assert [ended.added for ended in record_once(source, store, ["BTCUSDT"])] == [1]
        market.step()
        market.time_ms += 1
        market.step()
        assert [ended.rows for ended in record_once(source, store, ["BTCUSDT"])] == [2]
        [again] = record_once(source, store, ["BTCUSDT"])
        assert again.failed == (
            "the book of BTCUSDT, 5 levels, from bybit: the snapshot has no bid, no ask, or is stored already"
        )
        with pytest.raises(UnknownSymbolError) as unknown:
            record_once(source, store, ["NOPE"])
        assert str(unknown.value) == (
            f"{server.host}: NOPE book (linear): retCode 10001 'Not supported symbols': NOPE is not listed in category "
            "linear; check the spelling (upper case, such as BTCUSDT) and the category"
        )
        server.fail(lambda reply: json_reply(reply.json | {"result": {}}), times=5)
        monkeypatch.setattr(http, "FIRST_BACKOFF_S", 0.0)
        with pytest.raises(SourceError) as damaged:
            record_once(source, store, ["BTCUSDT"])
        assert str(damaged.value) == (
            f"{server.host}: BTCUSDT book (linear): the answer is no order book (KeyError('ts')); "
            "fetch again (asked 5 times)"
        )
    assert_right_or_marked(store.read(SERIES), market)
    assert store.read(SERIES)["gap_before"].all()


@pytest.mark.network
def test_the_real_exchange(store: BookStore) -> None:
    source = BybitBooks(levels=LEVELS)
    [ended] = record(source, store, ["BTCUSDT"], 10.0)
    assert ended.rows > 50
    assert ended.gaps == {}
