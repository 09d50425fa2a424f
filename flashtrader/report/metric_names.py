"""The figures of a backtest and of a training in words: how each is called, written and defined. No matplotlib."""

from collections.abc import Callable
from dataclasses import dataclass

from flashtrader.report.formats import UNKNOWN, fixed, percent

VERDICTS_AGE = "a verdict counts the trials known when its backtest was made; later ones are not in it"


@dataclass(frozen=True)
class MetricName:
    """One figure, in the order of the tables."""

    key: str
    """Field of `Metrics`, and key in backtest.json."""
    label: str
    text: Callable[[float], str]
    """Writes the figure; n/a where it is not defined."""
    definition: str


def currency(value: float) -> str:
    """Return an amount of money, with decimals only where it is small."""
    return fixed(value, 0 if abs(value) >= 1_000 else 2)


def _signed(value: float) -> str:
    return percent(value, signed=True)


def _ratio(value: float) -> str:
    return fixed(value, 2)


def _count(value: float) -> str:
    return fixed(value, 0)


def _bars(value: float) -> str:
    return f"{_count(value)} {'bar' if value == 1 else 'bars'}"


def _multiple(value: float) -> str:
    text = fixed(value, 1)
    return text if text == UNKNOWN else f"{text}×"


METRIC_NAMES = (
    MetricName("total_return", "Total return", _signed, "Final over initial equity, less one."),
    MetricName(
        "annual_return",
        "Annual return",
        _signed,
        "The yearly growth that compounds to the total return. A short period is stretched to a year.",
    ),
    MetricName(
        "annual_volatility",
        "Annual volatility",
        percent,
        "Standard deviation of the bars' returns times the square root of the bars in a year.",
    ),
    MetricName(
        "sharpe",
        "Sharpe ratio",
        _ratio,
        "Mean over standard deviation of the bars' returns, annualised. No interest is deducted.",
    ),
    MetricName(
        "sortino",
        "Sortino ratio",
        _ratio,
        "Mean over downside deviation of the bars' returns, annualised: only losses count as risk.",
    ),
    MetricName("calmar", "Calmar ratio", _ratio, "Annual return over the largest drawdown."),
    MetricName(
        "max_drawdown", "Largest drawdown", percent, "Largest loss from a peak of equity, as a share of the peak."
    ),
    MetricName(
        "max_drawdown_bars",
        "Longest drawdown",
        _bars,
        "Longest unbroken stretch of bars below an earlier peak; it need not be the deepest.",
    ),
    MetricName("hit_rate", "Hit rate", percent, "Share of gains among the bars whose return is not zero."),
    MetricName("profit_factor", "Profit factor", _ratio, "Sum of the bars' gains over the sum of their losses."),
    MetricName("turnover", "Turnover a year", _multiple, "Value traded in a year, in multiples of equity."),
    MetricName("exposure", "Mean exposure", percent, "Mean of long and short holdings together, as a share of equity."),
    MetricName("num_trades", "Trades", _count, "Filled orders: at most one for each market and bar."),
    MetricName("liquidations", "Liquidations", _count, "Bars in which everything held was liquidated."),
    MetricName(
        "total_cost",
        "Costs paid",
        currency,
        "Fees, spread, slippage and impact, in the account's currency; funding and liquidation fees are apart.",
    ),
    MetricName("final_equity", "Final equity", currency, "Equity at the last bar, in the account's currency."),
)

SKILL_LABELS = {"ic": "IC", "macro_f1": "macro F1", "sharpe": "Sharpe ratio"}
"""What a training calls the skill of its evaluations, in words."""

_SERIES = {"buy_and_hold": "Buy and hold", "dlinear": "DLinear"}


def series_name(key: str) -> str:
    """Return what a reference or plain model of backtest.json is called in words."""
    return _SERIES.get(key, key.capitalize())
