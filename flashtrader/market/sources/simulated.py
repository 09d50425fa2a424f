"""A stochastic market that is known exactly: what can be forecast in it, and how well at best.

Bar t of a symbol moves, in natural logarithm from close to close, by

    σ_t · ε_t  +  s_t · JUMP · σ_t  −  d_t · KAPPA · σ̄

- ε_t has heavy tails: √CORRELATION · the market's shock + √(1 − CORRELATION) · the symbol's own, each Student-t scaled
  to unit variance.
- σ_t = σ̄ · season · exp(x_t − var x), where the season repeats every day and the log volatility x_t is mixed like ε_t
  from first-order autoregressions (Taylor 1982). σ̄ is the symbol's own, and E[σ_t²] = σ̄².
- s_t is zero but at announcements, which move the whole market at once: one in every SLOT_BARS, up or down like a fair
  coin, with JUMP_VOLUME times the volume.
- d_t is the sign of the last announcement on the last DRIFT_BARS of the REGIME_BARS after it, else zero: what was an
  overreaction is given back late, a little on every bar. In the noise-only twin d_t is always zero, and everything else
  is the same.

Given everything up to t, the expected log return over the next h bars is −d · KAPPA · σ̄ · those of them that drift,
exactly: later shocks and the signs of later announcements have mean zero. Its correlation with what happens is the best
information coefficient there is. The drift is over before it shows in the price, so that it takes a memory of the
announcement to forecast it.

Every interval is a market of its own, its bars counted from GENESIS_MS on, for the rule is stated in bars.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.interval import DAY_MS, Interval
from flashtrader.market.bars import Bars
from flashtrader.market.sources import Page, Span

GENESIS_MS = 1_262_304_000_000
"""2010-01-01, when the market opens."""
PAGE_BARS = 50_000

JUMP = 10.0
"""Move of an announcement in units of σ_t."""
JUMP_VOLUME = 15.0
"""Volume of an announcement in units of what the bar would have had."""
REGIME_BARS = 320
DRIFT_BARS = 64
"""The last bars of a regime: only they drift."""
SLOT_BARS = 400
SPREAD_BARS = SLOT_BARS - REGIME_BARS
"""An announcement falls on one of the first bars of its slot, each as likely, so that regimes never overlap."""
KAPPA = 0.2
"""Drift of a regime's last bars in units of σ̄."""

CORRELATION = 0.3
STUDENT_T_DEGREES = 5.0
LOG_VOLATILITY = 0.4
"""Standard deviation of x_t."""
VOLATILITY_PERSISTENCE = 0.985
"""Autocorrelation of x_t from bar to bar: a half-life of 46 bars."""
SEASON = 0.35
"""Half the swing of volatility within a day, highest at 15:00 UTC."""
VOLUME_NOISE = 0.25
"""Standard deviation of log volume that has no other cause."""

HORIZONS_BARS = (1, 6, 24, 96)
_YEAR_MS = 365 * DAY_MS
_PEAK_MS = 15 * DAY_MS // 24


