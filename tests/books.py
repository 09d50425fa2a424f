"""Made-up order books for tests of what stands on them."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flashtrader.market.books import book_table

STEP_MS = 100
FIRST_MS = 1_700_000_000_000


def book_of(mid_T: NDArray[np.int64], sizes_T2L: NDArray[np.float64], breaks: tuple[int, ...] = ()) -> pd.DataFrame:
    """Return snapshots of 100 ms with levels 1, 2, … from the mid; sizes of bids, then of asks, the best first.

    A gap is marked before each row of `breaks`.
    """
    rows, _, levels = sizes_T2L.shape
    offset_L = np.arange(1, levels + 1)
    values_TL4 = np.empty((rows, levels, 4))
    values_TL4[..., 0], values_TL4[..., 2] = mid_T[:, None] + offset_L, mid_T[:, None] - offset_L
    values_TL4[..., 1], values_TL4[..., 3] = sizes_T2L[:, 1], sizes_T2L[:, 0]
    return book_table(FIRST_MS + STEP_MS * np.arange(rows), values_TL4, np.isin(np.arange(rows), (0, *breaks)))


def random_book(num_rows: int, levels: int = 3, seed: int = 0, breaks: tuple[int, ...] = ()) -> pd.DataFrame:
    """Return snapshots of a random walk; a longer one of the same seed begins with the same snapshots."""
    generator = np.random.default_rng(seed)
    mid_T = 10_000 + generator.choice([-1, 0, 0, 1], size=num_rows).cumsum()
    return book_of(mid_T, np.random.default_rng([seed, 1]).lognormal(size=(num_rows, 2, levels)), breaks)


def leading_book(num_rows: int, levels: int = 2, seed: int = 0) -> pd.DataFrame:
    """Return snapshots with a rule: two later, the mid goes to the side whose best level is larger, or stays.

    So the move over two snapshots hangs on the imbalance of now and of the snapshot before, and on nothing else.
    """
    generator = np.random.default_rng(seed)
    larger_T = generator.choice([-1, 0, 1], size=num_rows)
    sizes_T2L = generator.lognormal(sigma=0.1, size=(num_rows, 2, levels))
    sizes_T2L[:, 0, 0] *= np.exp(larger_T)
    change_T = np.zeros(num_rows, np.int64)
    change_T[2:] = larger_T[:-2]
    return book_of(10_000 + change_T.cumsum(), sizes_T2L)
