"""One market's candles → a Panel whose targets are the next candle; and arithmetic on candles.

A candle is five numbers on the last axis: open, high, low, close and volume, in float64. Its logarithms are those of
the prices and log(1 + volume). Shapes end in 5 for it: (..., 5).
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.config import PanelConfig
from flashtrader.errors import ConfigError, DataError
from flashtrader.interval import Interval
from flashtrader.market.bars import Bars, resample
from flashtrader.panel.features import Feature, History, expand_features, find_features
from flashtrader.panel.outages import stretch_lengths, stretch_starts
from flashtrader.panel.panel import Panel, nowhere_known, union_clock

CANDLE = expand_features(["candle"])
"""The candle's own features, which are also the first targets: the next candle's, as `next_changes`."""
SHAPE = ("gap", "body", "upper_wick", "lower_wick", "volume_change")
"""What the next candle is made of, in variables that are free of each other: see `next_shapes`."""
CLOSE, VOLUME, NUM_COLUMNS = 3, 4, 5
MOVES_FROM = [CLOSE, CLOSE, CLOSE, CLOSE, VOLUME]
"""What each column of a candle moves from, in the candle before."""
WICK_UNIT = 1e-4
"""One basis point: about a tick and the spread. Below it a wick's length is counted, above it the logarithm is."""

_LARGEST_LOG = 700.0
"""Of a number that float64 holds, and of one over it."""


def candles_of(bars: Bars) -> Floats:
    """Return the bars' candles (T, 5)."""
    return bars[["open", "high", "low", "close", "volume"]].to_numpy(np.float64)


def log_candles(candles: Floats) -> Floats:
    """Return the logarithms of prices and log(1 + volume) (..., 5)."""
    logs = np.empty_like(candles)
    np.log(candles[..., :VOLUME], out=logs[..., :VOLUME])
    np.log1p(candles[..., VOLUME], out=logs[..., VOLUME])
    return logs


def candles_from_logs(logs: Floats) -> Floats:
    """Return the candles (..., 5) nearest to any five logarithms: high and low enclose all four, volume is not below 0.

    The same logarithms as a candle's give this candle back, but for rounding.
    """
    candles = np.exp(np.clip(logs, -_LARGEST_LOG, _LARGEST_LOG))
    prices = candles[..., :VOLUME]
    candles[..., 1], candles[..., 2] = prices.max(axis=-1), prices.min(axis=-1)
    candles[..., VOLUME] = np.expm1(np.clip(logs[..., VOLUME], 0.0, _LARGEST_LOG))
    return candles


def next_candles(candles: Floats, changes: Floats) -> Floats:
    """Return the candles (..., 5) that follow `candles` by these changes: a forecast made a candle."""
    return candles_from_logs(log_candles(candles)[..., MOVES_FROM] + changes)


def next_changes(candles: Floats, following: Floats) -> Floats:
    """Return by how much the logarithms (..., 5) of the candles `following` others differ from where those ended.

    A price is measured from the close before, volume from the volume before: no change is a market that stands still.
    """
    return log_candles(following) - log_candles(candles)[..., MOVES_FROM]


def next_shapes(candles: Floats, following: Floats) -> Floats:
    """Return the SHAPE (..., 5) of the candles `following` others: any five numbers are the shape of a valid candle.

    gap: log open less the log close before. body: log close less log open. Wicks: log(1 + w / WICK_UNIT) of the log
    distance w from the body to high and low, so that no wick is 0, and a shape below 0 means none.
    volume_change: of log(1 + volume).
    """
    before, logs = log_candles(candles), log_candles(following)
    open_, high, low, close, volume = np.moveaxis(logs, -1, 0)
    upper, lower = high - np.maximum(open_, close), np.minimum(open_, close) - low
    wicks = (np.log1p(wick / WICK_UNIT) for wick in (upper, lower))
    return np.stack([open_ - before[..., CLOSE], close - open_, *wicks, volume - before[..., VOLUME]], axis=-1)


def next_candles_of_shape(candles: Floats, shapes: Floats) -> Floats:
    """Return the candles (..., 5) of these shapes that follow `candles`: the inverse of `next_shapes`."""
    before = log_candles(candles)
    gap, body, upper, lower, volume_change = np.moveaxis(shapes, -1, 0)
    open_ = before[..., CLOSE] + gap
    close = open_ + body
    upper, lower = (WICK_UNIT * np.expm1(np.clip(wick, 0.0, _LARGEST_LOG)) for wick in (upper, lower))
    high, low = np.maximum(open_, close) + upper, np.minimum(open_, close) - lower
    return candles_from_logs(np.stack([open_, high, low, close, before[..., VOLUME] + volume_change], axis=-1))


def merge_candles(parts: Floats) -> Floats:
    """Return the candle (..., 5) that consecutive ones (..., P, 5) make."""
    open_, high, low, close, volume = np.moveaxis(parts, -1, 0)
    ends = open_[..., 0], high.max(axis=-1), low.min(axis=-1), close[..., -1], volume.sum(axis=-1)
    return np.stack(ends, axis=-1)