class SimulatedSource:
    """The simulated exchange, or with `noise_only` its twin in which nothing can be forecast.

    Any symbol is listed; its name seeds what is its own. A bar is the same however it is fetched: it depends on the
    seed, the symbol, the interval and its time, and on numpy keeping its streams of random numbers.
    """

    local = True
    readjusts = False

    def __init__(self, *, noise_only: bool = False, seed: int = 0, now_ms: int | None = None) -> None:
        self.name = "simulated-noise" if noise_only else "simulated"
        self._kappa = 0.0 if noise_only else KAPPA
        self._seed = seed
        self._now_ms = now_ms

    def history(self, symbol: str, interval: Interval) -> Span:  # noqa: ARG002
        """Return from the first bar of the market to the end of the last one that has closed."""
        first_ms = _opening(interval, 0)
        now_ms = time.time_ns() // 1_000_000 if self._now_ms is None else self._now_ms
        return Span(first_ms, max(first_ms, interval.floor(now_ms)))

    def pages(self, symbol: str, interval: Interval, span: Span) -> Iterator[Page]:
        """Yield the closed bars of `span`, newest page first."""
        span &= self.history(symbol, interval)
        if not span:
            return
        first, end = _numbers(interval, np.array([span.start_ms, span.end_ms])).tolist()
        bars = self._bars(symbol, interval, end)
        for stop in range(end, first, -PAGE_BARS):
            start = max(first, stop - PAGE_BARS)
            answered = Span(_opening(interval, start), _opening(interval, stop))
            yield Page(bars.iloc[start:stop].reset_index(drop=True), answered)

    def abandon(self) -> None:
        """Do nothing: no call takes long."""

    def best_forecast(
        self, symbol: str, interval: Interval, timestamps: NDArray[np.int64], horizon_bars: int
    ) -> Floats:
        """Return the expected log return over the `horizon_bars` after each bar, given all bars up to it: (T,).

        No forecast has a higher correlation with what happens. timestamps: (T,) opening times, from GENESIS_MS on.
        """
        numbers = _numbers(interval, timestamps)
        signs, bars_left = self._regime(interval, numbers)
        drifting: Floats = (np.minimum(horizon_bars, bars_left) - np.maximum(bars_left - DRIFT_BARS, 0)).clip(0)
        return -signs * self._kappa * _volatility(symbol, interval) * drifting

    def truth(self, symbol: str, interval: Interval) -> dict[str, Any]:
        """Return what can be forecast and how well at best, ready for JSON.

        `best_information_coefficient` holds the correlation of `best_forecast` with the log return over 1, 6, 24 and
        96 bars, of the process: a sample's differs by its sampling error.
        """
        best = {str(bars): best_information_coefficient(interval, bars, self._kappa) for bars in HORIZONS_BARS}
        return {
            "source": self.name,
            "seed": self._seed,
            "symbol": symbol,
            "interval": interval.code,
            "rule": (
                f"after a bar of {JUMP:g} sigma and {JUMP_VOLUME:g} times the volume, in all symbols at once, "
                f"the last {DRIFT_BARS} of the next {REGIME_BARS} bars drift by {self._kappa:g} sigma against its move"
            ),
            "sigma": _volatility(symbol, interval),
            "kappa": self._kappa,
            "regime_bars": REGIME_BARS,
            "drift_bars": DRIFT_BARS,
            "slot_bars": SLOT_BARS,
            "best_information_coefficient": best,
        }

    def _bars(self, symbol: str, interval: Interval, num_bars: int) -> Bars:
        """Return the first `num_bars` bars of the market."""
        numbers = np.arange(num_bars)
        timestamps = _openings(interval, numbers)
        volatility = _volatility(symbol, interval)

        def mixed(component: str, draw: Callable[[np.random.Generator, int], Floats]) -> Floats:
            market = draw(self._random(interval, "market", component), num_bars)
            own = draw(self._random(interval, f"symbol {symbol}", component), num_bars)
            return math.sqrt(CORRELATION) * market + math.sqrt(1 - CORRELATION) * own

        season = _season(interval, timestamps)
        x = LOG_VOLATILITY * mixed("volatility", _autoregression)
        sigma = volatility * season * np.exp(x - LOG_VOLATILITY**2)
        shocks = mixed("shock", _student_t)
        signs, bars_left = self._regime(interval, numbers)
        jumps = np.where(bars_left == REGIME_BARS, signs, 0.0)
        drifts_next = np.where(bars_left <= DRIFT_BARS, signs, 0.0)
        drift = -self._kappa * volatility * np.concatenate([[0.0], drifts_next[:-1]])
        moves = sigma * (shocks + JUMP * jumps) + drift

        own = self._random(interval, f"symbol {symbol}", "range and volume").standard_normal((num_bars, 5))
        first_price = 10 ** (4 * _trait(symbol, "price"))
        prices = first_price * np.exp(np.concatenate([[0.0], np.cumsum(moves)]))
        open_, close = prices[:-1], prices[1:]
        above, below = _highest(moves, sigma, own[:, :2]), _highest(-moves, sigma, own[:, 2:4])
        high = np.maximum(open_ * np.exp(above), np.maximum(open_, close))
        low = np.minimum(open_ * np.exp(-below), np.minimum(open_, close))
        log_volume = x + VOLUME_NOISE * own[:, 4] + 0.5 * np.log1p(np.abs(shocks)) + np.log(season)
        volume = 10 ** (2 + 3 * _trait(symbol, "volume")) * np.exp(log_volume) * np.where(jumps != 0, JUMP_VOLUME, 1.0)
        return pd.DataFrame(
            {"timestamp": timestamps, "open": open_, "high": high, "low": low, "close": close, "volume": volume}
        )

    def _regime(self, interval: Interval, numbers: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
        """Return the sign of the regime that the bar after each belongs to (0: none), and how many bars of it are left.

        At the announcement itself all REGIME_BARS are left.
        """
        num_slots = int(numbers.max(initial=0)) // SLOT_BARS + 1
        places, coins = self._random(interval, "market", "announcements").random((num_slots, 2)).T
        announced = np.arange(num_slots) * SLOT_BARS + (places * SPREAD_BARS).astype(np.int64)
        last = np.searchsorted(announced, numbers, side="right") - 1
        bars_left = np.where(last >= 0, announced[last] + REGIME_BARS - numbers, 0).clip(0)
        return np.where(bars_left > 0, np.where(coins[last] < 0.5, -1.0, 1.0), 0.0), bars_left

    def _random(self, interval: Interval, owner: str, component: str) -> np.random.Generator:
        """Return one stream of numbers: more of them begin with the same ones."""
        return _stream(f"{self._seed}/{interval.code}/{owner}/{component}")


def best_information_coefficient(interval: Interval, horizon_bars: int, kappa: float = KAPPA) -> float:
    """Return the correlation of the expected with the actual log return over a horizon, from the process itself.

    An announcement at bar p adds to the return of bars 1 … h: its jump if 1 ≤ p ≤ h, against it the drift of those of
    them that are among the last DRIFT_BARS of p + 1 … p + REGIME_BARS. Signs are independent, so variances add, over
    every p there can be at a rate of one in SLOT_BARS. All in units of σ̄.
    """
    positions = np.arange(-REGIME_BARS, horizon_bars + 1)
    last = np.minimum(positions + REGIME_BARS, horizon_bars)
    first = np.maximum(positions + REGIME_BARS - DRIFT_BARS, 0)
    drift = kappa * np.maximum(last - first, 0)
    jumps = JUMP * (positions > 0)
    expected = np.where(positions > 0, 0.0, drift)
    day = np.arange(0, DAY_MS, min(interval.milliseconds, DAY_MS))
    mean_sigma = _season(interval, day).mean() * np.exp(-(LOG_VOLATILITY**2) / 2)
    by_announcements = (jumps**2 + drift**2 - 2 * mean_sigma * jumps * drift).sum() / SLOT_BARS
    return float(np.sqrt((expected**2).sum() / SLOT_BARS / (horizon_bars + by_announcements)))


def _student_t(random: np.random.Generator, num_bars: int) -> Floats:
    return random.standard_t(STUDENT_T_DEGREES, num_bars) * math.sqrt(1 - 2 / STUDENT_T_DEGREES)


def _autoregression(random: np.random.Generator, num_bars: int) -> Floats:
    """Return y_t = φ · y_t−1 + √(1 − φ²) · z_t, which begins where it would be after a long time: unit variance."""
    phi = VOLATILITY_PERSISTENCE
    z = random.standard_normal(num_bars)
    z[1:] *= math.sqrt((1 + phi) / (1 - phi))  # the average below multiplies by 1 − φ
    return pd.Series(z).ewm(alpha=1 - phi, adjust=False).mean().to_numpy()


def _highest(moves: Floats, sigma: Floats, normals: Floats) -> Floats:
    """Return how far above its start a random walk was that ended at `moves`: the maximum of a Brownian bridge.

    Glasserman (2003), Monte Carlo Methods in Financial Engineering, section 6.4. normals: (T, 2), whose squares' half
    sum is exponential.
    """
    square_sums: Floats = np.square(normals).sum(axis=1)
    return (moves + np.sqrt(moves**2 + sigma**2 * square_sums)) / 2


def _season(interval: Interval, timestamps: NDArray[np.int64]) -> Floats:
    """Return the day's factor of volatility at each bar; its mean square over the bars of a day is one."""
    if interval.milliseconds >= DAY_MS:
        return np.ones(len(timestamps))

    def factor(openings: NDArray[np.int64]) -> Floats:
        middle = openings.astype(np.float64) + interval.milliseconds / 2
        return 1 + SEASON * np.cos(2 * np.pi * (middle - _PEAK_MS) / DAY_MS)

    day = np.arange(0, DAY_MS, interval.milliseconds)
    return factor(timestamps % DAY_MS) / math.sqrt(np.square(factor(day)).mean())


def _volatility(symbol: str, interval: Interval) -> float:
    """Return σ̄: 60 to 110 % a year, per bar."""
    return float((0.6 + 0.5 * _trait(symbol, "volatility")) * math.sqrt(interval.milliseconds / _YEAR_MS))


def _trait(symbol: str, name: str) -> float:
    """Return what a symbol's name alone decides, in [0, 1)."""
    return _stream(f"{symbol}/{name}").random()


def _stream(name: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest(), "big"))


def _openings(interval: Interval, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the opening times of bars by their number since the market opened."""
    return interval.opening(_first_index(interval) + numbers)


def _opening(interval: Interval, number: int) -> int:
    return int(_openings(interval, np.array([number]))[0])


def _numbers(interval: Interval, timestamps: NDArray[np.int64]) -> NDArray[np.int64]:
    return interval.index(timestamps) - _first_index(interval)


def _first_index(interval: Interval) -> int:
    """Return the interval's index of the first bar that opens at GENESIS_MS or later."""
    return int(interval.index(np.array([GENESIS_MS - 1]))[0]) + 1
