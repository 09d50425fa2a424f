import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from books import book_of, leading_book, random_book
from flashtrader.config import PanelConfig
from flashtrader.forecasting.book_scores import (
    DirectionScore,
    Trades,
    commonest_answers,
    imbalance_answers,
    persistent_answers,
    score_answers,
    trade_returns,
)
from flashtrader.panel.books import Quotes, build_book_panel, directions, mid_moves_bps, quotes
from flashtrader.panel.splits import Rows

FIVE = Quotes(bid=np.array([99.0, 101, 103, 102, 100]), ask=np.array([101.0, 103, 105, 104, 102]))
ONE_RUN = np.array([0])
UNKNOWN = np.nan


def outcomes_of(best: Quotes, horizon: int, starts: np.ndarray = ONE_RUN) -> np.ndarray:
    return directions(mid_moves_bps(best.mid, starts, horizon), threshold_bps=0.0)


def score(answers: np.ndarray, outcomes: np.ndarray, trades: Trades, horizon: int) -> DirectionScore:
    return score_answers({"model": answers}, outcomes, trades, horizon)[0]


def free_trades(gain_bps: np.ndarray) -> Trades:
    """Of a market without a spread in which a purchase earns so much."""
    return Trades(gain_bps, -gain_bps, gain_bps)


def test_persistence_repeats_the_move_that_ends_now_in_five_snapshots() -> None:
    outcomes = outcomes_of(FIVE, horizon=2)
    np.testing.assert_array_equal(outcomes, [1, 1, -1, UNKNOWN, UNKNOWN])
    np.testing.assert_array_equal(persistent_answers(outcomes, ONE_RUN, 2), [UNKNOWN, UNKNOWN, 1, 1, -1])


def test_persistence_at_a_snapshot_knows_nothing_later() -> None:
    book, horizon = random_book(200, breaks=(90,)), 7
    starts = np.array([0, 90])
    whole = persistent_answers(outcomes_of(quotes(book), horizon, starts), starts, horizon)
    for cut in (50, 100, 150):
        shortened = persistent_answers(outcomes_of(quotes(book[:cut]), horizon, starts), starts, horizon)
        np.testing.assert_array_equal(shortened, whole[:cut])
    assert np.isnan(whole[90:97]).all()
    assert np.isfinite(whole[97:]).all()


def test_a_trade_enters_a_snapshot_late_and_pays_both_halves_of_the_spread_in_five_snapshots() -> None:
    trades = trade_returns(FIVE, ONE_RUN, horizon=2)
    known, late = slice(0, 2), slice(2, 5)
    np.testing.assert_allclose(trades.long_bps[known], 1e4 * np.array([102 / 103 - 1, 100 / 105 - 1]))
    np.testing.assert_allclose(trades.short_bps[known], 1e4 * np.array([1 - 104 / 101, 1 - 102 / 103]))
    np.testing.assert_allclose(trades.mid_bps[known], 1e4 * np.array([103 / 102 - 1, 101 / 104 - 1]))
    assert np.isnan(np.stack([trades.long_bps[late], trades.short_bps[late], trades.mid_bps[late]])).all()

    pnl = score(np.array([1.0, -1, 0, 0, 0]), np.zeros(5), trades, horizon=2).pnl
    assert pnl.signals == 2
    assert pnl.mean_bps == pytest.approx(1e4 * ((102 / 103 - 1) + (1 - 102 / 103)) / 2)
    assert pnl.mid_mean_bps == pytest.approx(1e4 * ((103 / 102 - 1) - (101 / 104 - 1)) / 2)


def test_no_trade_spans_a_gap() -> None:
    trades = trade_returns(FIVE, np.array([0, 2]), horizon=1)
    np.testing.assert_array_equal(np.isfinite(trades.long_bps), [False, False, True, False, False])


def test_a_signal_at_random_loses_the_spread() -> None:
    book = random_book(5_000)
    answers = np.random.default_rng(3).choice([-1.0, 0, 1], size=5_000)
    pnl = score(answers, np.zeros(5_000), trade_returns(quotes(book), ONE_RUN, 5), 5).pnl
    spread_bps = 1e4 * 2 / 10_000
    assert abs(pnl.mid_mean_bps) < 3 * pnl.mid_error_bps
    assert pnl.mean_bps == pytest.approx(pnl.mid_mean_bps - spread_bps, rel=0.02)


