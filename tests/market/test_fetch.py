import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from fake_source import FIRST_MS, HOUR, HOUR_MS, FakeSource, failing_at, hours, market_bars
from flashtrader.errors import ConfigError, DataError, SourceError, UnknownSymbolError
from flashtrader.interval import Interval
from flashtrader.market import fetch as fetch_module
from flashtrader.market.bars import PRICES, Bars
from flashtrader.market.fetch import FetchReport, fetch
from flashtrader.market.sources import Page, Span
from flashtrader.market.store import Series, Store

BTC = Series("bybit", "BTCUSDT", HOUR)
BARS = market_bars(101)
CLOSED = BARS.iloc[:100]
COMPARED = 10


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data")


def btc(source: FakeSource, store: Store, start: int | None = None, end: int | None = None) -> FetchReport:
    start_ms, end_ms = (None if hour is None else FIRST_MS + hour * HOUR_MS for hour in (start, end))
    [report] = fetch(source, store, ["BTCUSDT"], HOUR, start_ms, end_ms)
    return report


def asked(source: FakeSource) -> tuple[Span, ...]:
    """Return what the source was asked for, the COMPARED stored bars at each border included."""
    return fetch_module.union(span for _, span in source.asked)


def test_everything_but_the_open_bar_is_stored(store: Store) -> None:
    report = btc(FakeSource({"BTCUSDT": BARS}), store)
    pd.testing.assert_frame_equal(store.read(BTC), CLOSED)
    assert report == FetchReport("BTCUSDT", 100, 100, FIRST_MS, FIRST_MS + 99 * HOUR_MS, {}, None)


def test_a_bar_that_was_open_is_stored_once_it_has_closed(store: Store) -> None:
    early = BARS.iloc[:51].copy()
    early.loc[50, "close"] = early.loc[50, "low"]
    btc(FakeSource({"BTCUSDT": early}), store)
    source = FakeSource({"BTCUSDT": BARS})
    assert btc(source, store).added == 50
    pd.testing.assert_frame_equal(store.read(BTC), CLOSED)
    assert asked(source) == (hours(50 - COMPARED, 100),)


@pytest.mark.parametrize(
    ("steps", "compared"),
    [
        ([(40, 60), (0, 60), (0, 100)], 2 * COMPARED),
        ([(50, None), (0, 20), (0, None)], 3 * COMPARED),
        ([(10, 11), (0, 100)], 1),
    ],
)
def test_extending_either_way_equals_one_fetch(
    store: Store, steps: list[tuple[int, int | None]], compared: int
) -> None:
    source = FakeSource({"BTCUSDT": BARS})
    added = [btc(source, store, start, end).added for start, end in steps]
    pd.testing.assert_frame_equal(store.read(BTC), CLOSED)
    assert sum(added) == 100
    # Nothing is asked for twice but what has to be compared.
    assert sum(span.end_ms - span.start_ms for _, span in source.asked) == (100 + compared) * HOUR_MS


def test_what_was_answered_is_not_asked_for_again_even_without_bars(store: Store) -> None:
    holey = BARS.drop(index=range(30, 45))
    source = FakeSource({"BTCUSDT": holey})
    assert btc(source, store).gaps == {"outage": 1}
    source.asked.clear()
    report = btc(source, store)
    assert source.asked == []
    assert (report.rows, report.added, report.gaps, report.failed) == (85, 0, {"outage": 1}, None)


def test_times_off_the_grid_mean_the_bars_that_open_between_them(store: Store) -> None:
    fetch(FakeSource({"BTCUSDT": BARS}), store, ["BTCUSDT"], HOUR, FIRST_MS + 1, FIRST_MS + 5 * HOUR_MS + 1)
    pd.testing.assert_frame_equal(store.read(BTC), BARS.iloc[1:6].reset_index(drop=True))


@pytest.mark.parametrize(("name", "expected_ms"), [("bybit", 2 * 365 * 24 * HOUR_MS), ("file", 800 * 24 * HOUR_MS)])
def test_two_years_of_an_exchange_and_all_of_a_file(store: Store, name: str, expected_ms: int) -> None:
    source = FakeSource({"BTCUSDT": market_bars(800 * 24 + 1).iloc[[0, -1]]})
    source.name = name
    source.page_bars = 1_000
    btc(source, store)
    assert sum(span.end_ms - span.start_ms for _, span in source.asked) == expected_ms


def test_a_longer_file_extends_what_a_shorter_one_gave(store: Store) -> None:
    for first in (60, 0):
        source = FakeSource({"BTCUSDT": BARS.iloc[first:]})
        source.name = "file"
        report = btc(source, store)
    assert report.rows == 100


