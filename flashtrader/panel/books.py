"""Order-book snapshots of one market → a Panel whose entities are the levels of both sides.

A row is a snapshot, known at its own time; horizons count snapshots.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.config import DirectionTarget, PanelConfig
from flashtrader.errors import DataError
from flashtrader.market.books import Books, book_values, num_levels
from flashtrader.panel.panel import Panel

FEATURES = ("offset_bps", "log_size", "mid_change_bps")
"""Of every level: its price from the mid; the logarithm of its size, so that a unit of size means nothing; and, the
same for all, how far the mid came since the last snapshot, which offsets alone would hide. Offsets are in basis points
and not in spreads: a liquid market's spread is one tick until it is thousands for a moment, and would take the whole
book's scale along."""


class Quotes(NamedTuple):
    """The best prices (T,) of snapshots."""

    bid: Floats
    ask: Floats

    @property
    def mid(self) -> Floats:
        """Halfway between them."""
        return (self.bid + self.ask) / 2


def quotes(book: Books) -> Quotes:
    """Return the best prices of every snapshot."""
    return Quotes(book["bid_price_1"].to_numpy(), book["ask_price_1"].to_numpy())


def level_names(levels: int) -> tuple[str, ...]:
    """Return the names of the entities, by rising price: bid L … bid 1, ask 1 … ask L."""
    depths = range(1, levels + 1)
    return (*(f"bid {depth}" for depth in reversed(depths)), *(f"ask {depth}" for depth in depths))


def build_book_panel(books: Mapping[str, Books], config: PanelConfig) -> Panel:
    """Return the panel of one market's snapshots: 2 L entities with `FEATURES`, and the direction of the mid.

    A level that is not there is masked; so is the whole first snapshot of a run, whose change of the mid nobody knows.
    Raises DataError when there are no snapshots, or when a level is never there.
    """
    ((symbol, book),) = books.items()
    if book.empty:
        raise DataError(
            f"{symbol}: no snapshots in the period asked for; fetch them, or change data.start and data.end"
        )
    target = config.target
    assert isinstance(target, DirectionTarget), "the schema gives family orderbook no other"
    levels = num_levels(book)
    starts, mid = book_run_starts(book, config.max_gap_ms), quotes(book).mid
    price_TE, size_TE = _by_rising_price(book)
    mid_change_bps = -mid_moves_bps(mid, starts, horizon=-1)
    known_TE = (size_TE > 0) & np.isfinite(mid_change_bps)[:, None]
    if not known_TE.any(axis=0).all():
        missing = level_names(levels)[int(np.argmin(known_TE.any(axis=0)))]
        raise DataError(
            f"{symbol}: {missing} is in none of the {len(book)} snapshots that follow another; lower data.levels, "
            "raise panel.max_gap_ms, or fetch more"
        )
    values = np.zeros((len(book), 2 * levels, len(FEATURES)), np.float32)
    np.copyto(values[..., 0], 1e4 * (price_TE / mid[:, None] - 1), where=known_TE, casting="same_kind")
    values[known_TE, 1] = np.log(size_TE[known_TE])
    np.copyto(values[..., 2], mid_change_bps[:, None], where=known_TE, casting="same_kind")
    outcomes = directions(mid_moves_bps(mid, starts, target.horizon_bars), target.threshold_bps)
    return Panel(
        timestamps=book["timestamp"].to_numpy(),
        interval=None,
        symbols=(symbol,),
        entity_names=level_names(levels),
        feature_names=FEATURES,
        values=values,
        mask=known_TE,
        targets=outcomes[:, None].astype(np.float32),
        target_names=(symbol,),
        target_entities=np.array([levels - 1]),  # the best bid: with the best ask it is there in every snapshot
        symbol_targets=np.array([0]),
        run_starts=starts,
    )


def book_run_starts(book: Books, max_gap_ms: int) -> NDArray[np.int64]:
    """Return the rows (R,) at which a run begins: the first, those after a mark, and those after a long silence."""
    begins = book["gap_before"].to_numpy(np.bool_).copy()
    begins[1:] |= np.diff(book["timestamp"].to_numpy()) > max_gap_ms
    begins[0] = True
    return np.flatnonzero(begins)


def shifted(values_T: Floats, run_starts: NDArray[np.int64], rows: int) -> Floats:
    """Return for every row the value so many rows later in its run, or earlier where negative; NaN past either end."""
    num_rows = len(values_T)
    run_T = np.searchsorted(run_starts, np.arange(num_rows), side="right")
    there = np.arange(num_rows) + rows
    inside = (there >= 0) & (there < num_rows)
    inside[inside] = run_T[there[inside]] == run_T[inside]
    moved = np.full(num_rows, np.nan)
    moved[inside] = values_T[there[inside]]
    return moved


def mid_moves_bps(mid: Floats, run_starts: NDArray[np.int64], horizon: int) -> Floats:
    """Return how far the mid goes from each snapshot to the one `horizon` later (T,), or back if negative.

    NaN past either end of the run.
    """
    return 1e4 * (shifted(mid, run_starts, horizon) / mid - 1)


def directions(moves_bps: Floats, threshold_bps: float) -> Floats:
    """Return 1 for up, −1 for down, 0 for a move of at most the threshold either way; NaN stays."""
    return np.where(np.abs(moves_bps) > threshold_bps, np.sign(moves_bps), 0 * moves_bps)


def _by_rising_price(book: Books) -> tuple[Floats, Floats]:
    """Return prices and sizes (T, 2 L) of the entities, in their order."""
    ask_price, ask_size, bid_price, bid_size = book_values(book).T
    price = np.concatenate([bid_price[::-1], ask_price]).T
    return price, np.concatenate([bid_size[::-1], ask_size]).T
