# ruff: noqa: T201
"""Worked example 1 of 5: bars of several markets, joined by time, and features that know nothing of the future.

python docs/examples/01_data.py [DIRECTORY]        the directory is ./examples-output unless given
"""

import sys
from pathlib import Path

import numpy as np

from flashtrader.config import load_config
from flashtrader.interval import Interval
from flashtrader.market.fetch import fetch
from flashtrader.market.sources.simulated import SimulatedSource
from flashtrader.market.store import Store, load_bars, time_asked
from flashtrader.panel.panel import build_panel

place = Path(sys.argv[1] if len(sys.argv) > 1 else "examples-output")
experiment = load_config(Path(__file__).with_name("tutorial.yaml"))
interval = Interval(experiment.data.interval)

print("1. Fetch: a history is stored once, and only ever extended\n")
# The simulated exchange needs no network, and one knows exactly what can be forecast in it. For real markets take
# BybitSource or YahooSource; nothing below changes.
store, period = Store(place / "data"), time_asked(experiment.data)
for report in fetch(SimulatedSource(), store, experiment.data.symbols, interval, *period):
    print(f"   {report.symbol}: {report.rows:,} hourly bars")
bars = load_bars(experiment.data, place / "data")
print(bars["SIM1"].tail(3).to_string())

print("\n2. Join by time, never by row number\n")
# Let SIM2 lose seven bars, as happens on real exchanges. A join by row, from the newest bar backwards, then pairs every
# bar before the hole with one that is seven hours away.
hole = range(40_000, 40_007)
bars["SIM2"] = bars["SIM2"].drop(index=list(hole)).reset_index(drop=True)
moves = {symbol: np.log(table["close"]).diff() for symbol, table in bars.items()}
before = slice(100, hole.start)
by_row = np.corrcoef(moves["SIM1"].shift(-len(hole))[before], moves["SIM2"][before])[0, 1]  # what that join pairs
by_time = np.corrcoef(moves["SIM1"][before], moves["SIM2"][before])[0, 1]
print(f"   correlation of hourly returns before the hole, joined by row:  {by_row:+.2f}")
print(f"   correlation of hourly returns before the hole, joined by time: {by_time:+.2f}")

print("\n3. One panel: values (T, E, F) on one clock, with a mask\n")
panel = build_panel(bars, interval, experiment.panel)
print(f"   values {panel.values.shape}, {panel.nbytes / 2**20:.0f} MiB, features: {', '.join(panel.feature_names)}")
print(
    f"   SIM2 inside its hole: known {panel.mask[hole.start, 1]}; the others: {panel.mask[hole.start, [0, 2]].tolist()}"
)
# Features with a window of N bars come back N bars after an outage. Nothing is carried forward, nothing invented.
back = 1 + int(np.argmax(panel.mask[hole.stop :, 1]))
print(f"   all of SIM2's features are known again at bar {back} after the hole")

print("\n4. Causal features: what is known at a bar does not change when the future comes\n")
cut = 30_000
shorter = build_panel({symbol: table[:cut] for symbol, table in bars.items()}, interval, experiment.panel)
print(
    f"   from a history cut at bar {cut:,}, to the bit the same: {np.array_equal(shorter.values, panel.values[:cut])}"
)
# A centred mean looks like any other smoothing on a chart, and reads the future.
centred = bars["SIM1"]["close"][:cut].rolling(25, center=True).mean()
print(f"   a centred mean of 25 bars, by contrast, is not known yet at the last {int(centred[25:].isna().sum())} bars")

print("\n5. The target: log(close[t + 24] / close[t]), which nobody knows for the last 24 bars\n")
print(f"   targets {panel.targets.shape}; of SIM1 unknown at the end: {int(np.isnan(panel.targets[:, 0]).sum())}")
