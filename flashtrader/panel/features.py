"""Causal features of one asset's bars.

A feature's value at a bar depends on that bar and earlier ones, to the last bit, and restarts after an outage: no
window spans one. Windows count the asset's own bars; a missing bar is no invented price. A number in a name is the
window.

log_return          log(close / previous close)
volatility_N        standard deviation of the last N log returns (N − 1 in the denominator)
range_N             volatility of one bar, from the highs and lows of the last N
volume_ratio_N      log(1 + volume / mean volume of the last N bars)
price_ratio_N       log(close / mean close of the last N bars)
rsi_N, rsi_mean_N   relative strength index over N changes, Wilder's smoothing or simple means
calendar            hour_sin, hour_cos, weekday_sin, weekday_cos of the opening time, UTC
candle              log_open, log_high, log_low, log_close, log1p_volume
candle_moves        open_move, high_move, low_move, close_move: their logarithms less that of the previous close;
                    volume_move: log1p_volume less that of the previous bar
"""

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.errors import ConfigError
from flashtrader.interval import DAY_MS
from flashtrader.market.bars import Bars
from flashtrader.panel.rolling import rolling_mean, wilder_mean

_FIRST_MONDAY_MS = 4 * DAY_MS
_WINDOW = "[1-9][0-9]{0,9}"


@dataclass(frozen=True, eq=False)
class History:
    """One asset's own bars, and the rows at which a stretch without an outage begins."""

    bars: Bars
    starts: NDArray[np.int64]

    def column(self, name: str) -> Floats:
        """Return a column of the bars (T,) as float64."""
        return self.bars[name].to_numpy(np.float64)

    def previous(self, values: Floats) -> Floats:
        """Return the value before each (T,); NaN at the first bar of a stretch."""
        previous = np.roll(values, 1)
        previous[self.starts] = np.nan
        return previous

    def steps(self, values: Floats) -> Floats:
        """Return each value less the one before (T,); NaN at the first bar of a stretch."""
        return values - self.previous(values)


Feature = Callable[[History], Floats]


def _log_return(history: History) -> Floats:
    return history.steps(np.log(history.column("close")))


def _volatility(history: History, window: int) -> Floats:
    returns = _log_return(history)
    mean = rolling_mean(returns, history.starts, 1, window)
    variance = rolling_mean(np.square(returns), history.starts, 1, window)
    variance -= np.square(mean)
    variance *= window / (window - 1)
    np.maximum(variance, 0.0, out=variance)
    return np.sqrt(variance)


def _range(history: History, window: int) -> Floats:
    """Parkinson (1980), The Extreme Value Method for Estimating the Variance of the Rate of Return."""
    log_range = np.log(history.column("high") / history.column("low"))
    variance: Floats = rolling_mean(np.square(log_range), history.starts, 0, window) / (4 * np.log(2))
    return np.sqrt(variance)


def _volume_ratio(history: History, window: int) -> Floats:
    """Unknown while nothing was traded for a whole window; a bar without a trade is log(1 + 0), not log(0)."""
    volume = history.column("volume")
    mean = rolling_mean(volume, history.starts, 0, window)
    mean[mean == 0] = np.nan
    return np.log1p(volume / mean)


def _price_ratio(history: History, window: int) -> Floats:
    close = history.column("close")
    return np.log(close / rolling_mean(close, history.starts, 0, window))


def _rsi(history: History, window: int, mean: Callable[..., Floats]) -> Floats:
    """Wilder (1978), section VI. From 0 to 100; 50 where the price did not move at all."""
    changes = history.steps(history.column("close"))
    gain = mean(np.maximum(changes, 0.0), history.starts, 1, window)
    loss = mean(np.maximum(-changes, 0.0), history.starts, 1, window)
    moved = gain + loss
    gain[moved == 0] = 0.5
    moved[moved == 0] = 1.0
    return 100.0 * gain / moved


def _phase(history: History, wave: Callable[[Floats], Floats], origin_ms: int, period_ms: int) -> Floats:
    elapsed = (history.bars["timestamp"].to_numpy() - origin_ms) % period_ms
    return wave(2 * np.pi * elapsed / period_ms)


def _log(history: History, name: str) -> Floats:
    return np.log(history.column(name))


def _log1p_volume(history: History) -> Floats:
    return np.log1p(history.column("volume"))


def _price_move(history: History, name: str) -> Floats:
    return np.log(history.column(name)) - history.previous(np.log(history.column("close")))


def _volume_move(history: History) -> Floats:
    return history.steps(_log1p_volume(history))


_CALENDAR: dict[str, Feature] = {
    "hour_sin": partial(_phase, wave=np.sin, origin_ms=0, period_ms=DAY_MS),
    "hour_cos": partial(_phase, wave=np.cos, origin_ms=0, period_ms=DAY_MS),
    "weekday_sin": partial(_phase, wave=np.sin, origin_ms=_FIRST_MONDAY_MS, period_ms=7 * DAY_MS),
    "weekday_cos": partial(_phase, wave=np.cos, origin_ms=_FIRST_MONDAY_MS, period_ms=7 * DAY_MS),
}
_CANDLE: dict[str, Feature] = {
    "log_open": partial(_log, name="open"),
    "log_high": partial(_log, name="high"),
    "log_low": partial(_log, name="low"),
    "log_close": partial(_log, name="close"),
    "log1p_volume": _log1p_volume,
}
_CANDLE_MOVES: dict[str, Feature] = {
    "open_move": partial(_price_move, name="open"),
    "high_move": partial(_price_move, name="high"),
    "low_move": partial(_price_move, name="low"),
    "close_move": partial(_price_move, name="close"),
    "volume_move": _volume_move,
}
_GROUPS = {"calendar": _CALENDAR, "candle": _CANDLE, "candle_moves": _CANDLE_MOVES}
_PLAIN: dict[str, Feature] = {"log_return": _log_return} | _CALENDAR | _CANDLE | _CANDLE_MOVES
_WINDOWED: dict[str, Callable[..., Floats]] = {
    "volatility": _volatility,
    "range": _range,
    "volume_ratio": _volume_ratio,
    "price_ratio": _price_ratio,
    "rsi": partial(_rsi, mean=wilder_mean),
    "rsi_mean": partial(_rsi, mean=rolling_mean),
}


def find_features(names: Iterable[str]) -> dict[str, Feature]:
    """Return the function of every column that `names` stand for, in their order.

    Raises ConfigError, with the nearest name that exists, for a feature that is unknown or has an impossible window.
    """
    features: dict[str, Feature] = {}
    for name in names:
        features |= _GROUPS[name] if name in _GROUPS else {name: _find(name)}
    return features


def expand_features(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the columns that `names` stand for. Raises ConfigError as `find_features` does."""
    return tuple(find_features(names))


def _find(name: str) -> Feature:
    if name in _PLAIN:
        return _PLAIN[name]
    stem, _, digits = name.rpartition("_")
    if stem in _WINDOWED and re.fullmatch(_WINDOW, digits):
        if int(digits) < 2:
            raise ConfigError(f"panel.features: {name} needs a window of two bars or more, such as {stem}_24")
        return partial(_WINDOWED[stem], window=int(digits))
    window = next(iter(re.findall(_WINDOW, name)), "24")
    known = [*_PLAIN, *_GROUPS, *(f"{stem}_{window}" for stem in _WINDOWED)]
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    raise ConfigError(f"panel.features: unknown feature {name!r}; the nearest is {nearest}")
