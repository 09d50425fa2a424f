"""Every finding by its rule, and every sentence."""

import math
from dataclasses import replace

import pytest

from flashtrader.backtest.estimates import Difference, Interval95, Significance, estimate
from flashtrader.backtest.result import BacktestResult
from flashtrader.backtest.verdict import Finding, find, side, tell
from results import made_result

RESULT = made_result()
KNOWN = estimate(RESULT)
ABOVE, ACROSS, BELOW = (0.3, 2.9), (-0.7, 2.9), (-2.9, -0.3)


def significance(
    interval: Interval95 = ABOVE, beside: Interval95 = ABOVE, *, annual: float = 1.1, **figures: object
) -> Significance:
    """A record of 1,000 bars, long enough, of one trial, that earned 12 bp of traded value before costs of 5."""
    defaults = {"deflated_sharpe": 0.99, "minimum_track_record_bars": 500.0, "minimum_track_record_years": 0.5}
    return replace(
        KNOWN,
        sharpe=replace(KNOWN.sharpe, annual=annual, interval=interval, bars=1_000),
        against={"buy_and_hold": Difference(0.4, beside)},
        **{"trials": 1, "break_even_cost_bps": 12.0, "cost_bps": 5.0} | defaults | figures,  # type: ignore[arg-type]
    )


def verdict(of: Significance, result: BacktestResult = RESULT) -> tuple[Finding, str]:
    finding = find(result, of)
    return finding, tell(finding, result, of)


def test_no_trade_is_nothing_to_judge() -> None:
    idle = replace(RESULT, metrics=replace(RESULT.metrics, num_trades=0))
    assert verdict(significance(), idle) == (Finding.NEVER_TRADED, "Never traded: there is nothing to judge.")


def test_ruin_comes_before_any_figure() -> None:
    ruined = replace(RESULT, ruined_at=int(RESULT.timestamps[-1]))
    finding, text = verdict(significance(), ruined)
    assert finding is Finding.RUINED
    assert text == f"Ruined: equity fell to zero in the bar of {RESULT.time[-1]:%Y-%m-%d %H:%M} UTC."


@pytest.mark.parametrize("annual", [1.1, math.nan])
def test_a_few_returns_are_too_short(annual: float) -> None:
    few = significance(annual=annual)
    few = replace(few, sharpe=replace(few.sharpe, bars=29))
    assert verdict(few) == (Finding.TOO_SHORT, "Too short to judge: 29 returns of at least 30.")


def test_returns_that_do_not_differ_show_nothing() -> None:
    assert verdict(significance(annual=math.nan)) == (Finding.TOO_SHORT, "Too short to judge: no two returns differ.")


def test_a_loss() -> None:
    assert verdict(significance(BELOW, annual=-1.6)) == (
        Finding.LOSES,
        "Loses money: Sharpe −1.60, 95 % interval −2.90 to −0.30.",
    )


def test_a_loss_to_costs() -> None:
    assert verdict(significance(BELOW, annual=-1.6, break_even_cost_bps=1.234)) == (
        Finding.LOSES,
        "Loses money: Sharpe −1.60, 95 % interval −2.90 to −0.30. Costs take more than it earned before them: "
        "5 bp of traded value, where 1.23 bp would break even.",
    )


@pytest.mark.parametrize(
    ("beside", "words"),
    [(ACROSS, "cash or buy and hold"), (BELOW, "cash, and worse than buy and hold"), (ABOVE, "cash")],
)
def test_an_interval_that_covers_zero(beside: Interval95, words: str) -> None:
    assert verdict(significance(ACROSS, beside)) == (
        Finding.LIKE_CASH,
        f"Not distinguishable from {words}: Sharpe 1.10, 95 % interval −0.70 to 2.90.",
    )


@pytest.mark.parametrize(
    ("years", "needed", "given"),
    [(10.0, "10.0 years", "1.0 years"), (0.5, "182 days", "18 days"), (0.01, "4 days", "8.8 hours")],
)
def test_how_long_it_takes_to_tell(years: float, needed: str, given: str) -> None:
    found = significance(ACROSS, minimum_track_record_bars=10_000.0, minimum_track_record_years=years)
    assert verdict(found)[1].endswith(f" A ratio of 1.10 takes {needed} to tell from cash; this is {given}.")