def candle_features(config: PanelConfig) -> dict[str, Feature]:
    """Return the features of a candle panel. Raises ConfigError unless the candle itself comes first."""
    if config.features[0] != "candle":
        raise ConfigError(
            f"panel.features: family candles reads the candle itself first: begin the list with candle, then "
            f"{', '.join(name for name in config.features if name != 'candle')}"
        )
    return find_features(config.features)


def build_candle_panel(bars: Mapping[str, Bars], interval: Interval, config: PanelConfig, *, with_shape: bool) -> Panel:
    """Return the panel of one market's candles: its rows are the market's own bars.

    Entity 0 is the bar. Then comes one entity for each of `panel.multiscale`: the newest longer candle that has closed
    when the row's bar does, with the same features of its own history; none that closed before the row's run began. A
    longer candle may bridge as many missing bars as the panel does.

    Targets are the `next_changes` of the next bar, 0 if the market stands still, and `with_shape` also the
    next bar's SHAPE; NaN where an outage of more than `max_gap_bars` follows.
    Raises ConfigError for features or longer intervals that can't be, DataError when a feature is nowhere known.
    """
    features = candle_features(config)
    ((symbol, table),) = bars.items()
    timestamps = union_clock(bars)
    history = History(table, stretch_starts(timestamps, interval, config.max_gap_bars))
    names = (symbol, *(f"{symbol} {code}" for code in config.multiscale))

    values = np.zeros((len(table), len(names), len(features)), np.float32)
    mask = np.zeros((len(table), len(names)), np.bool_)
    mask[:, 0] = _fill(values[:, 0], features, history, symbol)
    for entity, code in enumerate(config.multiscale, start=1):
        longer = longer_history(table, interval, Interval(code), config.max_gap_bars)
        longer_values = np.empty((len(longer.bars), len(features)), np.float32)
        known = _fill(longer_values, features, longer, names[entity])
        newest = _newest_closed(longer, Interval(code), history, interval)
        rows = np.flatnonzero((newest >= 0) & known[newest])
        values[rows, entity], mask[rows, entity] = longer_values[newest[rows]], True

    target_names = CANDLE + (SHAPE if with_shape else ())
    return Panel(
        timestamps=timestamps,
        interval=interval,
        symbols=(symbol,),
        feature_names=tuple(features),
        values=values,
        mask=mask,
        targets=_targets(history, with_shape=with_shape),
        target_names=target_names,
        target_entities=np.zeros(len(target_names), np.int64),
        symbol_targets=np.array([CLOSE]),
        run_starts=history.starts,
        entity_names=names,
    )


def longer_history(bars: Bars, interval: Interval, to: Interval, max_gap_bars: int) -> History:
    """Return the closed longer candles of `bars`. Raises ConfigError unless they are longer, and hold whole bars."""
    if to.milliseconds <= interval.milliseconds:
        raise ConfigError(f"panel.multiscale: {to.code} is not longer than data.interval, {interval.code}")
    longer = resample(bars, interval, to, max_gap_bars)
    if longer.empty:
        raise DataError(
            f"panel.multiscale: no candle of interval {to.code} is whole in the {len(bars)} bars; leave it out, "
            "raise panel.max_gap_bars, or fetch more bars"
        )
    return History(longer, stretch_starts(longer["timestamp"].to_numpy(), to, max_gap_bars))


def _fill(
    out_TF: NDArray[np.float32], features: Mapping[str, Feature], history: History, name: str
) -> NDArray[np.bool_]:
    """Write the features of a history; return the rows at which all of them are known, and write 0 to the others."""
    for position, (feature_name, feature) in enumerate(features.items()):
        out_TF[:, position] = feature(history)
        if not np.isfinite(out_TF[:, position]).any():
            raise DataError(nowhere_known(name, feature_name, history))
    known: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(out_TF), axis=1)
    if not known.any():
        raise DataError(nowhere_known(name, "the whole of panel.features", history))
    out_TF[~known] = 0.0
    return known


def _newest_closed(longer: History, to: Interval, history: History, interval: Interval) -> NDArray[np.int64]:
    """Return, at the close of each bar (T,), the row of the newest longer candle of its run; −1 where there is none."""
    timestamps = history.bars["timestamp"].to_numpy()
    closes = to.close(longer.bars["timestamp"].to_numpy())
    newest = np.searchsorted(closes, interval.close(timestamps), side="right") - 1
    run_openings = np.repeat(timestamps[history.starts], stretch_lengths(history.starts, len(timestamps)))
    newest[closes[newest] <= run_openings] = -1
    return newest


def _targets(history: History, *, with_shape: bool) -> NDArray[np.float32]:
    candles = candles_of(history.bars)
    targets = np.full((len(candles), NUM_COLUMNS + len(SHAPE) * with_shape), np.nan, np.float32)
    targets[:-1, :NUM_COLUMNS] = next_changes(candles[:-1], candles[1:])
    if with_shape:
        targets[:-1, NUM_COLUMNS:] = next_shapes(candles[:-1], candles[1:])
    targets[history.starts[1:] - 1] = np.nan
    return targets
