# ruff: noqa: T201
"""Worked example 5 of 5: what the forecasts would have earned, and three ways to fool oneself about it.

python docs/examples/05_backtest.py [DIRECTORY]        after 04_prediction.py, with the same directory
"""

import math
import sys
from pathlib import Path

import numpy as np

from flashtrader.backtest.assessment import assess
from flashtrader.backtest.experiment import backtest_run
from flashtrader.backtest.metrics import Metrics
from flashtrader.backtest.outputs import write_backtest
from flashtrader.config import Experiment
from flashtrader.report.tearsheet import write_report
from flashtrader.run import find_run

place = Path(sys.argv[1] if len(sys.argv) > 1 else "examples-output")
run = find_run(place / "runs")
experiment = run.experiment


def at_cost(fee_bps: float, slippage_bps: float) -> Experiment:
    """Return the experiment at other costs."""
    costs = experiment.backtest.model_copy(update={"fee_bps": fee_bps, "slippage_bps": slippage_bps})
    return experiment.model_copy(update={"backtest": costs})


def line(name: str, metrics: Metrics) -> str:
    """Return one row of a table."""
    return (
        f"   {name:24} {metrics.total_return:+9.1%} {metrics.sharpe:8.2f} {metrics.max_drawdown:10.1%}"
        f" {metrics.turnover:10.0f} {metrics.total_cost:10,.0f}"
    )


print("1. The backtest: decided at a bar's close, filled at the next open, every trade paid for\n")
made = backtest_run(run, experiment, place / "data")
result = made.result
print(f"   {'':24} {'return':>9} {'Sharpe':>8} {'drawdown':>10} {'turnover':>10} {'costs':>10}")
print(line("strategy", result.metrics))
print(line("buy and hold", result.references["buy_and_hold"].metrics))

print("\n2. The same decisions at other costs\n")
for fee_bps, slippage_bps in ((0.0, 0.0), (5.5, 2.0), (10.0, 5.0)):
    metrics = backtest_run(run, at_cost(fee_bps, slippage_bps), place / "data").result.metrics
    print(line(f"{fee_bps + slippage_bps:g} basis points a side", metrics))

print("\n3. A 24-hour return can't be earned anew every hour\n")
# Multiply each hour's position by the return over the next 24 hours, add up, and every move is counted 24 times. It is
# in print. The engine only ever earns the bar that follows.
assert made.outcomes is not None
earned_24_times = float(np.nansum(result.weights.to_numpy() * np.expm1(made.outcomes.to_numpy())))
free = backtest_run(run, at_cost(0.0, 0.0), place / "data").result.metrics.total_return
print(f"   the sum of position x 24-hour return: {earned_24_times:+.0%}; earned, before costs: {free:+.1%}")

print("\n4. A year has 8,760 hours, and not 252\n")
hourly = np.diff(result.equity) / result.equity[:-1]
for name, bars_per_year in (("sqrt(252)", 252), ("sqrt(8,760)", 8_760)):
    scale = math.sqrt(bars_per_year)
    volatility, sharpe = hourly.std() * scale, hourly.mean() / hourly.std() * scale
    print(f"   {name:12} volatility {volatility:.2%}   Sharpe {sharpe:+.2f}")
years = len(hourly) / 8_760
print(f"   one standard error of a Sharpe ratio from {years:.2f} years: about {1 / math.sqrt(years):.1f} (Lo 2002)")

print("\n5. The report\n")
assessment = assess(
    result, forecasts=made.forecasts, outcomes=made.outcomes, horizon_bars=experiment.panel.target.horizon_bars
)
print(f"   {assessment.verdict}\n")
write_backtest(result, run.path, experiment.model_dump(mode="json"), assessment)
report = write_report(
    result,
    run.path,
    title=run.name,
    experiment=experiment,
    assessment=assessment,
    manifest=run.manifest,
    forecasts=made.forecasts,
    outcomes=made.outcomes,
)
print(f"   {report.name}, backtest.json, equity.parquet and trades.parquet are in {run.name}")