def test_class_scores_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    outcomes, answers = generator.choice([-1.0, 0, 1], size=(2, 400), p=[0.2, 0.5, 0.3])
    found = score(answers, outcomes, free_trades(np.zeros(400)), 3)
    labels = [-1, 0, 1]
    expected = precision_recall_fscore_support(outcomes, answers, labels=labels)
    by_class = [(part.precision, part.recall, part.f1, part.support) for part in found.classes]
    np.testing.assert_allclose(np.transpose(by_class), expected)
    np.testing.assert_array_equal(found.confusion, confusion_matrix(outcomes, answers, labels=labels))
    assert found.accuracy == accuracy_score(outcomes, answers)
    assert found.macro_f1 == pytest.approx(expected[2].mean())
    assert found.snapshots == 400


def test_every_source_is_scored_on_the_snapshots_that_all_answer() -> None:
    outcomes = np.array([1.0, 1, 0, -1, UNKNOWN])
    answers = {"a": np.array([1.0, UNKNOWN, 0, -1, 1]), "b": np.array([1.0, 1, 1, 1, 1])}
    a, b = score_answers(answers, outcomes, free_trades(np.array([5.0, 7, 9, UNKNOWN, 11])), 1)
    assert (a.name, a.snapshots, a.accuracy) == ("a", 3, 1.0)
    assert (b.name, b.snapshots, b.accuracy) == ("b", 3, pytest.approx(1 / 3))
    assert (a.pnl.signals, a.pnl.mean_bps) == (1, 5.0), "a sale whose end is unknown does not count, nor a flat answer"
    assert (b.pnl.signals, b.pnl.mean_bps) == (2, 7.0)


def test_nothing_known_is_scored_as_nothing() -> None:
    nothing = score(np.full(4, UNKNOWN), np.zeros(4), free_trades(np.zeros(4)), 2)
    assert nothing.snapshots == nothing.pnl.signals == 0
    assert np.isnan([nothing.accuracy, nothing.macro_f1, nothing.pnl.mean_bps]).all()


def test_errors_of_independent_signals_are_the_textbooks_and_of_overlapping_ones_larger() -> None:
    generator = np.random.default_rng(1)
    gain_bps = generator.normal(size=4_000)
    signals = generator.choice([0.0, 1.0], size=4_000)
    alone = score(signals, np.zeros(4_000), free_trades(gain_bps), 1).pnl
    assert alone.error_bps == pytest.approx(gain_bps[signals > 0].std() / np.sqrt(alone.signals), rel=0.1)

    held = 10
    repeated = np.repeat(gain_bps[::held], held)
    together = score(np.ones(4_000), np.zeros(4_000), free_trades(repeated), held).pnl
    independent = np.sqrt(len(repeated) / held)
    assert together.error_bps == pytest.approx(repeated.std() / independent, rel=0.2)


def test_the_commonest_direction_is_that_of_the_training_rows() -> None:
    outcomes = np.array([1.0, 1, 0, UNKNOWN, -1, -1, -1])
    np.testing.assert_array_equal(commonest_answers(outcomes, Rows(0, 4)), np.ones(7))


def test_imbalance_finds_a_rule_in_the_training_rows_and_reads_nothing_after_them_or_later() -> None:
    book, horizon, train = leading_book(1_200), 2, Rows(0, 800)
    outcomes = outcomes_of(quotes(book), horizon)
    answers = imbalance_answers(book, outcomes, ONE_RUN, train)
    assert np.isnan(answers[:10]).all(), "the longest lag is not there yet"
    known = np.isfinite(outcomes[800:])
    assert (answers[800:] == outcomes[800:])[known].mean() > 0.85

    altered = outcomes.copy()
    altered[800:] = 0
    np.testing.assert_array_equal(imbalance_answers(book, altered, ONE_RUN, train), answers)
    np.testing.assert_array_equal(imbalance_answers(book[:1_000], outcomes[:1_000], ONE_RUN, train), answers[:1_000])


def test_a_training_part_in_which_nothing_moves_teaches_one_answer() -> None:
    book = book_of(np.full(60, 1_000), np.random.default_rng(0).lognormal(size=(60, 2, 1)))
    panel = build_book_panel({"A": book}, PanelConfig.model_validate({"target": {"kind": "direction"}}))
    answers = imbalance_answers(book, panel.targets[:, 0].astype(np.float64), panel.run_starts, Rows(0, 10))
    assert np.isnan(answers).all(), "all ten rows lack a lag"
    answers = imbalance_answers(book, np.zeros(60), panel.run_starts, Rows(0, 40))
    np.testing.assert_array_equal(answers[10:], np.zeros(50))
