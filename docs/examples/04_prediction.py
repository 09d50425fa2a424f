# ruff: noqa: T201
"""Worked example 4 of 5: forecast the test bars, and find out whether that was skill.

python docs/examples/04_prediction.py [DIRECTORY]        after 03_training.py, with the same directory
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from flashtrader.forecasting.forecast import forecast_run, keep_forecasts, load_best
from flashtrader.forecasting.scores import mean_score
from flashtrader.interval import Interval
from flashtrader.market.fetch import fetch
from flashtrader.market.sources.simulated import SimulatedSource
from flashtrader.market.store import Store, load_bars, time_asked
from flashtrader.models.stream import forecast_rows
from flashtrader.panel.loading import load_panel
from flashtrader.panel.splits import split_at
from flashtrader.run import find_run

place = Path(sys.argv[1] if len(sys.argv) > 1 else "examples-output")
run = find_run(place / "runs")
experiment = run.experiment
made = forecast_run(run, place / "data")
keep_forecasts(made)
print(f"{run.name}: {len(made.forecasts):,} bars x {made.forecasts.shape[1]} markets in forecasts.parquet\n")


def r_squared(forecast: np.ndarray, outcome: np.ndarray) -> float:
    """Return the usual R-squared, against the mean of the outcomes."""
    return float(1 - np.square(outcome - forecast).sum() / np.square(outcome - outcome.mean()).sum())


print("1. A high R² on price levels is what the last price scores, too\n")
bars = load_bars(experiment.data, place / "data")["SIM1"].set_index("timestamp")["close"]
known = made.outcomes["SIM1"].notna()
price = bars.reindex(made.forecasts.index[known].as_unit("ms").asi8).to_numpy()
forecast, outcome = (table["SIM1"][known].to_numpy() for table in (made.forecasts, made.outcomes))
in_a_day = price * np.exp(outcome)
print(f"   price in 24 hours, by the model:                       {r_squared(price * np.exp(forecast), in_a_day):+.3f}")
print(f"   price in 24 hours, by the price now:                   {r_squared(price, in_a_day):+.3f}")
print(f"   return over 24 hours, by the model, against no change: {made.scores[0].r2:+.3f}")

print("\n2. Overlapping horizons are not independent samples\n")
for score in made.scores:
    naive = 1 / np.sqrt(score.bars)
    print(f"   {score.symbol}: IC {score.ic:+.3f}   ", end="")
    print(f"error, were bars independent {naive:.3f}   in truth {score.ic_error:.3f}")

print("\n3. Beside plain models, and the best that any forecast can do in this market\n")
for name, mean in made.mean_scores.items():
    print(f"   {name:12} IC {mean.ic:+.3f} ± {mean.ic_error:.3f}   R² {mean.r2:+.3f}")
source, interval = SimulatedSource(), Interval(experiment.data.interval)
best = made.forecasts.copy()
for symbol in best.columns:
    best[symbol] = source.best_forecast(symbol, interval, best.index.as_unit("ms").asi8, made.horizon_bars)
mean = mean_score(best, made.outcomes, made.horizon_bars)
print(f"   the truth    IC {mean.ic:+.3f} ± {mean.ic_error:.3f}   R² {mean.r2:+.3f}")
# The rule behind this market is triggered 256 to 320 bars before it acts. A context of 64 bars can't see that, and ends
# up with what momentum finds. configs/demo.yaml looks back 384 bars, trains for minutes, and finds most of it.

print("\n4. The twin market: the same shocks, and nothing to find. Does the model find nothing?\n")
symbols, period = experiment.data.symbols, time_asked(experiment.data)
fetch(SimulatedSource(noise_only=True), Store(place / "data"), symbols, interval, *period)
twin = experiment.model_copy(update={"data": experiment.data.model_copy(update={"noise_only": True})})
panel = load_panel(twin, place / "data").panel
rows = split_at(panel, run.read_manifest().split).test
values = forecast_rows(load_best(run), panel, rows, experiment.warmup_bars)
forecasts, outcomes = (
    pd.DataFrame(table.astype(np.float64), index=made.forecasts.index, columns=list(symbols))
    for table in (values, panel.targets[rows.start : rows.stop])
)
mean = mean_score(forecasts, outcomes, made.horizon_bars)
print(f"   in the twin  IC {mean.ic:+.3f} ± {mean.ic_error:.3f}   R² {mean.r2:+.3f}")
