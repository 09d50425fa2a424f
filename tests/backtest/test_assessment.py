import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from flashtrader.backtest.assessment import assess
from flashtrader.backtest.estimates import MIN_TRIALS
from flashtrader.backtest.metrics import simple_returns
from flashtrader.backtest.outputs import write_backtest
from flashtrader.backtest.trials import Trial
from flashtrader.backtest.verdict import Finding
from results import made_result


def trials_of(*results) -> list[Trial]:
    return [Trial(result.timestamps[:-1], simple_returns(result.equity)) for result in results]


def test_noise_is_not_distinguishable_from_cash() -> None:
    found = assess(made_result(num_bars=2_000))
    assert found.finding is Finding.LIKE_CASH
    assert found.significance.trials == 1
    assert found.significance.deflated_sharpe == found.significance.probabilistic_sharpe
    assert found.forecast is None


def test_weights_that_know_the_next_bar_are_found_skilful_and_doubted() -> None:
    found = assess(made_result(num_bars=2_000, edge=0.5))
    assert found.finding is Finding.BEATS_BUY_AND_HOLD
    assert "flashtrader verify" in found.verdict


def test_costs_that_eat_an_edge_are_told() -> None:
    free = made_result(num_bars=2_000, edge=0.5)
    found = assess(made_result(num_bars=2_000, edge=0.5, fee_bps=90.0))
    assert found.finding is Finding.LOSES
    assert found.significance.cost_bps == pytest.approx(90)
    assert 0 < found.significance.break_even_cost_bps < 90
    assert "Costs take more than it earned" in found.verdict
    at_break_even = made_result(num_bars=2_000, edge=0.5, fee_bps=found.significance.break_even_cost_bps)
    # Trades depend a little on what was paid for those before.
    assert abs(at_break_even.metrics.sharpe) < 0.01 * free.metrics.sharpe


def test_the_market_itself_beats_cash_and_not_itself() -> None:
    """Weights that hardly change are buy and hold: the difference is paired, and its interval narrow."""
    result = made_result(num_bars=4_000, drift=0.002)
    held = replace(result, equity=result.references["buy_and_hold"].equity, metrics=result.metrics)
    found = assess(held)
    assert found.finding is Finding.LIKE_BUY_AND_HOLD
    against = found.significance.against["buy_and_hold"]
    assert against.difference == pytest.approx(0)
    assert against.interval == pytest.approx((0, 0))
    assert found.significance.against["cash"].interval == found.significance.sharpe.interval


def test_the_best_of_many_noises_is_explained_by_them() -> None:
    results = [made_result(seed, num_bars=600) for seed in range(40)]
    best = max(results, key=lambda result: result.metrics.sharpe)
    alone, among = assess(best), assess(best, trials_of(*results))
    assert alone.significance.deflated_sharpe > 0.95
    assert among.significance.trials == 40
    assert among.significance.deflated_sharpe < 0.8
    assert among.significance.overfitting_probability is not None
    assert among.finding is not Finding.BEATS_BUY_AND_HOLD


def test_overfitting_is_not_guessed_from_few_trials_or_bars() -> None:
    results = [made_result(seed) for seed in range(MIN_TRIALS)]
    few = assess(results[0], trials_of(*results[1:])).significance
    assert few.overfitting_probability is None
    assert few.overfitting_note == "3 of at least 4 trials"
    enough = assess(results[0], trials_of(*results)).significance
    assert enough.overfitting_note is None
    assert 0 <= enough.overfitting_probability <= 1
    later = made_result(9, start=pd.Timestamp("2024-01-09", tz="UTC"))
    apart = assess(results[0], trials_of(*results, later)).significance
    assert apart.overfitting_probability is None
    assert apart.overfitting_note == "the 5 trials share 6 bars of at least 32"


def test_an_idle_backtest_has_no_figures() -> None:
    found = assess(made_result(max_gross=1e-9, no_trade_band=0.5))
    assert found.finding is Finding.NEVER_TRADED
    assert math.isnan(found.significance.sharpe.annual)
    assert math.isnan(found.significance.break_even_cost_bps)
    assert found.significance.equity_band is None


def test_a_single_bar_is_too_short() -> None:
    assert assess(made_result(num_bars=2)).finding in (Finding.TOO_SHORT, Finding.NEVER_TRADED)
    assert assess(made_result(num_bars=20)).finding is Finding.TOO_SHORT


def test_the_same_seed_gives_the_same_assessment() -> None:
    result = made_result()
    assert assess(result) == assess(result)
    assert assess(result, seed=1).significance.sharpe.interval != assess(result).significance.sharpe.interval


def test_the_band_begins_at_the_initial_equity_and_widens_around_what_came() -> None:
    result = made_result(num_bars=1_000)
    band = assess(result).significance.equity_band
    assert band is not None
    assert band.time[0] == result.time[0].isoformat()
    assert band.time[-1] == result.time[-1].isoformat()
    assert band.low[0] == band.high[0] == result.equity[0]
    assert band.low[-1] < result.equity[-1] < band.high[-1]
    width = np.subtract(band.high, band.low)
    assert width[50] < width[150]


def test_what_is_written_is_what_was_assessed(tmp_path) -> None:
    result = made_result(num_bars=300)
    table = pd.DataFrame({"A": np.random.default_rng(0).normal(size=300)}, index=result.weights.index)
    found = assess(result, forecasts=table, outcomes=table**3, horizon_bars=4)
    write_backtest(result, tmp_path, {}, found)
    written = json.loads((tmp_path / "backtest.json").read_text())
    assert written["verdict"] == found.verdict
    assert written["finding"] == found.finding
    significance = written["significance"]
    assert significance["sharpe"]["interval"] == list(found.significance.sharpe.interval)
    assert significance["sharpe"]["annual"] == pytest.approx(written["metrics"]["sharpe"])
    assert set(significance["against"]) == {"buy_and_hold", "cash"}
    assert set(significance["against"]["cash"]) == {"difference", "interval"}
    assert {
        *("probabilistic_sharpe", "deflated_sharpe", "trials", "minimum_track_record_bars", "break_even_cost_bps"),
        *("minimum_track_record_years", "overfitting_probability", "overfitting_note", "mean_return", "equity_band"),
    } < set(significance)
    assert written["forecast"]["ic"]["value"] == pytest.approx(found.forecast.ic.value)
    assert {"rank_ic", "cross_section_ic", "strides", "diebold_mariano", "markets", "months"} < set(written["forecast"])
