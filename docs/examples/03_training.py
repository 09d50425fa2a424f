# ruff: noqa: T201
"""Worked example 3 of 5: split by time, scale by the training rows alone, and train with a label at every bar.

python docs/examples/03_training.py [DIRECTORY]        after 01_data.py, with the same directory
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from flashtrader.config import load_config
from flashtrader.panel.scaling import fit_scaler
from flashtrader.panel.splits import Rows
from flashtrader.training.data import prepare
from flashtrader.training.loop import train_model

place = Path(sys.argv[1] if len(sys.argv) > 1 else "examples-output")
experiment = load_config(Path(__file__).with_name("tutorial.yaml"))
data = prepare(experiment, place / "data")
panel, split = data.panel, data.split

print("1. Split by time, and leave out what would reach across\n")
for name, rows in (("training", split.train), ("validation", split.validation), ("test", split.test)):
    first, last = (pd.Timestamp(panel.timestamps[row], unit="ms") for row in (rows.start, rows.stop - 1))
    print(f"   {name:10} {len(rows):6,} bars   {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M}")
purged = split.validation.start - split.train.stop
print(f"   {purged} bars before each boundary are in neither part: a day held from their next open ends beyond it")

print("\n2. The scaler sees training rows only\n")
# This market keeps its ways, so the difference is small here. In a real one, volatility moves for years, and a scaler
# fitted on everything tells the model at every bar how the years to come compare with today.
leaking = fit_scaler(panel, Rows(0, len(panel.timestamps)))
change = leaking.feature_std[0] / data.scaler.feature_std[0] - 1
for feature, difference in zip(panel.feature_names, change, strict=True):
    print(f"   {feature:14} scale of SIM1 with validation and test in it: {difference:+.1%}")

print("\n3. Windows are views\n")
copied = len(data.segments) * experiment.training.segment_bars * panel.values[0].nbytes
print(f"   {len(data.segments):,} overlapping segments of {experiment.training.segment_bars} bars")
print(f"   copied: {copied / 2**20:,.0f} MiB; as views of the panel: {panel.nbytes / 2**20:.0f} MiB")

print("\n4. Train\n")


def watch(metrics: dict[str, float]) -> None:
    """Print the evaluations on the validation bars."""
    if "validation_loss" in metrics:
        print(
            f"   step {metrics['step']:3}   training loss {metrics['train_loss']:.4f}   "
            f"validation loss {metrics['validation_loss']:.4f}   IC {metrics['validation_ic']:+.3f}"
        )


torch.set_num_threads(1)  # a model this small waits longer for threads than it computes
summary = train_model(experiment, place / "data", place / "runs", watch)

print("\n5. Is that anything? Compare with forecasting no change at all\n")
# An IC of 0.08 explains 0.08 squared of the variance, well below one per cent: a loss can hardly show it. So the
# evaluations report both, and what counts are the test bars, which nothing here has looked at.
targets = panel.targets[split.validation.start : split.validation.stop] / data.scaler.target_std
known = torch.from_numpy(targets[np.isfinite(targets)])
no_change = torch.nn.functional.huber_loss(torch.zeros_like(known), known)
print(f"   validation loss of no change: {no_change:.4f}; of the best model, step {summary.best_step}: ", end="")
print(f"{summary.validation_loss:.4f}")
manifest = summary.run.manifest
print(f"\n   {summary.run.name} holds config.yaml, manifest.json (seed {manifest['seed']}, ", end="")
print(f"attention {manifest['attention']['backend']}, fingerprints of the bars), metrics.jsonl and checkpoints")
