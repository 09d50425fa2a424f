"""From the store to a panel, for every kind of experiment."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from flashtrader.config import Experiment
from flashtrader.interval import Interval
from flashtrader.market.bars import fingerprint
from flashtrader.market.book_store import load_books
from flashtrader.market.store import load_bars
from flashtrader.panel.books import FEATURES as BOOK_FEATURES
from flashtrader.panel.books import build_book_panel
from flashtrader.panel.candles import NUM_COLUMNS, SHAPE, build_candle_panel, candle_features
from flashtrader.panel.features import expand_features
from flashtrader.panel.panel import Panel, build_panel
from flashtrader.panel.targets import fill_returns


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
    """The stored bars, or snapshots, of each symbol."""
    fingerprints: Mapping[str, Mapping[str, Any]]
    """What identifies each table's content."""


def load_panel(experiment: Experiment, data_dir: Path) -> LoadedPanel:
    """Return the experiment's panel from the store. Raises DataError when something is missing there."""
    tables = load_tables(experiment, data_dir)
    return LoadedPanel(panel_of(experiment, tables), tables, fingerprints(tables))


def load_tables(experiment: Experiment, data_dir: Path) -> dict[str, pd.DataFrame]:
    """Return the stored bars, or snapshots, of each symbol. Raises DataError when something is missing there."""
    load = load_books if experiment.data.kind == "books" else load_bars
    return load(experiment.data, data_dir)


def fingerprints(tables: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Any]]:
    """Return what identifies each table's content."""
    return {symbol: fingerprint(table) for symbol, table in tables.items()}


def panel_of(experiment: Experiment, bars: Mapping[str, pd.DataFrame]) -> Panel:
    """Return the panel of these bars, or snapshots, for the experiment's target.

    Raises as `build_panel`, `build_candle_panel` and `build_book_panel`.
    """
    if experiment.panel.target.kind == "direction":
        return build_book_panel(bars, experiment.panel)
    interval = Interval(experiment.data.interval)
    if experiment.panel.target.kind == "next_candle":
        return build_candle_panel(bars, interval, experiment.panel, with_shape=_learns_shape(experiment))
    panel = build_panel(bars, interval, experiment.panel)
    if experiment.panel.target.kind == "fill_return":
        fill, max_gap_bars = experiment.backtest.fill, experiment.panel.max_gap_bars
        columns = [fill_returns(table, panel.timestamps, interval, fill, max_gap_bars) for table in bars.values()]
        return replace(panel, targets=np.stack(columns, axis=1).astype(np.float32))
    return panel


def panel_shape(experiment: Experiment) -> PanelShape:
    """Return the shape of the experiment's panel before any data are known."""
    if experiment.panel.target.kind == "next_candle":
        return PanelShape(
            entities=1 + len(experiment.panel.multiscale),
            features=len(candle_features(experiment.panel)),
            targets=NUM_COLUMNS + len(SHAPE) * _learns_shape(experiment),
        )
    if experiment.panel.target.kind == "direction":
        return PanelShape(entities=2 * experiment.data.levels, features=len(BOOK_FEATURES), targets=1)
    assets = len(experiment.data.symbols)
    return PanelShape(entities=assets, features=len(expand_features(experiment.panel.features)), targets=assets)


def _learns_shape(experiment: Experiment) -> bool:
    return experiment.model.distribution == "student_t"
