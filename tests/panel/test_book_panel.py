import numpy as np
import pandas as pd
import pytest

from books import STEP_MS, book_of, random_book
from flashtrader.config import DirectionTarget, PanelConfig
from flashtrader.errors import DataError
from flashtrader.market.books import book_columns
from flashtrader.market.spans import iso_time
from flashtrader.panel.books import (
    FEATURES,
    book_run_starts,
    build_book_panel,
    directions,
    level_names,
    mid_moves_bps,
    quotes,
    shifted,
)
from flashtrader.panel.panel import Panel
from flashtrader.panel.scaling import fit_scaler
from flashtrader.panel.splits import Rows

NUM_ROWS = 300
BREAKS = (80, 81, 200)


def panel_of(book: pd.DataFrame, **settings: object) -> Panel:
    target = DirectionTarget(kind="direction", horizon_bars=4, threshold_bps=0.5)
    return build_book_panel({"BTCUSDT": book}, PanelConfig.model_validate({"target": target, **settings}))


def test_a_row_is_a_snapshot_known_at_its_own_time() -> None:
    book = random_book(NUM_ROWS)
    panel = panel_of(book)
    np.testing.assert_array_equal(panel.known_ms, book["timestamp"])
    assert panel.symbols == panel.target_names == ("BTCUSDT",)
    assert panel.entity_names == level_names(3) == ("bid 3", "bid 2", "bid 1", "ask 1", "ask 2", "ask 3")
    assert panel.values.shape == (NUM_ROWS, 6, len(FEATURES))


def test_features_by_hand() -> None:
    book = book_of(np.array([1_000, 1_010]), np.array([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]))
    panel = panel_of(book)
    assert not panel.mask[0].any(), "nobody knows how the mid came to the first snapshot"
    assert panel.mask[1].all()
    offset_bps, log_size, mid_change_bps = panel.values[1].T
    np.testing.assert_allclose(offset_bps, np.array([-2, -1, 1, 2]) * 1e4 / 1_010, rtol=1e-6)
    np.testing.assert_allclose(log_size, np.log([6, 5, 7, 8]), rtol=1e-6)
    np.testing.assert_allclose(mid_change_bps, 1e4 * (1 - 1_000 / 1_010), rtol=1e-6)


def test_the_unit_of_sizes_and_of_prices_means_nothing_once_scaled() -> None:
    book = random_book(NUM_ROWS)
    other = book.copy()
    other[[name for name in book_columns(3) if "size" in name]] *= 1_000
    other[[name for name in book_columns(3) if "price" in name]] /= 7
    scaled = []
    for panel in map(panel_of, (book, other)):
        scaler = fit_scaler(panel, Rows(0, NUM_ROWS))
        scaled.append((panel.values[1:] - scaler.feature_mean) / scaler.feature_std)
    np.testing.assert_allclose(*scaled, atol=2e-3)


def test_what_comes_later_changes_no_bit_of_a_feature() -> None:
    book, cut = random_book(NUM_ROWS, breaks=BREAKS), 150
    other = pd.concat([book[:cut], random_book(NUM_ROWS, seed=5)[cut:]], ignore_index=True)
    whole, shortened, changed = (panel_of(table) for table in (book, book[:cut], other))
    for panel in (shortened, changed):
        np.testing.assert_array_equal(panel.values[:cut], whole.values[:cut])
        np.testing.assert_array_equal(panel.mask[:cut], whole.mask[:cut])
        known = slice(0, cut - 4)
        np.testing.assert_array_equal(panel.targets[known], whole.targets[known])
    assert not np.array_equal(changed.values[cut:], whole.values[cut:])


def test_runs_begin_at_marks_and_after_a_long_silence() -> None:
    book = random_book(NUM_ROWS, breaks=BREAKS)
    np.testing.assert_array_equal(book_run_starts(book, max_gap_ms=STEP_MS), [0, *BREAKS])
    book.loc[250:, "timestamp"] += 1_000
    np.testing.assert_array_equal(panel_of(book, max_gap_ms=1_099).run_starts, [0, *BREAKS, 250])
    np.testing.assert_array_equal(panel_of(book, max_gap_ms=1_100).run_starts, [0, *BREAKS])


