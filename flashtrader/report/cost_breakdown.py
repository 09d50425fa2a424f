"""What trading cost, by kind, and what prices earned before it."""

import numpy as np

from flashtrader.backtest.result import BacktestResult
from flashtrader.report.formats import fixed, percent, plain
from flashtrader.report.metric_names import METRIC_NAMES, currency

_MULTIPLE_FIGURES = ("total_return", "sharpe", "max_drawdown", "total_cost", "final_equity")


def cost_totals(result: BacktestResult) -> dict[str, float]:
    """Return what each kind of cost took over the entire period, by name; kinds that took nothing are left out."""
    parts = result.cost_parts
    totals = {
        "Fees": parts.fees,
        "Spread": parts.spread,
        "Slippage": parts.slippage,
        "Impact": parts.impact,
        "Funding": result.funding,
        "Liquidation": result.liquidation_fees,
    }
    return {name: float(amounts_T.sum()) for name, amounts_T in totals.items() if amounts_T.any()}


def cost_rows(result: BacktestResult, totals: dict[str, float]) -> list[tuple[str, str]]:
    """Return the way from what prices earned to what was left, and how large the costs were."""
    net = float(result.equity[-1] - result.equity[0])
    metrics = result.metrics
    rows = [
        ("Before costs", currency(net + sum(totals.values()))),
        *((name, currency(-amount)) for name, amount in totals.items()),
        ("After costs", currency(net)),
        ("Value traded", currency(float(np.abs(result.traded).sum()))),
        ("Cost of trading", f"{currency(metrics.total_cost)}, {percent(metrics.total_cost / result.equity[0])} of the "
         "initial equity"),
        ("Per trade", currency(metrics.total_cost / metrics.num_trades) if metrics.num_trades else "n/a"),
    ]  # fmt: skip
    if result.config.funding_rate is None:
        rows.append(("Funding", "not charged"))
    if result.config.maintenance_margin:
        rows.append(("Liquidations", fixed(metrics.liquidations, 0)))
    return rows


def multiple_rows(result: BacktestResult) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return the head and the rows of the table of results at multiples of the costs."""
    names = [name for name in METRIC_NAMES if name.key in _MULTIPLE_FIGURES]
    rows = [
        (f"{plain(multiple)}×", *(name.text(getattr(metrics, name.key)) for name in names))
        for multiple, metrics in result.multiples.items()
    ]
    return ["Costs", *(name.label for name in names)], rows
