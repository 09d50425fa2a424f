"""Attacks that replace the future, or the past, and look whether anything moves that must not.

Each goes the way that users go: into a store, through loading, forecasting and the backtest. Nothing is compared
within a tolerance: one different bit fails.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flashtrader.backtest.experiment import backtest_file, backtest_run
from flashtrader.backtest.result import BacktestResult
from flashtrader.config import Experiment
from flashtrader.forecasting.forecast import Forecasts, answer_run, forecast_run, keep_forecasts, tabulate
from flashtrader.market.bars import PRICES
from flashtrader.market.spans import iso_time
from flashtrader.panel.loading import load_panel
from flashtrader.panel.panel import Panel
from flashtrader.run import Run
from flashtrader.verification.checks import Check, Subject
from flashtrader.verification.histories import (
    Tables,
    between,
    clock_of,
    copy_of,
    cut_rows,
    damaged,
    rows_needed,
    store_funding,
    store_tables,
    stored_tables,
    with_other_future,
    with_other_past,
)

_RANDOM_CUTS, _RANDOM_CUTS_FULL = 3, 40
_PAST_CUTS = (0.2, 0.5, 0.9)
_FILL_CUTS = (0.15, 0.5, 0.9)


@dataclass(frozen=True, eq=False)
class Trace:
    """What the pipeline made, row by row."""

    known_ms: NDArray[np.int64]
    """(N,) opening time of the bar at whose close each row is decided."""
    columns: tuple[NDArray[np.generic], ...]
    """Each (N, …)."""

    def until(self, cut_ms: int) -> bytes:
        """Return the bits of all rows at or before the cut."""
        past = self.known_ms <= cut_ms
        return b"".join(array[past].tobytes() for array in (self.known_ms, *self.columns))

    def first_change(self, other: "Trace", cut_ms: int) -> str | None:
        """Return the time of the first row at or before the cut that differs, None if none does."""
        if self.until(cut_ms) == other.until(cut_ms):
            return None
        times = np.union1d(self.known_ms, other.known_ms)
        wrong = (int(time) for time in times[times <= cut_ms] if self._row(int(time)) != other._row(int(time)))
        return iso_time(next(wrong))

    def _row(self, time_ms: int) -> bytes | None:
        row = int(np.searchsorted(self.known_ms, time_ms))
        if row == len(self.known_ms) or self.known_ms[row] != time_ms:
            return None
        return b"".join(array[row].tobytes() for array in self.columns)


def future_noise(subject: Subject) -> Iterator[Check]:
    """Replace every input after each of many cut bars; all up to the cut must stay as it was, bit for bit."""
    traded = subject.experiment.data.kind == "bars"
    changes: dict[str, str] = {}
    cuts = rows = 0
    moved: set[str] = set()
    names = ("features", "forecasts", *(("weights", "trades") if traded else ()))
    for stretch in _stretches(subject):
        generator = np.random.default_rng([0, cuts])
        run, tables = stretch.run, stretch.tables
        before = _observe(run, _stored(subject, run.experiment, tables))
        clock = clock_of(tables)
        num_random = _RANDOM_CUTS_FULL if subject.full else _RANDOM_CUTS
        for row in cut_rows(tables, run.experiment, stretch.boundaries_ms, generator, num_random):
            cut_ms = int(clock[row])
            other = with_other_future(tables, cut_ms, generator)
            after = _observe(run, _stored(subject, run.experiment, other, cut_ms))
            cuts, rows = cuts + 1, rows + row + 1
            for name in names:
                first = before[name].first_change(after[name], cut_ms)
                if first is not None:
                    changes[name] = f"with other bars after {iso_time(cut_ms)}, they change at {first}"
                if before[name].until(int(clock[-1])) != after[name].until(int(clock[-1])):
                    moved.add(name)
            if changes:
                break
        if changes:
            break
    what = {
        "features": "values and masks of the panel",
        "forecasts": "the model's answers and the plain models'",
        "weights": "target weights of the policy",
        "trades": "fills, equity and costs of the backtest",
    }
    for name in names:
        reason = changes.get(name, "" if name in moved else "they did not change after the cut either: void")
        yield Check(
            name=f"future noise: {name}",
            tried=(
                f"replaced every bar after each of {cuts} cut bars by another market's, with holes; compared "
                f"{what[name]} up to the cut, bit for bit"
            ),
            outcome="failed" if reason else "passed",
            reason=reason,
            figures={"cuts": cuts, "rows": rows},
        )


def past_noise(subject: Subject) -> Iterator[Check]:
    """Replace everything before the close of a decision's bar; the prices at which it is filled must stay."""
    name = "past noise: fills"
    experiment = subject.experiment
    if experiment.data.kind == "books":
        yield Check(name, "a backtest's fill prices", "skipped", "an order book's forecasts are not traded")
        return
    stretch = next(_stretches(subject))
    tables = stretch.tables
    clock = clock_of(tables)
    generator = np.random.default_rng(1)
    reason, fills = "", 0
    for share in _PAST_CUTS:
        cut_ms = int(clock[int(share * (len(clock) - 2))])
        times = pd.to_datetime(clock[clock >= cut_ms], unit="ms", utc=True).rename("time")
        weights = pd.DataFrame({symbol: generator.uniform(-0.1, 0.1, len(times)) for symbol in tables}, index=times)
        before, after = (
            _traded(subject, weights, experiment, history).prices
            for history in (tables, with_other_past(tables, cut_ms, generator))
        )
        fills += int(np.isfinite(before).sum())
        if before.tobytes() != after.tobytes():
            reason = f"decisions from {iso_time(cut_ms)} on are filled at prices from before that bar's close"
            break
    yield Check(
        name=name,
        tried=(
            f"replaced every price before the close of each of {len(_PAST_CUTS)} decision bars; compared the prices at "
            "which decisions from there on are filled, bit for bit"
        ),
        outcome="failed" if reason else "passed",
        reason=reason,
        figures={"fills": fills},
    )


