"""A backtest on one self-contained page: numbers, pictures, assumptions, and how to get them again."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from flashtrader.backtest.assessment import Assessment
from flashtrader.backtest.prices import FUNDING_HOURS
from flashtrader.backtest.result import BacktestResult
from flashtrader.files import write_text
from flashtrader.interval import DAY_MS, Interval
from flashtrader.report.formats import fixed, percent, plain
from flashtrader.report.metric_names import METRIC_NAMES, currency
from flashtrader.report.plots import (
    PIXELS_PER_INCH,
    plot_drawdown,
    plot_equity,
    plot_forecast_outcome,
    plot_monthly_returns,
    plot_positions,
    write_png,
)
from flashtrader.report.stylesheet import STYLESHEET
from flashtrader.report.summaries import Curve, drawdown, pooled_correlation

_REFERENCE_NAMES = {"buy_and_hold": "Buy and hold", "cash": "Cash", "dlinear": "DLinear"}
_PLAIN_FIGURES = ("total_return", "annual_volatility", "sharpe", "max_drawdown", "turnover", "num_trades", "total_cost")
_FILLS = {"next_open": "at the next bar's open", "close": "at the deciding bar's own close"}
_DAYS_PER_YEAR = 365


@dataclass(frozen=True)
class Picture:
    """A figure with its words."""

    name: str
    """Of the PNG file, without the ending."""
    figure: Figure
    alt: str
    """What a reader who can't see the picture is told."""
    caption: str


def write_report(
    result: BacktestResult,
    directory: Path,
    *,
    title: str,
    config_yaml: str,
    manifest: Mapping[str, Any] | None = None,
    forecasts: pd.DataFrame | None = None,
    outcomes: pd.DataFrame | None = None,
    assessment: Assessment | None = None,
) -> Path:
    """Write `report.html` and its pictures as PNG files to `directory`, and return the page's path.

    title: the experiment's or run's name. config_yaml: what reproduces the backtest. manifest: of the run that made
    the forecasts. forecasts, outcomes: index `time`, a column per symbol, log return over the horizon; joined by time.
    Each file is replaced in one step, the page last. The same input gives the same bytes.
    """
    pictures = list(_pictures(result, forecasts, outcomes))
    images = [write_png(picture.figure, directory / f"{picture.name}.png") for picture in pictures]
    if forecasts is None or outcomes is None:
        (directory / "forecast_outcome.png").unlink(missing_ok=True)
    path = directory / "report.html"
    write_text(path, _page(result, title, config_yaml, manifest or {}, list(zip(pictures, images, strict=True))))
    return path


