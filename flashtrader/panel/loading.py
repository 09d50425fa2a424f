"""From the store to a panel, for every kind of experiment."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from flashtrader.config import Experiment
from flashtrader.interval import Interval
from flashtrader.market.bars import fingerprint
from flashtrader.market.store import load_bars
from flashtrader.panel.features import expand_features
from flashtrader.panel.panel import Panel, build_panel


class PanelShape(NamedTuple):
    """How many entities, features of each, and targets an experiment's panel has."""

    entities: int
    features: int
    targets: int


@dataclass(frozen=True, eq=False)
class LoadedPanel:
    """A panel, and what it was made of."""

    panel: Panel
    tables: Mapping[str, pd.DataFrame]
    """The stored bars of each symbol."""
    fingerprints: Mapping[str, Mapping[str, Any]]
    """What identifies each table's content."""


def load_panel(experiment: Experiment, data_dir: Path) -> LoadedPanel:
    """Return the experiment's panel from the store. Raises DataError when something is missing there."""
    bars = load_bars(experiment.data, data_dir)
    panel = build_panel(bars, Interval(experiment.data.interval), experiment.panel)
    return LoadedPanel(panel, bars, {symbol: fingerprint(table) for symbol, table in bars.items()})


def panel_shape(experiment: Experiment) -> PanelShape:
    """Return the shape of the experiment's panel before any data are known."""
    assets = len(experiment.data.symbols)
    return PanelShape(entities=assets, features=len(expand_features(experiment.panel.features)), targets=assets)
