"""Several backtests on one page: curves, figures and verdicts, how sure the differences are, what was changed."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from flashtrader.arrays import Floats
from flashtrader.backtest.bootstrap import block_bars, draw_histories, interval95
from flashtrader.backtest.metrics import max_drawdown, sharpe, simple_returns, total_return
from flashtrader.errors import ConfigError, DataError
from flashtrader.files import read_json, write_text
from flashtrader.interval import CalendarName, Interval
from flashtrader.report.chart import BLUE, OTHERS, Chart, legend, level, line
from flashtrader.report.formats import UNKNOWN, counted, fixed, percent
from flashtrader.report.markup import document, figures, prose, section, spans, table
from flashtrader.report.metric_names import METRIC_NAMES, VERDICTS_AGE
from flashtrader.report.origin import bar_length, date, utc
from flashtrader.report.significance_tables import interval
from flashtrader.report.summaries import Curve, Timestamps, drawdown
from flashtrader.run import Run

_MIN_COMMON_BARS = 30


@dataclass(frozen=True)
class TradedRun:
    """What a run's backtest left: `backtest.json`, and the equity at each of its bars."""

    name: str
    told: Mapping[str, Any]
    timestamps: Timestamps
    """(T,) opening times of the bars, in ms."""
    equity: Floats
    """(T,) after costs."""


@dataclass(frozen=True)
class CommonFigures:
    """A run over the bars that all runs have in common."""

    total_return: float
    sharpe: float
    """Annual; NaN of a flat curve, which counts as 0 in the difference."""
    max_drawdown: float
    difference: float | None
    """Annual Sharpe ratio less the first run's; None of the first, and where too few bars are common."""
    difference_interval: tuple[float, float] | None
    """Of 95 %, by a stationary bootstrap that draws the same bars for all runs."""


@dataclass(frozen=True)
class Comparison:
    """Runs beside each other: the first is what the others are compared with."""

    runs: tuple[TradedRun, ...]
    timestamps: Timestamps
    """Opening times of the bars that all have, at least one, in ms."""
    equity_TR: Floats
    """Equity of each run at these bars."""
    common: tuple[CommonFigures, ...]
    bar_interval: Interval

    def rows(self) -> list[tuple[str, ...]]:
        """Return a row for each run: name, total return, largest drawdown, Sharpe ratio, difference, its interval."""
        return [
            (
                run.name,
                percent(common.total_return, signed=True),
                percent(common.max_drawdown),
                fixed(common.sharpe, 2),
                UNKNOWN if common.difference is None else fixed(common.difference, 2, signed=True),
                UNKNOWN if common.difference_interval is None else interval(common.difference_interval, 2),
            )
            for run, common in zip(self.runs, self.common, strict=True)
        ]

    def summary(self) -> dict[str, Any]:
        """Return what `--json` prints: figures of each run over its own bars and over the common ones."""
        time = pd.to_datetime(self.timestamps, unit="ms", utc=True)
        return {
            "common_period": {"start": time[0].isoformat(), "end": time[-1].isoformat(), "bars": len(time)},
            "runs": [
                {
                    "name": run.name,
                    "verdict": run.told["verdict"],
                    "metrics": run.told["metrics"],
                    "common": asdict(common),
                }
                for run, common in zip(self.runs, self.common, strict=True)
            ],
        }


def read_traded(run: Run) -> TradedRun:
    """Return what the run's backtest left. Raises DataError where it has none, or one that an earlier version wrote."""
    told_path, equity_path = run.path / "backtest.json", run.path / "equity.parquet"
    if not told_path.is_file() or not equity_path.is_file():
        raise DataError(f"{run.path}: no backtest to compare; make it with `flashtrader backtest --run {run.path}`")
    try:
        told = read_json(told_path)
        table = pd.read_parquet(equity_path)
        equity_T = table["equity"].to_numpy(np.float64)
        timestamps = pd.DatetimeIndex(table.index).as_unit("ms").asi8
        whole = isinstance(told["metrics"], dict) and isinstance(told["experiment"], dict)
        dated = "interval" in told["period"] and told["period"]["calendar"] in get_args(CalendarName)
        known = bool(told["verdict"]) and whole and dated and len(equity_T) > 0
    except (DataError, OSError, ValueError, KeyError, TypeError, AttributeError):
        known = False
    if not known:
        raise DataError(f"{told_path}: not whole; make it again with `flashtrader backtest --run {run.path}`")
    return TradedRun(run.name, told, timestamps, equity_T)


