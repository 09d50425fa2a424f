"""Bars of several assets → one Panel: features, targets and a mask on one clock."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flashtrader.config import PanelConfig
from flashtrader.errors import DataError
from flashtrader.interval import Interval
from flashtrader.market.bars import Bars
from flashtrader.market.spans import iso_time
from flashtrader.panel.features import History, find_features
from flashtrader.panel.outages import stretch_lengths, stretch_starts
from flashtrader.panel.targets import horizon_log_returns


@dataclass(frozen=True, eq=False)
class Panel:
    """E assets with F features and K targets on one clock of T rows; a row is known at its bars' close."""

    timestamps: NDArray[np.int64]
    """(T,) opening times: the union of the assets' bars, sorted. A time at which no asset has a bar is no row."""
    interval: Interval | None
    """Of the bars; None where a row is an event, known at its own time."""
    symbols: tuple[str, ...]
    feature_names: tuple[str, ...]
    values: NDArray[np.float32]
    """(T, E, F) unscaled; 0 where the mask is False."""
    mask: NDArray[np.bool_]
    """(T, E) every feature of the asset is known at this row."""
    targets: NDArray[np.float32]
    """(T, K) NaN where unknown."""
    target_names: tuple[str, ...]
    target_entities: NDArray[np.int64]
    """(K,) the entity whose features must be known for a forecast of each target."""
    symbol_targets: NDArray[np.int64]
    """The target that is each symbol's forecast in a table."""
    run_starts: NDArray[np.int64]
    """(R,) rows at which a run begins: the first row, and those after an outage of every asset."""
    entity_names: tuple[str, ...] = ()
    """Of the E entities, where they are not the symbols."""

    @property
    def known_ms(self) -> NDArray[np.int64]:
        """When each row is known (T,): at its bars' close, or at its event."""
        return self.timestamps if self.interval is None else self.interval.close(self.timestamps)

    @property
    def forecastable(self) -> NDArray[np.bool_]:
        """Whether what a forecast of each target needs is known at each row (T, K)."""
        return self.mask[:, self.target_entities]

    @property
    def run_lengths(self) -> NDArray[np.int64]:
        """Rows (R,) in each run."""
        return stretch_lengths(self.run_starts, len(self.timestamps))

    def rows_into_run(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return how many rows of its run lie before each of the rows [start, stop)."""
        rows = np.arange(start, stop)
        return rows - self.run_starts[np.searchsorted(self.run_starts, rows, side="right") - 1]

    def forecast_due(self, start: int, stop: int, warmup_bars: int) -> NDArray[np.bool_]:
        """Return whether a model that warms up in each run forecasts each target at each of the rows (rows, K)."""
        warm_T1 = self.rows_into_run(start, stop)[:, None] >= warmup_bars
        return self.forecastable[start:stop] & warm_T1

    @property
    def nbytes(self) -> int:
        """Bytes that the arrays take."""
        arrays = (self.timestamps, self.values, self.mask, self.targets, self.run_starts)
        return sum(array.nbytes for array in arrays)


def build_panel(bars: Mapping[str, Bars], interval: Interval, config: PanelConfig) -> Panel:
    """Return the panel of every asset's bars, joined by timestamp.

    Each feature is computed on the asset's own bars and written straight to its place: beside the result there are
    never more than a few columns. Raises ConfigError for an unknown feature; DataError when an asset has no bars, when
    the assets have no period in common, or when a feature of an asset is nowhere known.
    """
    features = find_features(config.features)
    clock = union_clock(bars)
    values = np.zeros((len(clock), len(bars), len(features)), np.float32)
    mask = np.zeros((len(clock), len(bars)), np.bool_)
    targets = np.empty((len(clock), len(bars)), np.float32)
    for asset, (symbol, table) in enumerate(bars.items()):
        timestamps = table["timestamp"].to_numpy()
        history = History(table, stretch_starts(timestamps, interval, config.max_gap_bars))
        rows = np.searchsorted(clock, timestamps)
        known = np.ones(len(table), np.bool_)
        for position, (name, feature) in enumerate(features.items()):
            column = feature(history)
            finite = np.isfinite(column)
            if not finite.any():
                raise DataError(nowhere_known(symbol, name, history))
            values[rows, asset, position] = column
            known &= finite
        if not known.any():
            raise DataError(nowhere_known(symbol, "the whole of panel.features", history))
        values[rows[~known], asset] = 0.0
        mask[rows, asset] = known
        targets[:, asset] = horizon_log_returns(table, clock, interval, config.target.horizon_bars, config.max_gap_bars)
    return Panel(
        timestamps=clock,
        interval=interval,
        symbols=tuple(bars),
        feature_names=tuple(features),
        values=values,
        mask=mask,
        targets=targets,
        target_names=tuple(bars),
        target_entities=np.arange(len(bars)),
        symbol_targets=np.arange(len(bars)),
        run_starts=stretch_starts(clock, interval, config.max_gap_bars),
    )


def union_clock(bars: Mapping[str, Bars]) -> NDArray[np.int64]:
    """Return the union of the assets' opening times. Raises DataError unless all of them overlap."""
    empty = [symbol for symbol, table in bars.items() if table.empty]
    if empty:
        raise DataError(
            f"{', '.join(empty)}: no bars in the period asked for; fetch them, or change data.start and data.end"
        )
    times = {symbol: table["timestamp"].to_numpy() for symbol, table in bars.items()}
    latest = max(times, key=lambda symbol: int(times[symbol][0]))
    earliest = min(times, key=lambda symbol: int(times[symbol][-1]))
    if times[latest][0] > times[earliest][-1]:
        raise DataError(
            f"data.symbols have no common period: {earliest} ends at {iso_time(int(times[earliest][-1]))}, before "
            f"{latest} begins at {iso_time(int(times[latest][0]))}; leave one out or fetch more of its bars"
        )
    clock, *others = times.values()
    for other in others:
        if not np.array_equal(clock, other):
            clock = np.union1d(clock, other)
    return clock


def nowhere_known(symbol: str, what: str, history: History) -> str:
    """Return the message about a feature that has no value at any bar, and what to do."""
    if what.startswith("volume_ratio") and not history.column("volume").any():
        return f"{symbol}: {what} is nowhere known, for the bars have no volume; take it out of panel.features"
    longest = stretch_lengths(history.starts, len(history.bars)).max()
    return (
        f"{symbol}: {what} is nowhere known; its longest stretch without an outage has {longest} bars: shorten the "
        "windows in panel.features, raise panel.max_gap_bars, or fetch more bars"
    )
