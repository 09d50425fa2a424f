"""From stored bars to what a training run needs: panel, split and scaler."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashtrader.config import Experiment
from flashtrader.interval import Interval
from flashtrader.market.bars import fingerprint
from flashtrader.market.store import load_bars
from flashtrader.panel.panel import Panel, build_panel
from flashtrader.panel.scaling import Scaler, fit_scaler
from flashtrader.panel.segments import Segments
from flashtrader.panel.splits import Split, split_by_time


@dataclass(frozen=True)
class TrainingData:
    """A panel, how time divides it, and the scaler of its training rows."""

    panel: Panel
    split: Split
    scaler: Scaler
    segments: Segments
    fingerprints: dict[str, dict[str, Any]]


def prepare(experiment: Experiment, data_dir: Path) -> TrainingData:
    """Return the experiment's training data from the store.

    Raises DataError when bars are missing, ConfigError when they are too few for the split or the context.
    """
    bars = load_bars(experiment.data, data_dir)
    fingerprints = {symbol: fingerprint(table) for symbol, table in bars.items()}
    panel = build_panel(bars, Interval(experiment.data.interval), experiment.panel)
    split = split_by_time(panel, experiment.split, experiment.panel.target.horizon_bars)
    return TrainingData(
        panel=panel,
        split=split,
        scaler=fit_scaler(panel, split.train),
        segments=Segments(panel, split.train, experiment.training.segment_bars, experiment.warmup_bars),
        fingerprints=fingerprints,
    )