def summarise(result: BacktestResult) -> str:
    """Return what came of the backtest in plain words, without judging it."""
    config, metrics, benchmark = result.config, result.metrics, result.references["buy_and_hold"].metrics
    bought = percent(benchmark.total_return, signed=True)
    costs = f"costs of {plain(config.fee_bps + config.slippage_bps)} bp a side"
    if result.ruined_at is not None:
        text = (
            f"The strategy was ruined: after {costs}, its equity fell to zero or below in the bar of "
            f"{_utc(result.ruined_at)}, where the backtest ends. Buy and hold returned {bought} over the whole period."
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
        orders = "1 trade" if metrics.num_trades == 1 else f"{fixed(metrics.num_trades, 0)} trades"
        text += f" It made {orders} and paid {currency(metrics.total_cost)} in costs, {share} of the initial equity."
    days = float(result.timestamps[-1] - result.timestamps[0]) / DAY_MS
    if days == 0:
        text += " The period is a single bar, in which nothing can be earned."
    elif days < _DAYS_PER_YEAR:
        length = f"{days:.0f} days" if days >= 2 else f"{plain(round(days * 24, 1))} hours"
        text += f" The period is {length}: annual figures stretch it to a year."
    return text


def _pictures(
    result: BacktestResult, forecasts: pd.DataFrame | None, outcomes: pd.DataFrame | None
) -> Iterable[Picture]:
    strategy = Curve(result.timestamps, result.equity)
    benchmark = result.references["buy_and_hold"]
    beside = {"Buy and hold": Curve(benchmark.timestamps, benchmark.equity)}
    period = f"from {_date(result.timestamps[0])} to {_date(result.timestamps[-1])}"
    plain = {
        _name(family): Curve(traded.timestamps, traded.equity)
        for family, traded in result.plain.items()
        if traded.metrics.num_trades
    }
    yield Picture(
        "equity",
        plot_equity(strategy, beside | plain),
        f"Lines of equity {period}: the strategy goes from {currency(result.equity[0])} to "
        f"{currency(result.equity[-1])}, buy and hold ends at {currency(benchmark.equity[-1])}"
        + "".join(f", {name} at {currency(curve.equity[-1])}" for name, curve in plain.items())
        + ".",
        "What the account was worth at every bar, beside equal parts of every market bought once at the first bar"
        + (", and beside the plain models that traded." if plain else "."),
    )
    depth = drawdown(result.equity)
    lowest = result.timestamps[int(np.argmin(depth))]
    deepest = f"{percent(depth.min())} at {_utc(lowest)}" if depth.min() < 0 else "none"
    yield Picture(
        "drawdown",
        plot_drawdown(strategy, beside),
        f"Lines of loss from the highest equity so far, {period}: the strategy's deepest is {deepest}, "
        f"buy and hold's {percent(-benchmark.metrics.max_drawdown)}.",
        f"How far equity was below its highest so far. The strategy's deepest point: {deepest}.",
    )
    alive = np.maximum(result.equity, 0)[:, None]
    weights_TA = np.divide(result.held, alive, out=np.zeros_like(result.held), where=alive > 0)
    yield Picture(
        "positions",
        plot_positions(result.timestamps, weights_TA, result.symbols),
        f"Exposure over time, and a strip of colour for each of {len(result.symbols)} markets: gross exposure is "
        f"{percent(result.metrics.exposure)} of equity on average.",
        "What was held after trading. Blue is long and orange is short; gross adds both up, net sets one against the "
        "other.",
    )
    yield Picture(
        "monthly_returns",
        plot_monthly_returns(strategy),
        f"Table of the strategy's return in each month and year {period}.",
        "Months compound to the year. The first and the last month may be parts of one.",
    )
    if forecasts is not None and outcomes is not None:
        outcomes = outcomes.reindex(index=forecasts.index, columns=forecasts.columns)
        forecasts_TA, outcomes_TA = forecasts.to_numpy(np.float64), outcomes.to_numpy(np.float64)
        correlation = fixed(pooled_correlation(forecasts_TA, outcomes_TA), 3, signed=True)
        num_pairs = int(np.count_nonzero(np.isfinite(forecasts_TA) & np.isfinite(outcomes_TA)))
        yield Picture(
            "forecast_outcome",
            plot_forecast_outcome(forecasts_TA, outcomes_TA),
            f"Mean outcome by size of forecast; the correlation of forecast and outcome is {correlation}.",
            f"{fixed(num_pairs, 0)} forecasts of all markets, sorted by size and cut into equal groups. Lines span one "
            "standard error either way, clustered in time because horizons overlap. IC is the correlation of forecast "
            "and outcome, before any cost.",
        )


def _page(
    result: BacktestResult,
    title: str,
    config_yaml: str,
    manifest: Mapping[str, Any],
    pictures: Sequence[tuple[Picture, bytes]],
) -> str:
    symbols = ", ".join(result.symbols[:8]) + (
        f" and {len(result.symbols) - 8} more" if len(result.symbols) > 8 else ""
    )
    period = f"{_date(result.timestamps[0])} to {_date(result.timestamps[-1])} · {_bars(result.interval)} · {symbols}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)} · flashtrader backtest</title>
<style>{STYLESHEET}</style>
</head>
<body>
<header>
<p class="kind">flashtrader backtest</p>
<h1>{escape(title)}</h1>
<p class="period">{escape(period)}</p>
<p class="summary">{escape(summarise(result))}</p>
{_tiles(result)}
</header>
<main>
<section class="figures">
<h2>Results</h2>
{_metrics_table(result)}
</section>
<div class="pictures">
{"".join(_picture(picture, image) for picture, image in pictures)}
</div>
<div class="facts">
<section>
<h2>Assumptions</h2>
{_table("What the backtest assumes", _assumptions(result))}
</section>
<section>
<h2>Costs</h2>
{_table("What trading cost", _costs(result))}
</section>
</div>
</main>
<div class="below">
{_plain_section(result)}<section>
<h2>What the numbers mean</h2>
<dl class="definitions">
{"".join(f"<div><dt>{escape(name.label)}</dt><dd>{escape(name.definition)}</dd></div>" for name in METRIC_NAMES)}
</dl>
<p class="note">All returns are simple returns of equity after costs, one a bar. This is one history and one path
through it: what happened to these markets under these assumptions. It says nothing of other periods, and is no
advice.</p>
</section>
<section>
<h2>How to get this again</h2>
{_origin(config_yaml, manifest)}
</section>
</div>
</body>
</html>
"""


def _tiles(result: BacktestResult) -> str:
    metrics, benchmark = result.metrics, result.references["buy_and_hold"].metrics
    tiles = {
        "Total return": percent(metrics.total_return, signed=True),
        "Buy and hold": percent(benchmark.total_return, signed=True),
        "Sharpe ratio": fixed(metrics.sharpe, 2),
        "Largest drawdown": percent(metrics.max_drawdown),
        "Trades": fixed(metrics.num_trades, 0),
        "Costs paid": currency(metrics.total_cost),
    }
    cells = (f"<div><dt>{escape(label)}</dt><dd>{escape(text)}</dd></div>" for label, text in tiles.items())
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def _metrics_table(result: BacktestResult) -> str:
    columns = {"Strategy": result.metrics} | {
        _name(name): reference.metrics for name, reference in result.references.items()
    }
    rows = [
        (name.label, *(name.text(getattr(metrics, name.key)) for metrics in columns.values())) for name in METRIC_NAMES
    ]
    return _table("Figures of the strategy and of its references", rows, head=("", *columns))


def _plain_section(result: BacktestResult) -> str:
    if not result.plain:
        return ""
    names = [name for name in METRIC_NAMES if name.key in _PLAIN_FIGURES]
    models = {"Strategy": result.metrics} | {_name(family): traded.metrics for family, traded in result.plain.items()}
    rows = [(model, *(name.text(getattr(metrics, name.key)) for name in names)) for model, metrics in models.items()]
    return f"""<section>
<h2>Beside plain models</h2>
{_table("Figures of the strategy and of plain models", rows, head=("", *(name.label for name in names)))}
<p class="note">Fitted on the same bars, and traded by the same policy at the same costs.</p>
</section>
"""


def _name(reference: str) -> str:
    return _REFERENCE_NAMES.get(reference, reference.capitalize())


def _assumptions(result: BacktestResult) -> list[tuple[str, str]]:
    config = result.config
    per_year = result.interval.bars_per_year(config.calendar)
    funding = "not charged: a perpetual's result leaves it out"
    if config.funding_rate == "fetched":
        funding = "as the exchange settled it, at its own times and rates"
    elif config.funding_rate is not None:
        funding = f"longs pay shorts {plain(config.funding_rate * 100)}% every {FUNDING_HOURS} hours"
    return [
        ("Markets", ", ".join(result.symbols)),
        ("Bars", f"{fixed(len(result.timestamps), 0)} · {_bars(result.interval)}"),
        ("First bar", _utc(result.timestamps[0])),
        ("Last bar", _utc(result.timestamps[-1])),
        ("Trades are filled", _FILLS[config.fill]),
        ("Fee", f"{plain(config.fee_bps)} bp of traded value, each side"),
        ("Slippage", f"{plain(config.slippage_bps)} bp of traded value, each side"),
        ("Funding", funding),
        (
            "Calendar",
            f"{config.calendar}: {plain(round(per_year, 2))} bars a year"
            + (f". Beware: {result.calendar_doubt}" if result.calendar_doubt else ""),
        ),
        ("Largest gross exposure", f"{plain(config.max_gross * 100)}% of equity"),
        (
            "Trades left out",
            f"below {plain(config.no_trade_band * 100)}% of equity" if config.no_trade_band else "none",
        ),
        ("Initial equity", currency(config.initial_equity)),
        ("Interest on cash", "none"),
    ]


def _costs(result: BacktestResult) -> list[tuple[str, str]]:
    config, metrics = result.config, result.metrics
    traded = float(np.abs(result.traded).sum())
    funding = float(result.funding.sum())
    return [
        ("Value traded", currency(traded)),
        ("Fees", currency(traded * config.fee_bps / 1e4)),
        ("Slippage", currency(traded * config.slippage_bps / 1e4)),
        ("Fees and slippage", currency(metrics.total_cost)),
        ("Share of initial equity", percent(metrics.total_cost / config.initial_equity)),
        ("Per year, of equity", percent(metrics.turnover * (config.fee_bps + config.slippage_bps) / 1e4)),
        ("Per trade", currency(metrics.total_cost / metrics.num_trades) if metrics.num_trades else "n/a"),
        ("Funding paid", "not charged" if config.funding_rate is None else currency(funding)),
    ]


def _origin(config_yaml: str, manifest: Mapping[str, Any]) -> str:
    config = f"<div><h3>Config</h3><pre>{escape(config_yaml.strip())}</pre></div>"
    if not manifest:
        return config
    table = _table("The run's manifest", list(_flatten(manifest)))
    return f'<div class="origin">{config}<div><h3>Manifest: data, versions, seed</h3>{table}</div></div>'


def _flatten(value: Any, path: str = "") -> Iterable[tuple[str, str]]:
    """Yield the dotted path and text of everything in a manifest; a section without inner sections is one line."""
    if isinstance(value, Mapping) and (not path or any(isinstance(item, Mapping) for item in value.values())):
        for key, item in value.items():
            yield from _flatten(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, _joined(value)


def _joined(value: Any) -> str:
    match value:
        case Mapping():
            return " · ".join(f"{key} {_joined(item)}" for key, item in value.items()) or "none"
        case list() | tuple():
            return ", ".join(map(_joined, value)) or "none"
        case _:
            return "none" if value is None else str(value)


def _picture(picture: Picture, image: bytes) -> str:
    width, height = (round(inches * PIXELS_PER_INCH) for inches in picture.figure.get_size_inches())
    source = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    return (
        f'<figure><img src="{source}" width="{width}" height="{height}" alt="{escape(picture.alt)}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>\n"
    )


def _table(label: str, rows: Sequence[tuple[str, ...]], head: Sequence[str] = ()) -> str:
    """Return a table whose first column names the rows, every cell escaped; it scrolls sideways where too wide."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' if cell else "<td></td>" for cell in head)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>\n'
        for name, *cells in rows
    )
    head_row = f"<thead><tr>{top}</tr></thead>" if head else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">'
        f"<table>{head_row}<tbody>\n{body}</tbody></table></div>"
    )


def _bars(interval: Interval) -> str:
    match interval.code:
        case "D":
            return "daily bars"
        case "W":
            return "weekly bars"
        case "M":
            return "monthly bars"
        case minutes if int(minutes) % 60 == 0:
            return "hourly bars" if minutes == "60" else f"{int(minutes) // 60}-hour bars"
        case minutes:
            return f"{minutes}-minute bars"


def _date(timestamp_ms: np.int64) -> str:
    return str(np.datetime64(int(timestamp_ms), "ms").astype("datetime64[D]"))


def _utc(timestamp_ms: np.int64 | int) -> str:
    return str(np.datetime64(int(timestamp_ms), "ms").astype("datetime64[m]")).replace("T", " ") + " UTC"
