"""Markets that are known exactly, for a model to be trained on: with a rule to be found, or with nothing to be found.

Two of them are the simulated exchange and its noise-only twin. Their rule takes a memory of hundreds of bars and
minutes of training. The others are made here, with a rule that the newest row tells, for trainings of seconds and for
order books, which that exchange has not:

bars    a log return goes on: r_t+1 = φ · r_t + (1 − φ) · σ · ε, where φ halves it within the horizon
books   so does the side of the larger queue: the mid moves by a step towards it, then it changes sides with a
        probability that halves its expectation within the horizon; in the twin the queues follow another market's sides

Over any horizon the expected move is the newest return, or side, times a constant, exactly, for both are Markov.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.config import DirectionTarget, Experiment
from flashtrader.interval import Interval
from flashtrader.market.books import book_table
from flashtrader.market.fetch import fetch
from flashtrader.market.sources.simulated import GENESIS_MS, SimulatedSource
from flashtrader.market.store import Store
from flashtrader.verification.histories import store_tables

BEST_TOLD_BY_THE_NEWEST = 4
"""Bars, at least, within which the rule halves: over a horizon of one it would be half gone before it is traded."""
LONG_RUN_VOLATILITY = 0.01
"""Of a bar's log return, as a walk of many bars shows it."""
SNAPSHOT_MS = 100


@dataclass(frozen=True, eq=False)
class Market:
    """A market in a store, and what can at best be forecast of it."""

    experiment: Experiment
    """The experiment on this market."""
    data_dir: Path
    best: pd.DataFrame
    """Index `time`, a column per symbol: a forecast with which none correlates better; constant where none is."""


def simulated_market(experiment: Experiment, data_dir: Path, num_bars: int, *, noise_only: bool) -> Market:
    """Fetch bars of the simulated exchange, or its twin, as `flashtrader fetch` does."""
    interval, horizon = Interval(experiment.data.interval), experiment.panel.target.horizon_bars
    openings = _openings(interval, num_bars + 1)
    source = SimulatedSource(noise_only=noise_only, now_ms=int(openings[-1]))
    fetch(source, Store(data_dir), experiment.data.symbols, interval, end_ms=int(openings[-1]))
    data = {"symbols": experiment.data.symbols, "interval": interval.code, "source": "simulated"}
    on_it = Experiment.model_validate(experiment.model_dump() | {"data": data | {"noise_only": noise_only}})
    best = {symbol: source.best_forecast(symbol, interval, openings[:-1], horizon) for symbol in on_it.data.symbols}
    return Market(on_it, data_dir, _table(openings[:-1], best))


def trending_market(experiment: Experiment, data_dir: Path, num_bars: int) -> Market:
    """Store bars whose returns go on, where the experiment looks for its own."""
    interval, symbols = Interval(experiment.data.interval), experiment.data.symbols
    openings = _openings(interval, num_bars)
    persistence = _persistence(experiment)
    bars, best = {}, {}
    for symbol, generator in zip(symbols, _generators(symbols), strict=True):
        bars[symbol] = _trending_bars(openings, persistence, generator)
        best[symbol] = np.log(bars[symbol]["close"].to_numpy() / bars[symbol]["open"].to_numpy())
    store_tables(experiment.data, bars, data_dir)
    return Market(experiment, data_dir, _table(openings, best))


def leaning_book(experiment: Experiment, data_dir: Path, num_rows: int, *, noise_only: bool) -> Market:
    """Store a book whose mid follows the larger queue, or in the twin an order of its own, where a run looks for it."""
    (symbol,), target = experiment.data.symbols, experiment.panel.target
    assert isinstance(target, DirectionTarget), "the schema gives books no other"
    flips = (1 - _persistence(experiment)) / 2
    moves, queues, sizes = (np.random.default_rng([7, part]) for part in range(3))
    side_T = _sides(num_rows, 0.5 if noise_only else flips, moves)
    shown_T = _sides(num_rows, flips, queues) if noise_only else side_T

    step = 2e-4 * (1 + target.threshold_bps)  # a single one is no longer flat
    log_mid_T = step * np.concatenate([[0.0], side_T[:-1]]).cumsum()
    levels = experiment.data.levels
    outwards_L = step * (np.arange(levels) + 1) / (2 * levels + 2)
    values_TL4 = np.empty((num_rows, levels, 4))
    for column, outwards in ((0, 1), (2, -1)):
        values_TL4[..., column] = 100 * np.exp(log_mid_T[:, None] + outwards * outwards_L)
        values_TL4[..., column + 1] = sizes.lognormal(sigma=0.1, size=(num_rows, levels))
        values_TL4[:, 0, column + 1] *= np.exp(-outwards * shown_T)
    timestamps = GENESIS_MS + SNAPSHOT_MS * np.arange(num_rows)
    store_tables(experiment.data, {symbol: book_table(timestamps, values_TL4)}, data_dir)
    return Market(experiment, data_dir, _table(timestamps, {symbol: np.zeros(num_rows) if noise_only else side_T}))


def _persistence(experiment: Experiment) -> float:
    """Return what is left after a row of a rule that halves within the horizon, or a few rows."""
    return float(0.5 ** (1 / max(BEST_TOLD_BY_THE_NEWEST, experiment.panel.target.horizon_bars)))


def _trending_bars(openings: NDArray[np.int64], persistence: float, generator: np.random.Generator) -> pd.DataFrame:
    num_bars = len(openings)
    shocks = pd.Series(LONG_RUN_VOLATILITY * generator.standard_normal(num_bars))
    moves = shocks.ewm(alpha=1 - persistence, adjust=False).mean().to_numpy()  # φ · r + (1 − φ) · shock
    prices = 100 * np.exp(np.concatenate([[0.0], moves.cumsum()]))
    open_, close = prices[:-1], prices[1:]
    above, below = np.exp(moves.std() * np.abs(generator.standard_normal((2, num_bars))))
    return pd.DataFrame(
        {
            "timestamp": openings,
            "open": open_,
            "high": np.maximum(open_, close) * above,
            "low": np.minimum(open_, close) / below,
            "close": close,
            "volume": generator.lognormal(sigma=0.5, size=num_bars),
        }
    )


def _sides(num_rows: int, flip_probability: float, generator: np.random.Generator) -> Floats:
    """Return a side, 1 or −1, that changes from row to row with a probability (T,)."""
    changes: Floats = np.where(generator.random(num_rows) < flip_probability, -1.0, 1.0)
    return np.asarray(changes.cumprod())


def _generators(symbols: Sequence[str]) -> list[np.random.Generator]:
    return [np.random.default_rng([11, number]) for number in range(len(symbols))]


def _openings(interval: Interval, num_bars: int) -> NDArray[np.int64]:
    """Return the opening times of the first bars of the simulated exchange."""
    first = int(interval.index(np.array([GENESIS_MS - 1]))[0]) + 1
    return interval.opening(first + np.arange(num_bars))


def _table(timestamps: NDArray[np.int64], columns: Mapping[str, Floats]) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.to_datetime(timestamps, unit="ms", utc=True).rename("time"))