def test_better_than_cash_alone() -> None:
    assert verdict(significance(ABOVE, ACROSS)) == (
        Finding.LIKE_BUY_AND_HOLD,
        "Not distinguishable from buy and hold: Sharpe 1.10, 95 % interval 0.30 to 2.90; "
        "difference to buy and hold +0.40, −0.70 to 2.90.",
    )
    assert verdict(significance(ABOVE, BELOW)) == (
        Finding.WORSE_THAN_BUY_AND_HOLD,
        "Better than cash, but worse than buy and hold: Sharpe 1.10, 95 % interval 0.30 to 2.90; "
        "difference to buy and hold +0.40, −2.90 to −0.30.",
    )


@pytest.mark.parametrize("beside", [ACROSS, BELOW])
def test_trials_qualify_what_was_earned_beside_cash(beside: Interval95) -> None:
    text = verdict(significance(ABOVE, beside, trials=46, deflated_sharpe=0.62))[1]
    assert text.endswith(
        " Having tried 46 variants explains what it earned: the deflated Sharpe ratio is 0.62, less than 0.95."
    )


def test_the_luckiest_of_many_trials() -> None:
    assert verdict(significance(trials=46, deflated_sharpe=0.62)) == (
        Finding.EXPLAINED_BY_TRIALS,
        "Explained by having tried 46 variants: Sharpe 1.10, 95 % interval 0.30 to 2.90, "
        "but the deflated Sharpe ratio is 0.62, less than 0.95.",
    )


@pytest.mark.parametrize("probability", [0.5, 0.8])
def test_a_choice_that_does_not_last(probability: float) -> None:
    finding, text = verdict(significance(trials=8, overfitting_probability=probability))
    assert finding is Finding.EXPLAINED_BY_TRIALS
    assert text.endswith(f"but the best of them is overfitted with probability {probability:.2f}.")
    assert verdict(significance(trials=8, overfitting_probability=0.49))[0] is Finding.BEATS_BUY_AND_HOLD


def test_a_record_shorter_than_its_ratio_needs() -> None:
    assert verdict(significance(minimum_track_record_bars=1_234.5)) == (
        Finding.TOO_SHORT,
        "Too short to judge: 1,000 returns, so uneven that Sharpe 1.10 takes 1,235 to show.",
    )


def test_skill() -> None:
    assert verdict(significance()) == (
        Finding.BEATS_BUY_AND_HOLD,
        "Better than buy and hold: Sharpe 1.10, 95 % interval 0.30 to 2.90; "
        "difference to buy and hold +0.40, 0.30 to 2.90.",
    )


def test_a_ratio_too_high_to_be_true_is_doubted() -> None:
    text = verdict(significance((1_200.0, 1_300.0), (1_100.0, 1_200.0), annual=1_234.5))[1]
    assert text.startswith("Better than buy and hold: Sharpe 1,234.50, 95 % interval 1,200.00 to 1,300.00; ")
    assert text.endswith(
        " So high a ratio is likelier a leak or a simulated market than an edge: try `flashtrader verify`."
    )


@pytest.mark.parametrize("beside", [ABOVE, ACROSS, BELOW])
@pytest.mark.parametrize("interval", [ACROSS, BELOW, (0.0, 1.0), (-1.0, 0.0)])
def test_skill_is_never_claimed_where_an_interval_does_not_lie_above_zero(
    interval: Interval95, beside: Interval95
) -> None:
    for of in (significance(interval, beside), significance(beside, interval)):
        assert verdict(of)[0] is not Finding.BEATS_BUY_AND_HOLD
        assert not verdict(of)[1].startswith("Better than buy and hold")


@pytest.mark.parametrize("interval", [(1e-14, 3e-14), (-3e-14, -1e-14), (1e-14, 1.0), (-1.0, -1e-14)])
def test_what_rounding_leaves_of_no_difference_is_none(interval: Interval95) -> None:
    assert side(interval) == 0
    assert verdict(significance(ABOVE, interval))[0] is Finding.LIKE_BUY_AND_HOLD


def test_a_bound_of_zero_covers_zero() -> None:
    assert [side(interval) for interval in ((0.0, 1.0), (-1.0, 0.0), (1.0, 2.0), (-2.0, -1.0))] == [0, 0, 1, -1]
