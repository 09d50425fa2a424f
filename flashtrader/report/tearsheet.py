"""A backtest on one self-contained page: verdict, figures, charts, assumptions, and how to get them again."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flashtrader.backtest.assessment import Assessment
from flashtrader.backtest.estimates import Significance
from flashtrader.backtest.result import BacktestResult, Reference
from flashtrader.config import Experiment, to_yaml
from flashtrader.files import write_text
from flashtrader.interval import DAY_MS
from flashtrader.report.charts import (
    costs_chart,
    drawdown_chart,
    equity_chart,
    exposure_chart,
    multiples_chart,
    positions_chart,
    rolling_sharpe_chart,
    turnover_chart,
)
from flashtrader.report.cost_breakdown import cost_rows, cost_totals, multiple_rows
from flashtrader.report.forecast_charts import calibration_chart, decile_chart, ic_chart
from flashtrader.report.formats import counted, fixed, percent, plain
from flashtrader.report.markup import (
    document,
    figures,
    folded,
    navigation,
    prose,
    section,
    shaded_table,
    spans,
    table,
    tiles,
)
from flashtrader.report.metric_names import METRIC_NAMES, VERDICTS_AGE, currency, series_name
from flashtrader.report.origin import assumptions, bar_length, commands, data_rows, date, flattened, utc
from flashtrader.report.significance_tables import difference_rows, interval, market_rows, sharpe_rows, skill_rows
from flashtrader.report.summaries import (
    Curve,
    deepest_dips,
    group_outcomes,
    monthly_returns,
    rolling_window_days,
)

_COMPARED = ("total_return", "annual_volatility", "sharpe", "max_drawdown", "turnover", "num_trades", "total_cost")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAYS_PER_YEAR = 365
_MIN_IC_MONTHS = 3
_MOST_ROWS = 20  # of a table of markets that is not folded
_MOST_STRIPS = 40  # markets in the chart of positions


def write_report(
    result: BacktestResult,
    directory: Path,
    *,
    title: str,
    experiment: Experiment,
    assessment: Assessment,
    manifest: Mapping[str, Any] | None = None,
    forecasts: pd.DataFrame | None = None,
    outcomes: pd.DataFrame | None = None,
) -> Path:
    """Write `report.html` to `directory`, and return its path.

    title: the run's name. experiment: what the backtest was made by. manifest: of the run that made the forecasts.
    forecasts, outcomes: index `time`, a column per symbol, log return over the horizon; joined by time. The file is
    replaced in one step, and the same input gives the same bytes.
    """
    path = directory / "report.html"
    parts = {
        "alternatives": ("Alternatives", _alternatives(result)),
        "course": ("Equity", _course(result, assessment)),
        "certainty": ("Certainty", _certainty(assessment.significance)),
        "costs": ("Costs", _costs(result)),
        "forecasts": ("Forecasts", _forecasts(assessment, forecasts, outcomes)),
        "origin": ("Data and assumptions", _origin(result, title, experiment, manifest or {})),
        "meaning": ("Definitions", _definitions()),
    }
    parts = {anchor: part for anchor, part in parts.items() if part[1]}
    links = navigation({anchor: label for anchor, (label, _) in parts.items()})
    body = "".join(content for _, content in parts.values())
    write_text(path, document(f"{title} · flashtrader backtest", _header(result, title, assessment) + links, body))
    return path


def summarise(result: BacktestResult) -> str:
    """Return what came of the backtest in plain words, without judging it."""
    config, metrics, benchmark = result.config, result.metrics, result.references["buy_and_hold"].metrics
    bought = percent(benchmark.total_return, signed=True)
    traded = float(np.abs(result.traded).sum())
    cost_bps = (metrics.total_cost / traded if traded else config.cost_rate) * 1e4
    costs = f"costs of {plain(round(cost_bps, 1))} bp a side"
    if result.ruined_at is not None:
        text = (
            f"The strategy was ruined: after {costs}, its equity fell to zero or below in the bar of "
            f"{utc(result.ruined_at)}, where the backtest ends. Buy and hold returned {bought} over the whole period."
        )
    elif metrics.num_trades == 0:
        text = f"The strategy never traded and ended where it began. Buy and hold returned {bought} after {costs}."
    else:
        text = (
            f"After {costs}, the strategy returned {percent(metrics.total_return, signed=True)} against {bought} for "
            f"buy and hold, with a largest drawdown of {percent(metrics.max_drawdown)} against "
            f"{percent(benchmark.max_drawdown)}."
        )
    if metrics.num_trades:
        share = percent(metrics.total_cost / config.initial_equity)
        orders = counted(metrics.num_trades, "trade")
        text += f" It made {orders} and paid {currency(metrics.total_cost)} in costs, {share} of the initial equity."
    days = float(result.timestamps[-1] - result.timestamps[0]) / DAY_MS
    if days == 0:
        text += " The period is a single bar, in which nothing can be earned."
    elif days < _DAYS_PER_YEAR:
        length = f"{days:.0f} days" if days >= 2 else f"{plain(round(days * 24, 1))} hours"
        text += f" The period is {length}: annual figures stretch it to a year."
    return text


def _header(result: BacktestResult, title: str, assessment: Assessment) -> str:
    symbols = ", ".join(result.symbols[:8]) + (
        f" and {len(result.symbols) - 8} more" if len(result.symbols) > 8 else ""
    )
    first, last = date(result.timestamps[0]), date(result.timestamps[-1])
    period = f"{first} to {last} · {bar_length(result.interval)} · {symbols}"
    metrics, benchmark = result.metrics, result.references["buy_and_hold"].metrics
    facts = {
        "Total return": percent(metrics.total_return, signed=True),
        "Buy and hold": percent(benchmark.total_return, signed=True),
        "Sharpe ratio": fixed(metrics.sharpe, 2),
        "Sharpe ratio, 95 %": interval(assessment.significance.sharpe.interval, 1),
        "Largest drawdown": percent(metrics.max_drawdown),
        "Costs paid": currency(metrics.total_cost),
    }
    return (
        f'<p class="kind">flashtrader backtest</p>\n<h1>{escape(title)}</h1>\n<p class="period">{escape(period)}</p>\n'
        f'<p class="verdict">{prose(assessment.verdict)}</p>\n<p class="summary">{prose(summarise(result))}</p>\n'
        + tiles(facts)
    )


def _alternatives(result: BacktestResult) -> str:
    """Return the figures beside those of the references and plain models."""
    models = {"Strategy": result.metrics} | {
        series_name(name): reference.metrics for name, reference in (result.references | result.plain).items()
    }
    names = [name for name in METRIC_NAMES if name.key in _COMPARED]
    rows = [(model, *(name.text(getattr(metrics, name.key)) for name in names)) for model, metrics in models.items()]
    compared = table(
        "Strategy, references and plain models", rows, ("", *(name.label for name in names)), kind="figures first"
    )
    measured = [result.metrics, *(reference.metrics for reference in result.references.values())]
    every = [(name.label, *(name.text(getattr(metrics, name.key)) for metrics in measured)) for name in METRIC_NAMES]
    head = ("", "Strategy", *map(series_name, result.references))
    note = "All on the same bars and at the same costs" + (
        "; plain models were fitted on the training bars of the run and are traded by the same policy."
        if result.plain
        else "."
    )
    content = compared + folded("Every figure", table("Every figure", every, head, kind="figures own"))
    return section("alternatives", "Beside the alternatives", content, note)


def _certainty(significance: Significance) -> str:
    content = (
        f'<div class="columns"><div><h3>Sharpe ratio</h3>\n{table("Sharpe ratio", sharpe_rows(significance))}</div>\n'
        f"{_differences(significance)}</div>\n"
    )
    return section("certainty", "How sure that is", content, f"{VERDICTS_AGE.capitalize()}.")


def _differences(significance: Significance) -> str:
    if not significance.against:
        return ""
    head = ("Sharpe ratio less that of", "Difference", "95 % interval")
    rows = difference_rows(significance)
    return f"<div><h3>Difference to the alternatives</h3>\n{table('Differences', rows, head, kind='figures')}</div>"


def _course(result: BacktestResult, assessment: Assessment) -> str:
    """Return how equity came to be: charts over time, the deepest drawdowns, the months."""
    strategy = Curve(result.timestamps, result.equity)
    bought = {"Buy and hold": _curve(result.references["buy_and_hold"])}
    plain_models = {
        series_name(name): _curve(model) for name, model in result.plain.items() if model.metrics.num_trades
    }
    alive = np.maximum(result.equity, 0)[:, None]
    weights_TA = np.divide(result.held, alive, out=np.zeros_like(result.held), where=alive > 0)
    window = rolling_window_days(result.timestamps)
    per_year = result.interval.bars_per_year(result.config.calendar)
    charts = figures(
        [
            equity_chart(
                strategy,
                bought | plain_models,
                assessment.significance.equity_band,
                ruined=result.ruined_at is not None,
            ),
            drawdown_chart(strategy, bought),
            rolling_sharpe_chart(strategy, bought, window, per_year) if window else None,
            exposure_chart(result.timestamps, weights_TA),
            turnover_chart(result.timestamps, result.traded, result.equity),
            positions_chart(result.timestamps, weights_TA, result.symbols)
            if len(result.symbols) <= _MOST_STRIPS
            else None,
        ]
    )
    dips = [
        (
            percent(dip.depth),
            date(dip.peak_ms),
            date(dip.lowest_ms),
            date(dip.recovered_ms) if dip.recovered_ms else "not yet",
        )
        for dip in deepest_dips(strategy)
    ]
    deepest = (
        '<div class="columns"><div><h3>Deepest drawdowns</h3>\n'
        + table("Deepest drawdowns", dips, ("Depth", "Peak", "Lowest", "Recovered"), kind="figures")
        + "</div></div>\n"
        if dips
        else ""
    )
    content = f"{spans()}{charts}<h3>Monthly returns after costs, %</h3>\n{_months(strategy)}{deepest}"
    return section("course", "How it went", content)


def _curve(reference: Reference) -> Curve:
    return Curve(reference.timestamps, reference.equity)


def _months(strategy: Curve) -> str:
    years, returns_YM, annual_Y = monthly_returns(strategy)
    known = np.abs(returns_YM[np.isfinite(returns_YM)])
    limit = float(np.quantile(known, 0.95)) or 1.0

    def cell(fraction: float) -> tuple[str, float]:
        if not np.isfinite(fraction):
            return "", 0.0
        return fixed(fraction * 100, 0 if abs(fraction) >= 0.9995 else 1), float(np.clip(fraction / limit, -1, 1))

    rows = [
        [*map(cell, months), (cell(year)[0], 0.0)]
        for months, year in zip(returns_YM.tolist(), annual_Y.tolist(), strict=True)
    ]
    return shaded_table("Monthly returns after costs, per cent", rows, list(map(str, years)), ("", *_MONTHS, "Year"))


def _costs(result: BacktestResult) -> str:
    if not result.metrics.num_trades:
        return ""
    totals = cost_totals(result)
    net = float(result.equity[-1] - result.equity[0])
    head, multiples = multiple_rows(result)
    returns = [metrics.total_return for metrics in result.multiples.values()]
    charts = figures(
        [costs_chart(net + sum(totals.values()), totals, net), multiples_chart(list(result.multiples), returns)]
    )
    tables = (
        f'<div class="columns"><div><h3>Costs in figures</h3>\n'
        f"{table('Costs in figures', cost_rows(result, totals))}</div>\n"
        f"<div><h3>At multiples of the cost of trading</h3>\n"
        f"{table('Results at multiples of the cost of trading', multiples, head, kind='figures')}</div></div>\n"
    )
    return section("costs", "What it cost", charts + tables)


def _forecasts(assessment: Assessment, forecasts: pd.DataFrame | None, outcomes: pd.DataFrame | None) -> str:
    skill = assessment.forecast
    if skill is None or forecasts is None or outcomes is None:
        return ""
    outcomes = outcomes.reindex(index=forecasts.index, columns=forecasts.columns)
    groups = group_outcomes(forecasts.to_numpy(np.float64), outcomes.to_numpy(np.float64))
    months = [month for month in skill.months if np.isfinite(month.ic)]
    charts = figures(
        [
            decile_chart(groups) if groups else None,
            calibration_chart(groups) if len(groups) > 1 else None,
            ic_chart(months, skill.ic) if len(months) >= _MIN_IC_MONTHS else None,
        ]
    )
    head = (
        "Market",
        "Bars",
        "IC, 95 %",
        "Rank IC, 95 %",
        *(f"p, {test.loss} loss" for test in skill.diebold_mariano[:1]),
    )
    markets = table("Skill by market", market_rows(skill), head, kind="figures")
    tables = (
        '<div class="columns"><div><h3>All markets</h3>\n'
        f"{table('Skill of the forecasts', skill_rows(skill))}</div>\n"
        f"<div>{_named('Each market', markets, len(skill.markets))}</div></div>\n"
    )
    note = "Log returns over the horizon, before any cost. Intervals allow for horizons that overlap."
    return section("forecasts", "What the forecasts were worth", charts + tables, note)


def _origin(result: BacktestResult, title: str, experiment: Experiment, manifest: Mapping[str, Any]) -> str:
    head = ("Market", "Bars", "First, UTC", "Last, UTC", "Missing", "Without price here", "SHA-256")
    data = data_rows(result, manifest.get("data", {}))
    again = commands(experiment, title, manifest)
    folds = folded("Config", f"<pre>{escape(to_yaml(experiment).strip())}</pre>\n")
    if manifest:
        folds += folded("Manifest", table("The run's manifest", list(flattened(manifest)), kind="long"))
    content = (
        '<div class="columns"><div><h3>Assumptions</h3>\n'
        f"{table('What the backtest assumes', assumptions(result))}</div>\n"
        "<div><h3>How to get this again</h3>\n"
        f'<pre class="card">{escape(again)}</pre></div></div>\n'
        f"{_named('Data', table('The data', data, head, kind='figures'), len(data))}{folds}"
    )
    return section("origin", "Data and assumptions", content)


def _named(title: str, content: str, num_rows: int) -> str:
    """Return a table under its name; folded where it is long."""
    return folded(title, content) if num_rows > _MOST_ROWS else f"<h3>{escape(title)}</h3>\n{content}"


def _definitions() -> str:
    entries = "".join(
        f"<div><dt>{escape(name.label)}</dt><dd>{escape(name.definition)}</dd></div>\n" for name in METRIC_NAMES
    )
    note = (
        "All returns are simple returns of equity after costs, one a bar. This is one history and one path through it: "
        "what happened to these markets under these assumptions. It says nothing of other periods, and is no advice."
    )
    return section("meaning", "What the figures mean", f'<dl class="definitions">\n{entries}</dl>\n', note)