def test_neither_features_nor_targets_span_a_gap() -> None:
    panel = panel_of(random_book(NUM_ROWS, breaks=BREAKS))
    first = np.isin(np.arange(NUM_ROWS), panel.run_starts)
    np.testing.assert_array_equal(panel.mask.all(axis=1), ~first)
    np.testing.assert_array_equal(panel.mask.any(axis=1), ~first)
    ends = [*BREAKS, NUM_ROWS]
    last = np.isin(np.arange(NUM_ROWS), [row for end in ends for row in range(end - 4, end)])
    np.testing.assert_array_equal(np.isnan(panel.targets[:, 0]), last)
    assert set(np.unique(panel.targets[~last])) == {-1, 0, 1}


def test_a_direction_is_the_side_on_which_a_move_leaves_the_threshold() -> None:
    moves = np.array([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, np.nan])
    np.testing.assert_array_equal(directions(moves, 1.0), [-1, 0, 0, 0, 0, 0, 1, np.nan])
    np.testing.assert_array_equal(directions(moves, 0.0), [-1, -1, -1, 0, 1, 1, 1, np.nan])


def test_targets_are_the_moves_of_the_stored_quotes() -> None:
    book = random_book(NUM_ROWS, breaks=BREAKS)
    panel = panel_of(book)
    moves = mid_moves_bps(quotes(book).mid, panel.run_starts, horizon=4)
    np.testing.assert_array_equal(panel.targets[:, 0], directions(moves, 0.5))
    row = 90
    best = book.loc[[row, row + 4], ["ask_price_1", "bid_price_1"]].mean(axis=1).to_numpy()
    assert moves[row] == pytest.approx(1e4 * (best[1] / best[0] - 1))


def test_values_shift_within_their_run() -> None:
    values = np.arange(6.0)
    np.testing.assert_array_equal(shifted(values, np.array([0, 3]), 1), [1, 2, np.nan, 4, 5, np.nan])
    np.testing.assert_array_equal(shifted(values, np.array([0, 3]), -2), [np.nan, np.nan, 0, np.nan, np.nan, 3])
    assert np.isnan(shifted(values, np.array([0, 3]), 6)).all()


def test_a_level_that_is_not_there_is_masked_and_one_that_never_is_refused() -> None:
    book = random_book(NUM_ROWS)
    gone = slice(100, 110)
    book.loc[gone, ["bid_price_3", "bid_size_3"]] = np.nan, 0.0
    panel = panel_of(book)
    assert not panel.mask[100:111, 0].any()
    assert not panel.values[100:111, 0].any()
    assert panel.mask[100:111, 1:].all()
    assert panel.forecastable[1:].all()
    book.loc[:, ["ask_price_3", "ask_size_3"]] = np.nan, 0.0
    with pytest.raises(DataError) as refused:
        panel_of(book)
    assert str(refused.value) == (
        "BTCUSDT: ask 3 is in none of the 300 snapshots that follow another; lower data.levels, raise "
        "panel.max_gap_ms, or fetch more"
    )


def test_a_level_that_the_training_part_lacks_is_named() -> None:
    book = random_book(NUM_ROWS)
    book.loc[:200, ["bid_price_3", "bid_size_3"]] = np.nan, 0.0
    panel = panel_of(book)
    first, last = (iso_time(int(panel.timestamps[row])) for row in (0, 149))
    with pytest.raises(DataError) as refused:
        fit_scaler(panel, Rows(0, 150))
    assert str(refused.value) == (
        f"bid 3: no bar with every feature in the training part ({first} to {last}); fetch older bars, move "
        "split.validation, or leave it out"
    )


def test_a_period_without_snapshots_is_refused() -> None:
    with pytest.raises(DataError) as refused:
        panel_of(random_book(3)[:0])
    assert str(refused.value) == (
        "BTCUSDT: no snapshots in the period asked for; fetch them, or change data.start and data.end"
    )
