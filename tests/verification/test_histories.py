"""The histories under attack: the same where they must be, very different where they may, and valid everywhere."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from subjects import BARS, markets

from books import random_book
from flashtrader.config import Experiment, load_config
from flashtrader.interval import Interval
from flashtrader.market.bars import PRICES, validate_bars
from flashtrader.market.books import validate_books
from flashtrader.market.funding_store import FundingStore
from flashtrader.market.spans import Span
from flashtrader.verification.histories import (
    clock_of,
    cut_rows,
    damaged,
    store_funding,
    store_tables,
    stored_tables,
    with_other_future,
    with_other_past,
)

HOUR = Interval("60")
EIGHT_HOURS_MS = 8 * 3_600_000
CUTS = (0, 1, 29, 30, 350, 698, 699)


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(BARS))
    return load_config(path)


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("cut", CUTS)
def test_another_future_leaves_the_past_and_replaces_all_later(cut: int) -> None:
    bars = {symbol: table.assign(turnover=1.0) for symbol, table in markets().items()}
    cut_ms = int(clock_of(bars)[cut])
    for symbol, other in with_other_future(bars, cut_ms, generator()).items():
        before = bars[symbol]
        past = before["timestamp"] <= cut_ms
        pd.testing.assert_frame_equal(other[other["timestamp"] <= cut_ms], before[past])
        validate_bars(other, HOUR, symbol)
        both = before[~past].merge(other, on="timestamp")
        assert all((both[f"{name}_x"] != both[f"{name}_y"]).all() for name in (*PRICES, "volume", "turnover"))
        assert len(both) <= (~past).sum()


def test_another_future_has_other_holes_in_each_market_unless_told_not_to() -> None:
    bars = markets()
    kept = with_other_future(bars, 0, generator())
    missing = [set(bars[symbol]["timestamp"]) - set(table["timestamp"]) for symbol, table in kept.items()]
    assert all(3 < len(times) < 25 for times in missing)
    assert missing[0] != missing[1]
    whole = with_other_future(bars, 0, generator(), holes=False)
    assert all(len(whole[symbol]) == len(table) for symbol, table in bars.items())


@pytest.mark.parametrize("seed", range(20))
def test_a_bar_follows_the_cut_however_many_are_missing(seed: int) -> None:
    """Without one, the decision before would be the history's last, and its order not placed."""
    bars = {"AAA": markets()["AAA"]}
    other = with_other_future(bars, int(clock_of(bars)[-2]), np.random.default_rng(seed))
    assert clock_of(other)[-1] == clock_of(bars)[-1]


def test_another_future_of_a_book_is_a_valid_book() -> None:
    book = {"BTCUSDT": random_book(400, levels=3, breaks=(100,))}
    cut_ms = int(clock_of(book)[200])
    other = with_other_future(book, cut_ms, generator())["BTCUSDT"]
    validate_books(other, "book")
    pd.testing.assert_frame_equal(other.iloc[:201], book["BTCUSDT"].iloc[:201])
    both = book["BTCUSDT"].merge(other, on="timestamp").iloc[201:]
    assert (both["ask_price_2_x"] != both["ask_price_2_y"]).all()


@pytest.mark.parametrize("cut", CUTS)
def test_another_past_keeps_the_close_of_the_decision_and_all_later(cut: int) -> None:
    bars = markets()
    cut_ms = int(clock_of(bars)[cut])
    for symbol, other in with_other_past(bars, cut_ms, generator()).items():
        before = bars[symbol]
        validate_bars(other, HOUR, symbol)
        later = before["timestamp"] > cut_ms
        pd.testing.assert_frame_equal(other[later], before[later])
        decision = before["timestamp"] == cut_ms
        assert (other.loc[decision, "close"] == before.loc[decision, "close"]).all()
        assert (other.loc[~later, "open"] != before.loc[~later, "open"]).all()
        assert (other.loc[~later & ~decision, "close"] != before.loc[~later & ~decision, "close"]).all()


def test_a_damaged_history_has_an_outage_holes_and_a_late_listing(experiment: Experiment) -> None:
    bars = markets()
    tables = damaged(bars, experiment, generator())
    missing = np.diff(HOUR.index(clock_of(tables))) - 1
    assert (missing > experiment.panel.max_gap_bars).sum() == 1
    for symbol, table in tables.items():
        assert table["timestamp"].isin(bars[symbol]["timestamp"]).all()
        assert len(clock_of(tables)) > len(table)


def test_cuts_lie_where_mistakes_live(experiment: Experiment) -> None:
    tables = damaged(markets(), experiment, generator())
    clock = clock_of(tables)
    outage = int(np.argmax(np.diff(clock))) + 1
    boundary = 500
    rows = cut_rows(tables, experiment, [int(clock[boundary])], generator(), num_random=3)
    assert {0, len(clock) - 2, outage - 1, outage, boundary - 1, boundary, 8, outage + 8, 255, 256} <= set(rows)
    assert any(not np.isin(clock[row], table["timestamp"]) for row in rows for table in tables.values())
    assert max(rows) < len(clock) - 1


def test_what_is_stored_is_loaded(experiment: Experiment, tmp_path: Path) -> None:
    tables = damaged(markets(), experiment, generator())
    store_tables(experiment.data, tables, tmp_path)
    for symbol, table in stored_tables(experiment.data, tmp_path).items():
        pd.testing.assert_frame_equal(table, tables[symbol])


def test_funding_is_copied_and_other_only_after_the_cut(experiment: Experiment, tmp_path: Path) -> None:
    settled = pd.DataFrame({"timestamp": np.arange(1, 20) * EIGHT_HOURS_MS, "rate": np.linspace(1e-5, 2e-4, 19)})
    span = Span(0, 20 * EIGHT_HOURS_MS)
    for symbol in experiment.data.symbols:
        FundingStore(tmp_path / "own").append("file", symbol, settled, span)
    cut_ms = 10 * EIGHT_HOURS_MS
    store_funding(experiment.data, tmp_path / "own", tmp_path / "same", None)
    store_funding(experiment.data, tmp_path / "own", tmp_path / "other", cut_ms)
    for symbol in experiment.data.symbols:
        same, other = (FundingStore(tmp_path / name).read("file", symbol) for name in ("same", "other"))
        assert same.answered == other.answered == (span,)
        pd.testing.assert_frame_equal(same.settlements, settled)
        changed = other.settlements["rate"] != settled["rate"]
        assert (changed == (settled["timestamp"] > cut_ms)).all()
