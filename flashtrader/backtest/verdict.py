"""What a backtest comes to, in plain words.

The rules, of which the first that applies decides:

1. It never traded, or was ruined, or has fewer than 30 returns: nothing is claimed.
2. Against cash: the 95 % interval of the Sharpe ratio lies below zero (it loses), covers zero (like cash), or above.
3. Against buy and hold: the paired interval of the difference lies below zero, covers it, or above.
4. Above both, it is too short where it has fewer bars than the minimum track record, and explained by its trials where
   the deflated Sharpe ratio is below 0.95, or the probability of overfitting is a half or more.
5. Otherwise it is better than buy and hold, the only finding that claims skill.
"""

import math
from enum import StrEnum

from flashtrader.backtest.estimates import Interval95, Significance
from flashtrader.backtest.result import BacktestResult

MIN_RETURNS = 30
_CONFIDENCE = 0.95
_IMPLAUSIBLE_SHARPE = 4.0
_ROUNDING = 1e-9  # of an annual Sharpe ratio: closer to zero than that is what arithmetic leaves of equal curves


class Finding(StrEnum):
    """What the verdict comes to."""

    NEVER_TRADED = "never_traded"
    RUINED = "ruined"
    TOO_SHORT = "too_short"
    LOSES = "loses"
    LIKE_CASH = "like_cash"
    WORSE_THAN_BUY_AND_HOLD = "worse_than_buy_and_hold"
    LIKE_BUY_AND_HOLD = "like_buy_and_hold"
    EXPLAINED_BY_TRIALS = "explained_by_trials"
    BEATS_BUY_AND_HOLD = "beats_buy_and_hold"


def find(result: BacktestResult, significance: Significance) -> Finding:
    """Return the finding of a backtest by the rules above."""
    if result.metrics.num_trades == 0:
        return Finding.NEVER_TRADED
    if result.ruined_at is not None:
        return Finding.RUINED
    if significance.sharpe.bars < MIN_RETURNS or math.isnan(significance.sharpe.annual):
        return Finding.TOO_SHORT
    to_cash, to_held = side(significance.sharpe.interval), side(significance.against["buy_and_hold"].interval)
    if to_cash <= 0:
        return Finding.LOSES if to_cash < 0 else Finding.LIKE_CASH
    if to_held <= 0:
        return Finding.WORSE_THAN_BUY_AND_HOLD if to_held < 0 else Finding.LIKE_BUY_AND_HOLD
    if significance.sharpe.bars < significance.minimum_track_record_bars:
        return Finding.TOO_SHORT
    if significance.deflated_sharpe < _CONFIDENCE or _overfitted(significance):
        return Finding.EXPLAINED_BY_TRIALS
    return Finding.BEATS_BUY_AND_HOLD


def tell(finding: Finding, result: BacktestResult, significance: Significance) -> str:
    """Return the verdict: a sentence of what was found and, where there is more to say, one of why."""
    sharpe = significance.sharpe
    ratio = f"Sharpe {_number(sharpe.annual)}, 95 % interval {_range(sharpe.interval)}"
    if finding is Finding.NEVER_TRADED:
        return "Never traded: there is nothing to judge."
    if finding is Finding.RUINED:
        return f"Ruined: equity fell to zero in the bar of {result.time[-1]:%Y-%m-%d %H:%M} UTC.{_costs(significance)}"
    if finding is Finding.TOO_SHORT:
        return f"Too short to judge: {_shortness(significance)}."
    held = significance.against["buy_and_hold"]
    beside = f"difference to buy and hold {_number(held.difference, signed=True)}, {_range(held.interval)}"
    match finding:
        case Finding.LOSES:
            return f"Loses money: {ratio}.{_costs(significance)}"
        case Finding.LIKE_CASH:
            words = {-1: "cash, and worse than buy and hold", 0: "cash or buy and hold", 1: "cash"}[side(held.interval)]
            return f"Not distinguishable from {words}: {ratio}.{_costs(significance) or _patience(significance)}"
        case Finding.LIKE_BUY_AND_HOLD:
            return f"Not distinguishable from buy and hold: {ratio}; {beside}.{_chance(significance)}"
        case Finding.WORSE_THAN_BUY_AND_HOLD:
            return f"Better than cash, but worse than buy and hold: {ratio}; {beside}.{_chance(significance)}"
        case Finding.EXPLAINED_BY_TRIALS:
            return f"Explained by having tried {significance.trials} variants: {ratio}, but {_luck(significance)}."
    return f"Better than buy and hold: {ratio}; {beside}.{_suspicion(significance)}"