def fill_noise(subject: Subject) -> Iterator[Check]:
    """Replace everything after the very price at which a decision is filled; what it is filled at and costs must stay.

    Future noise replaces whole bars. It can't tell whether a fill at a bar's open knows of the rest of that bar.
    """
    name = "future noise: fills"
    experiment = subject.experiment
    if experiment.data.kind == "books":
        yield Check(name, "a backtest's fills", "skipped", "an order book's forecasts are not traded")
        return
    tables = next(_stretches(subject)).tables
    clock = clock_of(tables)
    generator = np.random.default_rng(4)
    times = pd.to_datetime(clock, unit="ms", utc=True).rename("time")
    weights = pd.DataFrame({symbol: generator.uniform(-0.1, 0.1, len(times)) for symbol in tables}, index=times)
    before = _money(_traded(subject, weights, experiment, tables))
    reason, fills, void = "", 0, True
    for share in _FILL_CUTS:
        row = int(share * (len(clock) - 2))
        cut_ms, next_ms = int(clock[row]), int(clock[row + 1])
        if experiment.backtest.fill == "next_open":
            known_ms, other = next_ms, _with_other_rest(tables, next_ms, generator)
        else:
            known_ms, other = cut_ms, with_other_future(tables, cut_ms, generator, holes=False)
        after = _money(_traded(subject, weights, experiment, other, known_ms))
        fills += int((before.known_ms <= cut_ms).sum())
        void &= before.until(next_ms) == after.until(next_ms)
        first = before.first_change(after, cut_ms)
        if first is not None:
            reason = f"with other prices after the fill of {iso_time(cut_ms)}, the money changes at {first}"
            break
    if void and not reason:
        reason = "nothing changed after the fill either: void"
    yield Check(
        name=name,
        tried=(
            f"replaced everything after the price at which each of {len(_FILL_CUTS)} decisions is filled, the rest of "
            "that bar too; compared fills, equity and costs up to it, bit for bit"
        ),
        outcome="failed" if reason else "passed",
        reason=reason,
        figures={"rows": fills},
    )


def _with_other_rest(tables: Tables, open_ms: int, generator: np.random.Generator) -> Tables:
    """Return the bars with all after the open at `open_ms` replaced: of that bar the open alone stays."""
    other = with_other_future(tables, open_ms - 1, generator, holes=False)
    for symbol, table in other.items():
        at = table["timestamp"].to_numpy() == open_ms
        opened = tables[symbol].loc[tables[symbol]["timestamp"] == open_ms, "open"].to_numpy()
        scale = opened / table.loc[at, "open"].to_numpy()
        for name in PRICES:  # scaled as a whole, a bar stays valid
            table.loc[at, name] *= scale
        table.loc[at, "open"] = opened
    return other


