"""Scales of features and targets, from the training rows alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flashtrader.errors import DataError
from flashtrader.market.spans import iso_time
from flashtrader.panel.panel import Panel
from flashtrader.panel.splits import Rows

_CHUNK_VALUES = 1 << 18


@dataclass(frozen=True, eq=False)
class Scaler:
    """Means and standard deviations, float32; the model holds them, and applies them batch by batch."""

    feature_mean: NDArray[np.float32]
    """(E, F)"""
    feature_std: NDArray[np.float32]
    """(E, F) 1 where the feature is constant, which scales it to 0."""
    target_std: NDArray[np.float32]
    """(K,) Targets keep their zero: no return stays no return. One that is constant takes the least of the others', for
    what never moved moves little; 1 where all are."""


def fit_scaler(panel: Panel, rows: Rows) -> Scaler:
    """Return the scaler of these rows; unknown values don't count.

    Raises DataError when an asset has no bar with all its features, or no target, in the rows.
    """
    part = slice(rows.start, rows.stop)
    mask, targets = panel.mask[part], panel.targets[part]
    known_targets = np.isfinite(targets)
    _require(mask, panel.entity_names or panel.symbols, "bar with every feature", panel, rows)
    _require(known_targets, panel.target_names, "known target", panel, rows)
    feature_mean, feature_std = _mean_and_std(panel.values[part], mask[..., None])
    _, target_std = _mean_and_std(targets, known_targets)
    return Scaler(feature_mean, np.where(feature_std > 0, feature_std, np.float32(1)), _with_a_unit(target_std))


def _with_a_unit(target_std: NDArray[np.float32]) -> NDArray[np.float32]:
    least = target_std.min(where=target_std > 0, initial=np.inf)
    return np.where(target_std > 0, target_std, least if np.isfinite(least) else 1).astype(np.float32)


def _mean_and_std(
    values: NDArray[np.float32], known: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return both of values (T, ...) over T, in two passes of float64 sums over chunks of rows; 0 for a constant."""
    size = max(1, _CHUNK_VALUES // values[0].size)
    chunks = [slice(start, start + size) for start in range(0, len(values), size)]
    count = known.sum(axis=0)
    mean = sum(values[rows].sum(axis=0, dtype=np.float64, where=known[rows]) for rows in chunks) / count
    squares = sum(np.square(values[rows] - mean).sum(axis=0, where=known[rows]) for rows in chunks)
    std = np.sqrt(squares / count)
    constant = std <= np.finfo(np.float32).eps * np.abs(mean)
    return mean.astype(np.float32), np.where(constant, 0.0, std).astype(np.float32)


def _require(known: NDArray[np.bool_], names: tuple[str, ...], what: str, panel: Panel, rows: Rows) -> None:
    nowhere = [name for column, name in enumerate(names) if not known[:, column].any()]
    if nowhere:
        first, last = (iso_time(int(panel.timestamps[row])) for row in (rows.start, rows.stop - 1))
        raise DataError(
            f"{', '.join(nowhere)}: no {what} in the training part ({first} to {last}); fetch older bars, "
            "move split.validation, or leave it out"
        )
