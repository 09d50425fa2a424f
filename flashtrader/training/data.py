"""From stored bars to what a training run needs: panel, split and scaler."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashtrader.config import Experiment
from flashtrader.errors import ConfigError
from flashtrader.panel.loading import load_panel
from flashtrader.panel.panel import Panel
from flashtrader.panel.scaling import Scaler, fit_scaler
from flashtrader.panel.segments import Segments
from flashtrader.panel.splits import Rows, Split, split_by_time


@dataclass(frozen=True)
class TrainingData:
    """A panel, how time divides it, and the scaler of its training rows."""

    panel: Panel
    split: Split
    scaler: Scaler
    segments: Segments
    fingerprints: Mapping[str, Mapping[str, Any]]


def prepare(experiment: Experiment, data_dir: Path) -> TrainingData:
    """Return the experiment's training data from the store.

    Raises DataError when bars are missing, ConfigError when they are too few for the split or the context.
    """
    loaded = load_panel(experiment, data_dir)
    panel = loaded.panel
    split = split_by_time(panel, experiment.split, experiment.panel.target.horizon_bars)
    _require_scored(panel, split.validation, experiment.warmup_bars)
    return TrainingData(
        panel=panel,
        split=split,
        scaler=fit_scaler(panel, split.train),
        segments=Segments(panel, split.train, experiment.training.segment_bars, experiment.unlabelled_bars),
        fingerprints=loaded.fingerprints,
    )


def _require_scored(panel: Panel, validation: Rows, warmup_bars: int) -> None:
    """Raise ConfigError if no validation row will have both a forecast and a known target: no weights would be best."""
    rows = np.arange(validation.start, validation.stop)
    rows_into_run = rows - panel.run_starts[np.searchsorted(panel.run_starts, rows, side="right") - 1]
    forecast_TK = panel.forecastable[rows] & (rows_into_run >= warmup_bars)[:, None]
    if not (forecast_TK & np.isfinite(panel.targets[rows])).any():
        raise ConfigError(
            f"split.validation: none of the {len(rows)} validation bars has both a forecast and a known target (a "
            f"history begins anew after an outage, with {warmup_bars} warm-up bars); move the boundary, lower "
            "training.warmup_bars, or raise panel.max_gap_bars"
        )