def _costs(significance: Significance) -> str:
    """Return a sentence on costs, where they are what makes the mean return a loss."""
    if not 0 < significance.break_even_cost_bps < significance.cost_bps:
        return ""
    return (
        f" Costs take more than it earned before them: {significance.cost_bps:.3g} bp of traded value, "
        f"where {significance.break_even_cost_bps:.3g} bp would break even."
    )


def _patience(significance: Significance) -> str:
    """Return a sentence on how long it takes to tell, where more bars are needed than there are."""
    bars, needed = significance.sharpe.bars, significance.minimum_track_record_bars
    if not bars < needed:
        return ""
    years = significance.minimum_track_record_years
    ratio = _number(significance.sharpe.annual)
    return f" A ratio of {ratio} takes {_span(years)} to tell from cash; this is {_span(years * bars / needed)}."


def _shortness(significance: Significance) -> str:
    sharpe, needed = significance.sharpe, significance.minimum_track_record_bars
    if sharpe.bars < MIN_RETURNS:
        return f"{sharpe.bars} returns of at least {MIN_RETURNS}"
    if math.isnan(sharpe.annual):
        return "no two returns differ"
    return (
        f"{sharpe.bars:,} returns, so uneven that Sharpe {_number(sharpe.annual)} takes {math.ceil(needed):,} to show"
    )


def _chance(significance: Significance) -> str:
    """Return a sentence on what trying so many variants explains, or on a ratio too high to be true."""
    if significance.trials > 1 and significance.deflated_sharpe < _CONFIDENCE:
        return f" Having tried {significance.trials} variants explains what it earned: {_luck(significance)}."
    return _suspicion(significance)


def _luck(significance: Significance) -> str:
    if significance.deflated_sharpe < _CONFIDENCE:
        return f"the deflated Sharpe ratio is {significance.deflated_sharpe:.2f}, less than {_CONFIDENCE}"
    return f"the best of them is overfitted with probability {significance.overfitting_probability:.2f}"


def _suspicion(significance: Significance) -> str:
    """Return a warning, where a ratio is higher than a liquid market lets anyone earn."""
    if significance.sharpe.interval[0] < _IMPLAUSIBLE_SHARPE:
        return ""
    return " So high a ratio is likelier a leak or a simulated market than an edge: try `flashtrader verify`."


def _overfitted(significance: Significance) -> bool:
    return significance.overfitting_probability is not None and significance.overfitting_probability >= 0.5


def side(interval: Interval95) -> int:
    """Return 1 where an interval lies above zero, -1 where below, and 0 where it covers zero, or all but touches it."""
    low, high = interval
    return int(low > _ROUNDING) - int(high < -_ROUNDING)


def _number(value: float, *, signed: bool = False) -> str:
    return f"{value:{'+' if signed else ''},.2f}".replace("-", "\N{MINUS SIGN}")


def _range(interval: Interval95) -> str:
    return f"{_number(interval[0])} to {_number(interval[1])}"


def _span(years: float) -> str:
    if years >= 1:
        return f"{years:,.1f} years"
    return f"{years * 365:.0f} days" if years * 365 >= 2 else f"{years * 8_760:.1f} hours"
