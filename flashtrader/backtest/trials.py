"""How many backtests there were: the best of many is lucky, and only a count can say how much.

Every backtest leaves its equity in `trials/` of the runs directory, under a name that is the digest of its returns, so
that the very same backtest, run again or begun with other money, is the same trial. Deleting a run does not undo having
looked at it, and leaves its trials there. Plain models and references are chosen before anything is seen, and are no
trials.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.backtest.metrics import simple_returns
from flashtrader.backtest.result import BacktestResult
from flashtrader.errors import DataError
from flashtrader.files import replacing

_SAME_DECIMALS = 8
"""Of returns that count as the same: other money alone changes their last bits."""


@dataclass(frozen=True)
class Trial:
    """The returns of one backtest."""

    timestamps: NDArray[np.int64]
    """(T,) opening times of the bars at whose fill a return begins, UTC milliseconds."""
    returns: Floats
    """(T,) simple returns of equity."""


def record_trial(result: BacktestResult, runs_dir: Path) -> list[Trial]:
    """Keep a backtest's equity, and return the trials that compete with it, itself included.

    Those are the distinct backtests in the same runs directory of the same symbols and interval whose time overlaps.
    Raises DataError for a damaged trial.
    """
    directory = runs_dir / "trials"
    kind = {"symbols": ",".join(sorted(result.symbols)), "interval": result.interval.code}
    digest = hashlib.sha256(repr(kind).encode())
    digest.update(result.timestamps.tobytes())
    digest.update((simple_returns(result.equity).round(_SAME_DECIMALS) + 0.0).tobytes())  # 0 for −0, too
    path = directory / f"{digest.hexdigest()[:32]}.parquet"
    if not path.is_file():
        table = pd.DataFrame({"timestamp": result.timestamps, "equity": result.equity})
        table.attrs.update(kind)
        with replacing(path) as temporary:
            table.to_parquet(temporary)
    return [
        trial
        for other in sorted(directory.glob("*.parquet"))
        if (trial := _read(other, kind)) is not None and _overlap(trial.timestamps, result.timestamps)
    ]


def _read(path: Path, kind: dict[str, str]) -> Trial | None:
    """Return a trial, or None where it is of another kind."""
    try:
        table = pq.ParquetFile(path).read().to_pandas()  # whose errors don't repeat the path
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged ({error}); delete it, or choose another --runs-dir") from None
    if table.attrs != kind:
        return None
    return Trial(table["timestamp"].to_numpy(np.int64)[:-1], simple_returns(table["equity"].to_numpy(np.float64)))


def _overlap(one: NDArray[np.int64], other: NDArray[np.int64]) -> bool:
    return bool(len(one) and len(other) and one[0] <= other[-1] and other[0] <= one[-1])
