from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flashtrader.interval import DAY_MS, Interval
from flashtrader.market.bars import Bars, validate_bars
from flashtrader.market.gaps import Failure, Gap, find_gaps
from flashtrader.market.profile import Profile
from flashtrader.market.spans import Span

ALWAYS = [Span(0, 2**60)]
MINUTE = Interval("1")
HOUR = Interval("60")
MONDAY_MS = 4 * DAY_MS


def market(trades: np.ndarray, interval: Interval = MINUTE) -> Bars:
    """Return a market's bars from its number of trades in each slot; a slot without any has no bar."""
    number = interval.index(np.array([MONDAY_MS])) + np.flatnonzero(trades)
    spread = np.where(trades[trades > 0] > 1, 0.5, 0.0)
    return pd.DataFrame(
        {
            "timestamp": interval.opening(number),
            "open": 100.0,
            "high": 100.0 + spread,
            "low": 100.0 - spread,
            "close": 100.0,
            "volume": trades[trades > 0].astype(float),
        }
    )


def gaps(bars: Bars, interval: Interval = MINUTE, source: str = "bybit") -> tuple[Gap, ...]:
    return find_gaps(Profile.of(bars, interval), interval, ALWAYS, [], source, {})


def thin(mean_trades: float, num_slots: int = 20_000) -> np.ndarray:
    return np.random.default_rng(7).poisson(mean_trades, num_slots)


@pytest.mark.parametrize("mean_trades", [0.3, 1.0, 3.0, 5.0])
def test_a_thin_market_has_no_trades_and_no_outages(mean_trades: float) -> None:
    found = gaps(market(thin(mean_trades)))
    assert len(found) > 20
    assert Counter(gap.reason for gap in found)["no_trades"] >= 0.99 * len(found)


@pytest.mark.parametrize(("mean_trades", "num_bars"), [(0.3, 120), (3.0, 12), (1_000.0, 1)])
def test_a_hole_too_long_for_its_market_is_an_outage(mean_trades: float, num_bars: int) -> None:
    trades = thin(mean_trades)
    trades[10_000 : 10_000 + num_bars] = 0
    longest = max(gaps(market(trades)), key=lambda gap: gap.bars)
    assert longest.bars >= num_bars
    assert longest.reason == "outage"
    assert "bybit answered" in longest.evidence


def test_gaps_are_exactly_the_missing_bars() -> None:
    bars = market(thin(1.0, 2_000))
    timestamps = set(bars["timestamp"])
    missing = {time for gap in gaps(bars) for time in range(gap.start_ms, gap.end_ms, 60_000)}
    assert not missing & timestamps
    assert missing | timestamps == set(range(min(timestamps), max(timestamps) + 1, 60_000))
    assert sum(gap.bars for gap in gaps(bars)) == len(missing)


def test_a_market_with_bars_of_zero_volume_has_no_thin_holes() -> None:
    bars = market(thin(1.0))
    bars.loc[::50, "volume"] = 0.0
    assert {(gap.reason, gap.evidence) for gap in gaps(bars)} == {
        ("outage", "bybit answered: where nothing is traded, bars of zero volume are written")
    }


def test_equal_holes_at_equal_distances_are_pages_that_a_download_lost() -> None:
    bars = market(np.where(np.arange(20_000) % 1_000 < 900, 50, 0))
    assert {(gap.bars, gap.reason, gap.evidence) for gap in gaps(bars, source="file")} == {
        (
            100,
            "fetch_failed",
            "inferred from the bars of files (one joined from shorter bars is left out if any of them is missing): "
            "equal holes at equal distances, as a download that loses pages leaves them",
        )
    }


def test_a_hole_is_cut_where_the_answers_end() -> None:
    trades = np.full(300, 50)
    trades[100:200] = 0
    bars = market(trades)
    start = MONDAY_MS + 100 * 60_000
    answered = [Span(0, start + 30 * 60_000), Span(start + 80 * 60_000, 2**60)]
    failed = [Failure(Span(start + 40 * 60_000, start + 50 * 60_000), "host: timed out")]
    found = find_gaps(Profile.of(bars, MINUTE), MINUTE, answered, failed, "bybit", {})
    assert [(gap.bars, gap.reason) for gap in found] == [(30, "outage"), (50, "fetch_failed"), (20, "outage")]
    assert found[1].evidence == "host: timed out"
    _, unasked, _ = find_gaps(Profile.of(bars, MINUTE), MINUTE, answered, [], "bybit", {})
    assert unasked.evidence == "not asked for yet, or the fetch was stopped"


def test_an_outage_of_another_symbol_overrules_chance() -> None:
    bars = market(thin(3.0))
    first = next(gap for gap in gaps(bars) if gap.reason == "no_trades")
    around = Span(first.start_ms - 60_000, first.end_ms + 60_000)
    found = {
        gap.start_ms: gap
        for gap in find_gaps(Profile.of(bars, MINUTE), MINUTE, ALWAYS, [], "bybit", {"ETHUSDT": [around]})
    }
    assert found[first.start_ms].reason == "outage"
    assert found[first.start_ms].evidence == "bybit answered: ETHUSDT has an outage over the same bars"
    assert "no_trades" in {gap.reason for gap in found.values()}


def test_trading_hours_are_not_outages() -> None:
    slots = np.arange(60 * 7 * 24)
    opens = np.where(slots < len(slots) / 2, 13, 14)  # the clocks change half-way
    is_open = (slots // 24 % 7 < 5) & (slots % 24 >= opens) & (slots % 24 < opens + 7)
    holiday = slots // 24 == 30 * 7 + 2
    bars = market(np.where(is_open & ~holiday, 1_000, 0), HOUR)
    assert {(gap.reason, gap.evidence) for gap in gaps(bars, HOUR, "yahoo")} == {
        ("no_trades", "yahoo answered: outside the market's trading hours, or a holiday")
    }
    outage = (slots // 24 == 20 * 7 + 2) & (slots % 24 == 16)
    bars = market(np.where(is_open & ~outage, 1_000, 0), HOUR)
    assert Counter(gap.reason for gap in gaps(bars, HOUR, "yahoo"))["outage"] == 1


def test_no_gap_in_no_bars() -> None:
    assert gaps(market(np.zeros(5))) == ()
    assert gaps(market(np.ones(1))) == ()


def real(market_data: Path, name: str, interval: Interval) -> Counter[tuple[str, int]]:
    bars = validate_bars(pd.read_parquet(market_data / f"{name}.parquet"), interval, name)
    found = gaps(bars, interval, "file")
    assert all("inferred" in gap.evidence for gap in found)
    return Counter((gap.reason, gap.bars) for gap in found)


@pytest.mark.market_data
def test_real_outages_of_a_busy_market(market_data: Path) -> None:
    found = real(market_data, "binance-spot/BTCUSDT-60", HOUR)
    assert found.total() == 28
    assert {reason for reason, _ in found} == {"outage"}


@pytest.mark.market_data
def test_real_minutes_without_a_trade(market_data: Path) -> None:
    found = real(market_data, "bitfinex/BTCUSD-1", MINUTE)
    assert all(reason == "outage" for reason, num_bars in found if num_bars > 4)
    no_trades = sum(count for (reason, _), count in found.items() if reason == "no_trades")
    assert no_trades >= 0.95 * found.total()


@pytest.mark.market_data
def test_a_real_download_that_lost_pages(market_data: Path) -> None:
    found = real(market_data, "bybit-defects/BNBUSDT-1-gappy", MINUTE)
    assert found == {("fetch_failed", 801): 524}