@pytest.mark.parametrize("name", ["file", "bybit"])
def test_a_file_without_the_holes_of_an_earlier_one_fills_them(store: Store, name: str) -> None:
    """An exchange that has answered is not asked again: what it lacked then, it lacks."""
    holes = BARS.drop(index=[*range(20, 25), *range(60, 75)]).reset_index(drop=True)
    source, whole = FakeSource({"BTCUSDT": holes}), FakeSource({"BTCUSDT": BARS})
    source.name = whole.name = name
    assert btc(source, store).gaps == {"outage": 2}
    report = btc(whole, store, 18, 24)
    assert report.added == (4 if name == "file" else 0)
    report = btc(whole, store)
    assert (report.added, report.gaps) == ((16, {}) if name == "file" else (0, {"outage": 2}))
    assert bool(whole.asked) == (name == "file")


def test_pages_that_a_download_lost_are_asked_for_again(store: Store) -> None:
    bars = market_bars(2001)
    lost = [row for start in range(100, 1900, 301) for row in range(start, start + 30)]
    report = btc(FakeSource({"BTCUSDT": bars.drop(index=lost).reset_index(drop=True)}), store)
    assert report.gaps == {"fetch_failed": 6}
    source = FakeSource({"BTCUSDT": bars})
    report = btc(source, store)
    assert (report.added, report.gaps) == (len(lost), {})
    pd.testing.assert_frame_equal(store.read(BTC), bars.iloc[:2000])


def test_a_failed_span_is_known_and_asked_for_again(store: Store) -> None:
    report = btc(FakeSource({"BTCUSDT": BARS}, failing_at(4)), store)
    assert (report.rows, report.failed) == (30, "fake: timed out")
    assert [(failure.span, failure.error) for failure in store.ledger(BTC).failed] == [
        (hours(0, 70), "fake: timed out")
    ]
    source = FakeSource({"BTCUSDT": BARS})
    report = btc(source, store)  # no start given: it goes back to what the first fetch was after
    assert (report.added, report.failed) == (70, None)
    assert asked(source) == (hours(0, 70 + COMPARED),)
    assert store.ledger(BTC).failed == ()
    pd.testing.assert_frame_equal(store.read(BTC), CLOSED)


def test_a_failure_between_stored_bars_is_a_gap_that_says_so(store: Store) -> None:
    btc(FakeSource({"BTCUSDT": BARS}), store, 0, 20)
    report = btc(FakeSource({"BTCUSDT": BARS}, failing_at(5)), store)
    assert report.gaps == {"fetch_failed": 1}
    [gap] = store.ledger(BTC).gaps
    assert (gap.span, gap.bars, gap.evidence) == (hours(20, 70), 50, "fake: timed out")


@pytest.mark.parametrize("error", [SourceError("fake: refused"), DataError("eth.csv: no column open")])
def test_a_symbol_whose_extent_is_unknown_fails_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    source = FakeSource({"BTCUSDT": BARS, "ETHUSDT": BARS})
    extent = source.history

    def eth_fails(symbol: str, interval: Interval) -> Span:
        if symbol == "ETHUSDT":
            raise error
        return extent(symbol, interval)

    monkeypatch.setattr(source, "history", eth_fails)
    reports = fetch(source, store, ["BTCUSDT", "ETHUSDT"], HOUR)
    assert [(report.rows, report.failed) for report in reports] == [(100, None), (0, str(error))]


def test_one_symbol_fails_alone(store: Store) -> None:
    def eth_fails(symbol: str, page: Span) -> None:
        if symbol == "ETHUSDT":
            raise SourceError("fake: refused")

    source = FakeSource({"BTCUSDT": BARS, "ETHUSDT": BARS, "SOLUSDT": BARS}, eth_fails)
    reports = fetch(source, store, ["BTCUSDT", "ETHUSDT", "SOLUSDT"], HOUR)
    assert [(report.rows, report.failed) for report in reports] == [(100, None), (0, "fake: refused"), (100, None)]


def test_a_page_of_invalid_bars_is_refused_and_nothing_of_it_stored(store: Store) -> None:
    report = btc(FakeSource({"BTCUSDT": BARS.assign(low=0.0)}), store)
    assert "no usable low" in (report.failed or "")
    assert report.rows == 0


def test_an_unknown_symbol_stops_everything_before_it_begins(store: Store) -> None:
    source = FakeSource({"BTCUSDT": BARS})
    with pytest.raises(UnknownSymbolError, match="no symbol DOGE"):
        fetch(source, store, ["BTCUSDT", "DOGE"], HOUR)
    assert source.asked == []
    assert not store.data_dir.exists()


def test_an_unreachable_source_writes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    source = FakeSource({"BTCUSDT": BARS})

    def unreachable(symbol: str, interval: object) -> Span:
        raise SourceError("fake: unreachable")

    monkeypatch.setattr(source, "history", unreachable)
    assert btc(source, store).failed == "fake: unreachable"
    assert not store.data_dir.exists()


