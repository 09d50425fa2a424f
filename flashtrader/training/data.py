"""From stored bars to what a training run needs: panel, split and scaler."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flashtrader.config import Experiment
from flashtrader.errors import ConfigError
from flashtrader.panel.loading import load_panel
from flashtrader.panel.panel import Panel
from flashtrader.panel.scaling import Scaler, fit_scaler
from flashtrader.panel.segments import Segments
from flashtrader.panel.splits import Rows, Split, split_by_time


@dataclass(frozen=True)
class LabelledPanel:
    """A panel, what it was made of, how time divides it, and the scaler of its training rows."""

    panel: Panel
    tables: Mapping[str, pd.DataFrame]
    """The stored bars, or snapshots, of each symbol."""
    fingerprints: Mapping[str, Mapping[str, Any]]
    """What identifies each table's content."""
    split: Split
    scaler: Scaler


@dataclass(frozen=True)
class TrainingData(LabelledPanel):
    """What a transformer trains on."""

    segments: Segments


def label(experiment: Experiment, data_dir: Path) -> LabelledPanel:
    """Return the experiment's panel from the store, divided and measured.

    Raises DataError when bars are missing, ConfigError when they are too few for the split.
    """
    loaded = load_panel(experiment, data_dir)
    panel = loaded.panel
    split = split_by_time(panel, experiment.split, experiment.reach_bars)
    require_trainable(experiment, panel, split)
    return LabelledPanel(panel, loaded.tables, loaded.fingerprints, split, fit_scaler(panel, split.train))


def prepare(experiment: Experiment, data_dir: Path) -> TrainingData:
    """Return the experiment's training data from the store.

    Raises DataError when bars are missing, ConfigError when they are too few for the split or the context.
    """
    labelled = label(experiment, data_dir)
    return TrainingData(**vars(labelled), segments=_segments(experiment, labelled.panel, labelled.split))


def require_trainable(experiment: Experiment, panel: Panel, split: Split) -> None:
    """Raise ConfigError unless some bars of a split can be trained on, and some validate what was learned."""
    _require_scored(panel, split.validation, experiment.warmup_bars)
    if experiment.plain_family is None:
        _segments(experiment, panel, split)


def _segments(experiment: Experiment, panel: Panel, split: Split) -> Segments:
    return Segments(panel, split.train, experiment.training.segment_bars, experiment.unlabelled_bars)


def _require_scored(panel: Panel, validation: Rows, warmup_bars: int) -> None:
    """Raise ConfigError if no validation row will have both a forecast and a known target: no weights would be best."""
    due_TK = panel.forecast_due(validation.start, validation.stop, warmup_bars)
    if not (due_TK & np.isfinite(panel.targets[validation.start : validation.stop])).any():
        raise ConfigError(
            f"split.validation: none of the {len(validation)} validation bars has both a forecast and a known target "
            f"(a history begins anew after an outage, with {warmup_bars} warm-up bars); move the boundary, lower "
            "training.warmup_bars, or raise panel.max_gap_bars"
        )