def compare_runs(runs: Sequence[TradedRun], seed: int = 0) -> Comparison:
    """Return the runs beside each other, over the bars that all of them have.

    seed: of the bootstrap. Raises ConfigError for fewer than two runs, one named twice, or bars of different intervals,
    and DataError where no bar is common.
    """
    if len(runs) < 2:
        raise ConfigError("--compare: give two runs or more")
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise ConfigError(f"--compare: {max(names, key=names.count)} is there more than once")
    codes = {str(run.told["period"]["interval"]) for run in runs}
    if len(codes) > 1:
        raise ConfigError(f"--compare: runs of one interval only, not of {' and '.join(sorted(codes))}")
    bar_interval = Interval.parse(codes.pop())
    shared = runs[0].timestamps
    for run in runs[1:]:
        shared = np.intersect1d(shared, run.timestamps, assume_unique=True)
    if not len(shared):
        periods = "; ".join(f"{run.name} {_period(run.timestamps)}" for run in runs)
        raise DataError(f"--compare: no bar is common to all of these runs: {periods}")
    equity_TR = np.column_stack([run.equity[np.searchsorted(run.timestamps, shared)] for run in runs])
    per_year = bar_interval.bars_per_year(runs[0].told["period"]["calendar"])
    return Comparison(tuple(runs), shared, equity_TR, _common_figures(equity_TR, per_year, seed), bar_interval)