def test_a_time_without_bars_is_said(store: Store) -> None:
    assert btc(FakeSource({"BTCUSDT": BARS}), store, 200).failed == (
        "no closed bars in the time asked for: bybit has BTCUSDT from 2020-09-13T13:00:00Z to 2020-09-17T17:00:00Z"
    )
    with pytest.raises(ConfigError, match="not before end"):
        btc(FakeSource({"BTCUSDT": BARS}), store, 5, 5)


def test_a_listed_market_without_a_single_bar_is_a_failure(store: Store) -> None:
    """Each time: that it was answered makes it no success."""
    bars = BARS.iloc[[0, -2, -1]].reset_index(drop=True)
    for _ in range(2):
        report = btc(FakeSource({"BTCUSDT": bars}), store, 10, 20)
        assert (report.rows, report.failed) == (
            0,
            "bybit has no bar of BTCUSDT in the time asked for, though it lists the market",
        )


def test_a_source_that_leaves_something_unanswered_is_noticed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    source = FakeSource({"BTCUSDT": BARS})
    monkeypatch.setattr(source, "pages", lambda *_: iter([Page(BARS.iloc[90:], hours(90, 101))]))
    report = btc(source, store)
    assert report.rows == 10
    assert report.failed == (
        "bybit left 2020-09-13T13:00:00Z to 2020-09-17T07:00:00Z of BTCUSDT unanswered; fetch again"
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a bug")])
def test_an_interrupt_keeps_what_arrived(store: Store, error: BaseException) -> None:
    with pytest.raises(type(error)):
        btc(FakeSource({"BTCUSDT": BARS}, failing_at(6, error)), store)
    assert len(store.read(BTC)) == 50
    assert store.ledger(BTC).failed != ()
    source = FakeSource({"BTCUSDT": BARS})
    assert btc(source, store).rows == 100
    assert asked(source) == (hours(0, 50 + COMPARED),)


def test_pages_are_stored_some_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[int] = []
    append = Store.append

    def counted(self: Store, series: Series, bars: Bars, answered: Span) -> int:
        writes.append(len(bars))
        return append(self, series, bars, answered)

    monkeypatch.setattr(Store, "append", counted)
    monkeypatch.setattr(fetch_module, "_FLUSH_BARS", 30)
    btc(FakeSource({"BTCUSDT": BARS}), store)
    assert writes == [30, 30, 30, 10]


def test_progress_counts_the_bars_that_were_asked_for(store: Store) -> None:
    btc(FakeSource({"BTCUSDT": BARS}), store, 20, 40)
    seen: list[tuple[str, int, int]] = []
    fetch(FakeSource({"BTCUSDT": BARS}), store, ["BTCUSDT"], HOUR, FIRST_MS, None, lambda *step: seen.append(step))
    assert seen[0] == ("BTCUSDT", 0, 80)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1] == ("BTCUSDT", 80, 80)


def test_an_outage_found_in_a_later_symbol_explains_an_earlier_one(store: Store) -> None:
    thin = market_bars(3001)
    thin[["open", "high", "low", "close"]] = 100.0  # one price in every bar: as thin as a market can be
    missing = range(1500, 1502)
    source = FakeSource({"THIN": thin.drop(index=missing), "BUSY": market_bars(3001).drop(index=missing)})
    [alone] = fetch(source, Store(store.data_dir / "alone"), ["THIN"], HOUR)
    assert alone.gaps == {"no_trades": 1}
    reports = fetch(source, store, ["THIN", "BUSY"], HOUR)
    assert [report.gaps for report in reports] == [{"outage": 1}, {"outage": 1}]


def split_in_two(bars: Bars) -> Bars:
    """Return the bars as they are told after each share has become two."""
    return bars.assign(**{price: bars[price] / 2 for price in PRICES})


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("name", ["bybit", "yahoo", "file"])
@pytest.mark.parametrize(
    ("there", "wanted"),
    [
        ([(40, 60)], (0, 60)),
        ([(40, 60)], (40, 100)),
        ([(0, 20), (80, 100)], (0, 100)),
        ([(40, 60)], (80, 100)),  # a hole stays between them, and is of two histories all the same
        ([(40, 41)], (0, 100)),
    ],
)
def test_a_history_is_never_made_of_two(
    store: Store, name: str, there: list[tuple[int, int]], wanted: tuple[int, int]
) -> None:
    source, other = FakeSource({"BTCUSDT": BARS}), FakeSource({"BTCUSDT": split_in_two(BARS)})
    source.name = other.name = name
    series = Series(name, "BTCUSDT", HOUR)
    for start, end in there:
        btc(source, store, start, end)
    before = files(store.directory(series))
    rows = store.ledger(series).rows

    report = btc(other, store, *wanted)
    assert (report.rows, report.added) == (rows, 0)
    assert report.failed is not None
    [bar] = re.findall(r"bar (\S+) in", report.failed)
    row = int(pd.Timestamp(bar).timestamp() * 1000 - FIRST_MS) // HOUR_MS
    close = BARS["close"].iloc[row]
    where = f"BTCUSDT 60 from {name}: bar {bar} in {store.directory(series)}"
    assert f"{where} has close {close:.10g}, at the source now {close / 2:.10g}; " in report.failed
    assert ("split or dividend" if name == "yahoo" else "another --data-dir") in report.failed
    assert files(store.directory(series)) == before
    assert btc(source, store, *wanted).failed is None