def _traded(
    subject: Subject, weights: pd.DataFrame, experiment: Experiment, tables: Tables, known_ms: int | None = None
) -> BacktestResult:
    """Return the backtest of weights on a history; funding that is settled after `known_ms` is another."""
    data_dir = _stored(subject, experiment, tables, known_ms)
    path = data_dir / "weights.parquet"
    weights.to_parquet(path)
    return backtest_file(path, experiment, data_dir, are_forecasts=False).result


def _money(result: BacktestResult) -> Trace:
    """Return what each decision was filled at, and what became of the money."""
    money = (result.prices, result.equity, result.cost, result.funding, result.held, result.traded)
    return Trace(result.timestamps, money)


@dataclass(frozen=True, eq=False)
class _Stretch:
    """A damaged piece of a run's history, and a copy of the run whose test part begins with it."""

    run: Run
    tables: Tables
    boundaries_ms: Sequence[int]


def _stretches(subject: Subject) -> Iterator[_Stretch]:
    """Yield the whole history if it is short; else a piece around the test boundary, and in full also at both ends."""
    experiment = subject.experiment
    tables = stored_tables(experiment.data, subject.data_dir)
    clock = clock_of(tables)
    first_common = max(int(np.searchsorted(clock, table["timestamp"].iloc[0])) for table in tables.values())
    manifest = subject.run.read_manifest()
    boundaries = manifest.split
    folds = [fold.test_start_ms for fold in manifest.folds]
    boundaries_ms = (boundaries.validation_start_ms, boundaries.test_start_ms, *folds)
    size = min(rows_needed(experiment), len(clock) - first_common)
    test_row = int(np.searchsorted(clock, boundaries.test_start_ms))
    starts = [min(max(first_common, test_row - 2 * size // 3), len(clock) - size)]
    if subject.full:
        starts += [first_common, len(clock) - size]
    for start in dict.fromkeys(starts):
        piece = between(tables, int(clock[start]), int(clock[start + size - 1]))
        piece = damaged(piece, experiment, np.random.default_rng(start))
        copy = copy_of(subject, int(clock_of(piece)[0]))
        yield _Stretch(copy, piece, boundaries_ms)


def _stored(subject: Subject, experiment: Experiment, tables: Tables, cut_ms: int | None = None) -> Path:
    """Return a new data directory with this history, and with the funding, other rates after a cut, that it charges."""
    data_dir = subject.directory("data")
    store_tables(experiment.data, tables, data_dir)
    if experiment.backtest.funding_rate == "fetched":
        store_funding(experiment.data, subject.data_dir, data_dir, cut_ms)
    return data_dir


def _observe(run: Run, data_dir: Path) -> dict[str, Trace]:
    """Return what users get from a run and a data directory, and remove the directory."""
    experiment = run.experiment
    outputs: tuple[NDArray[np.float32], ...] = ()
    if experiment.plain_family is None and not experiment.has_members:
        answers = answer_run(run, data_dir, "test")
        panel, made, outputs = answers.loaded.panel, tabulate(answers), (answers.outputs_RKP,)
    else:
        panel, made = load_panel(experiment, data_dir).panel, forecast_run(run, data_dir, "test")
    traces = {"features": _features(panel), "forecasts": _forecasts(made, outputs)}
    if experiment.data.kind == "bars":
        keep_forecasts(made)
        traces |= _trades(run, experiment, data_dir, panel.timestamps)
    shutil.rmtree(data_dir)
    return traces


def _features(panel: Panel) -> Trace:
    begins = np.isin(np.arange(len(panel.timestamps)), panel.run_starts)
    return Trace(panel.timestamps, (panel.values, panel.mask, begins))


def _forecasts(made: Forecasts, outputs: tuple[NDArray[np.float32], ...]) -> Trace:
    tables = (made.forecasts, *made.plain.values(), *made.seeds.values())
    return Trace(_times(made.forecasts), (*(table.to_numpy() for table in tables), *outputs))


def _trades(run: Run, experiment: Experiment, data_dir: Path, clock: NDArray[np.int64]) -> dict[str, Trace]:
    result = backtest_run(run, experiment, data_dir).result
    money = _money(result)
    # What a row earned and paid is known when it is filled: with the next open, one bar after its decision.
    later = int(result.config.fill == "next_open")
    known_ms = clock[np.searchsorted(clock, result.timestamps) + later]
    return {
        "weights": Trace(_times(result.weights), (result.weights.to_numpy(),)),
        "trades": replace(money, known_ms=known_ms),
    }


def _times(table: pd.DataFrame) -> NDArray[np.int64]:
    return table.index.as_unit("ms").asi8  # type: ignore[attr-defined, no-any-return]