def _common_figures(equity_TR: Floats, per_year: float, seed: int) -> tuple[CommonFigures, ...]:
    returns_TR = np.column_stack([simple_returns(equity_T) for equity_T in equity_TR.T])
    ratios = [sharpe(returns_T, per_year) for returns_T in returns_TR.T]
    drawn_HR = None
    if len(returns_TR) >= _MIN_COMMON_BARS and np.isfinite(ratios).any():
        block = max(block_bars(returns_T) for returns_T in returns_TR.T)
        drawn = draw_histories(returns_TR, block, at_P=np.empty(0, np.int64), seed=seed)
        drawn_HR = drawn.sharpe_HC * math.sqrt(per_year)
    figures = []
    for place, equity_T in enumerate(equity_TR.T):
        difference, bounds = None, None
        if place and drawn_HR is not None:
            difference = float(np.nan_to_num(ratios[place]) - np.nan_to_num(ratios[0]))
            bounds = interval95(drawn_HR[:, place] - drawn_HR[:, 0])
        figures.append(CommonFigures(total_return(equity_T), ratios[place], max_drawdown(equity_T), difference, bounds))
    return tuple(figures)


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write the page to `path`, in one step; the same comparison gives the same bytes."""
    runs, timestamps = comparison.runs, comparison.timestamps
    first, last = utc(timestamps[0]), utc(timestamps[-1])
    bars = f"{counted(len(timestamps), 'bar')} in common, {first} to {last} · {bar_length(comparison.bar_interval)}"
    header = (
        f'<p class="kind">flashtrader comparison</p>\n<h1>{escape(", ".join(run.name for run in runs))}</h1>\n'
        f'<p class="period">{escape(bars)}</p>\n'
    )
    body = _verdicts(runs) + _course(comparison) + _figures(runs) + _changes(runs)
    write_text(path, document("Comparison · flashtrader backtest", header, body))


def _verdicts(runs: Sequence[TradedRun]) -> str:
    verdicts = "".join(
        f'<div><dt>{escape(run.name)}</dt><dd class="verdict">{prose(str(run.told["verdict"]))}</dd></div>\n'
        for run in runs
    )
    note = f"{VERDICTS_AGE.capitalize()}."
    return section("verdicts", "Verdicts", f'<dl class="verdicts">\n{verdicts}</dl>\n', note)


def _course(comparison: Comparison) -> str:
    """Return the curves and figures over the common bars."""
    runs, timestamps, equity_TR = comparison.runs, comparison.timestamps, comparison.equity_TR
    grown = [Curve(timestamps, equity_T / equity_T[0]) for equity_T in equity_TR.T]
    charts = figures(
        [
            _chart("equity", "Growth after costs", "multiple of the first common bar's equity", runs, grown, ".3f"),
            _chart(
                "drawdown",
                "Drawdown",
                "below the highest equity so far",
                runs,
                [Curve(timestamps, drawdown(curve.equity)) for curve in grown],
                ".1%",
            ),
        ]
    )
    head = ("Run", "Total return", "Largest drawdown", "Sharpe ratio", "Difference", "95 % interval")
    others = [run.name for run in runs if len(run.timestamps) > len(timestamps)]
    note = (
        f"Each difference is the Sharpe ratio less that of {runs[0].name}; its interval is drawn from the same bars "
        "for both."
    )
    if others:
        note += f" Bars that another lacks are left out of {', '.join(others)}."
    return section(
        "course",
        "Over the common bars",
        spans() + charts + table("Common bars", comparison.rows(), head, kind="figures"),
        note,
    )


def _chart(name: str, title: str, unit: str, runs: Sequence[TradedRun], curves: Sequence[Curve], form: str) -> Chart:
    colours = [(BLUE, *OTHERS)[place % (len(OTHERS) + 1)] for place in range(len(runs))]
    grows = name == "equity"
    last = [
        f"{run.name} {percent(curve.equity[-1] - 1, signed=True) if grows else percent(curve.equity.min())}"
        for run, curve in zip(runs, curves, strict=True)
    ]
    return Chart(
        name=name,
        title=title,
        unit=unit,
        caption="At every common bar." if grows else "How far equity was below its highest so far, among these bars.",
        alt="; ".join(last) + ".",
        traces=[
            line(curve, run.name, colour, form, line={"width": 1.6})
            for run, curve, colour in zip(runs, curves, colours, strict=True)
        ],
        layout={"shapes": [level(1.0)]} if grows else {"yaxis": {"tickformat": "~%", "rangemode": "tozero"}},
        legend=legend(zip(last, colours, strict=True)),
        timed=True,
        wide=True,
        height=380 if grows else 280,
        can_be_log=grows and all(curve.equity.min() > 0 for curve in curves),
    )


def _figures(runs: Sequence[TradedRun]) -> str:
    rows = [
        ("First bar", *(date(run.timestamps[0]) for run in runs)),
        ("Last bar", *(date(run.timestamps[-1]) for run in runs)),
        *(
            (
                name.label,
                *(
                    name.text(math.nan if (value := run.told["metrics"].get(name.key)) is None else value)
                    for run in runs
                ),
            )
            for name in METRIC_NAMES
        ),
    ]
    content = table("Every figure of each run", rows, ("", *(run.name for run in runs)), kind="figures")
    return section("figures", "Over each run's own bars", content, "As they stand in each run's backtest.json.")


def _changes(runs: Sequence[TradedRun]) -> str:
    """Return the settings in which the runs' configs differ."""
    settings = [dict(_settings(run.told["experiment"])) for run in runs]
    keys = list(dict.fromkeys(key for each in settings for key in each))
    rows = [
        (key, *(each.get(key, UNKNOWN) for each in settings))
        for key in keys
        if len({each.get(key, UNKNOWN) for each in settings}) > 1
    ]
    content = (
        table("Settings that differ", rows, ("", *(run.name for run in runs)), kind="figures")
        if rows
        else '<p class="note">Nothing: the configs are the same.</p>\n'
    )
    return section("changes", "What differs in the configs", content)


def _settings(value: Any, path: str = "") -> Iterable[tuple[str, str]]:
    """Yield the dotted path and text of every setting."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _settings(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, "null" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _period(timestamps: Timestamps) -> str:
    return f"{utc(timestamps[0])[:-4]} to {utc(timestamps[-1])[:-4]}"