def test_any_one_price_at_the_border_is_enough(store: Store) -> None:
    btc(FakeSource({"BTCUSDT": BARS}), store, 0, 50)
    revised = BARS.copy()
    revised.loc[45, "high"] *= 1.001
    report = btc(FakeSource({"BTCUSDT": revised}), store)
    assert re.search(r"bar 2020-09-15T10:00:00Z in .* has high", report.failed or "")


def test_prices_that_differ_by_rounding_are_the_same(store: Store) -> None:
    btc(FakeSource({"BTCUSDT": BARS}), store, 0, 50)
    rounded = BARS.astype("float32").astype("float64").assign(timestamp=BARS["timestamp"], volume=7.0)
    assert btc(FakeSource({"BTCUSDT": rounded}), store).failed is None
    pd.testing.assert_frame_equal(store.read(BTC).iloc[:50], BARS.iloc[:50])


def test_another_file_is_noticed_even_where_it_adds_nothing(store: Store) -> None:
    """Of a file every shared bar is at hand; of an exchange, nothing is asked when nothing is missing."""
    revised = BARS.copy()
    revised.loc[30, ["open", "high", "low", "close"]] = 1.0
    for name in ("file", "bybit"):
        source, other = FakeSource({"BTCUSDT": BARS}), FakeSource({"BTCUSDT": revised})
        source.name = other.name = name
        assert btc(source, store).failed is None
        assert bool(btc(other, store, 60, 90).failed) == (name == "file")


def test_bars_that_a_kill_left_without_an_answer_are_compared_too(store: Store) -> None:
    btc(FakeSource({"BTCUSDT": BARS}), store, 40, 60)
    (store.directory(BTC) / "ledger.json").unlink()
    assert "has close" in (btc(FakeSource({"BTCUSDT": split_in_two(BARS)}), store).failed or "")
    assert btc(FakeSource({"BTCUSDT": BARS}), store).rows == 60


def test_one_market_with_other_prices_leaves_the_others_alone(store: Store) -> None:
    fetch(FakeSource({"BTCUSDT": BARS, "ETHUSDT": BARS}), store, ["BTCUSDT", "ETHUSDT"], HOUR, FIRST_MS + 50 * HOUR_MS)
    source = FakeSource({"BTCUSDT": split_in_two(BARS), "ETHUSDT": BARS})
    reports = fetch(source, store, ["BTCUSDT", "ETHUSDT"], HOUR, FIRST_MS)
    assert [(report.rows, report.failed is None) for report in reports] == [(50, False), (100, True)]


def test_a_failure_while_comparing_changes_nothing(store: Store) -> None:
    btc(FakeSource({"BTCUSDT": BARS}), store, 0, 50)
    report = btc(FakeSource({"BTCUSDT": BARS}, failing_at(1)), store)
    assert (report.rows, report.failed) == (50, "fake: timed out")
    assert store.ledger(BTC).failed == ()
    assert btc(FakeSource({"BTCUSDT": BARS}), store).rows == 100


KILLED = """
import sys, time
from pathlib import Path
from fake_source import HOUR, FakeSource, market_bars
from flashtrader.market import fetch
fetch._FLUSH_BARS = 20
slow = lambda symbol, page: time.sleep(0.02)
fetch.fetch(FakeSource({"BTCUSDT": market_bars(2001)}, slow), fetch.Store(Path(sys.argv[1])), ["BTCUSDT"], HOUR)
"""


def test_a_killed_fetch_goes_on_where_it_stopped(store: Store) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(store.data_dir)], cwd=Path(__file__).parent)
    deadline = time.monotonic() + 20
    while not store.directory(BTC).exists() or not store.recorded(BTC).answered:
        assert time.monotonic() < deadline
        assert process.poll() is None
    process.kill()
    process.wait()
    bars = market_bars(2001)
    kept = len(store.read(BTC))
    assert 0 < kept < 2000
    source = FakeSource({"BTCUSDT": bars})
    report = btc(source, store)
    assert (report.rows, report.failed, report.gaps) == (2000, None, {})
    assert kept <= 2000 - report.added <= kept + 20
    pd.testing.assert_frame_equal(store.read(BTC), bars.iloc[:2000])
