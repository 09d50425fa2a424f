"""Where a backtest came from and how to get it again: assumptions, data with its gaps, commands."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from flashtrader.backtest.prices import FUNDING_HOURS
from flashtrader.backtest.result import BacktestResult
from flashtrader.config import BacktestConfig, Experiment
from flashtrader.interval import Interval
from flashtrader.market.spans import from_iso, iso_time
from flashtrader.report.formats import UNKNOWN, fixed, plain
from flashtrader.report.metric_names import currency

_FILLS = {"next_open": "at the next bar's open", "close": "at the deciding bar's own close"}
_DIGEST_CHARACTERS = 16
_COMMAND_CHARACTERS = 44  # of a line, on a phone

Row = tuple[str, str]


def assumptions(result: BacktestResult) -> list[Row]:
    """Return what the backtest takes for granted."""
    config = result.config
    per_year = result.interval.bars_per_year(config.calendar)
    return [
        ("Markets", ", ".join(result.symbols)),
        ("Bars", f"{fixed(len(result.timestamps), 0)} · {bar_length(result.interval)}"),
        ("First bar", utc(result.timestamps[0])),
        ("Last bar", utc(result.timestamps[-1])),
        ("Trades are filled", _FILLS[config.fill]),
        *_charges(config),
        (
            "Calendar",
            f"{config.calendar}: {plain(round(per_year, 2))} bars a year"
            + (f". Beware: {result.calendar_doubt}" if result.calendar_doubt else ""),
        ),
        ("Orders are scaled down to", f"{plain(config.max_gross * 100)}% of equity, long and short together"),
        (
            "Trades left out",
            f"below {plain(config.no_trade_band * 100)}% of equity" if config.no_trade_band else "none",
        ),
        *([("Beware", result.unfilled_doubt)] if result.unfilled_doubt else []),
        ("Initial equity", currency(config.initial_equity)),
        ("Interest on cash", "none"),
    ]


def _charges(config: BacktestConfig) -> list[Row]:
    """Return what trading and holding is charged; what is zero is left out."""
    rows = [("Fee", f"{plain(config.fee_bps)} bp of traded value, each side")]
    if config.maker_share:
        rows = [
            ("Fee of what is taken from the book", f"{plain(config.fee_bps)} bp of traded value, each side"),
            (
                "Fee of resting orders",
                f"{plain(config.maker_fee_bps)} bp, of {plain(config.maker_share * 100)}% of every trade",
            ),
        ]
    if config.half_spread_bps:
        rows.append(("Half-spread", f"{plain(config.half_spread_bps)} bp"))
    rows.append(("Slippage", f"{plain(config.slippage_bps)} bp of traded value, each side"))
    if config.volatility_slippage:
        rows.append(("Slippage with volatility", f"{plain(config.volatility_slippage)} times that of a bar's return"))
    if config.impact_coefficient:
        rows.append(
            (
                "Price impact",
                f"{plain(config.impact_coefficient)} × volatility × participation^{plain(config.impact_exponent)}",
            )
        )
    if config.maintenance_margin:
        rows.append(
            (
                "Liquidated",
                f"below {plain(config.maintenance_margin * 100)}% of the value held, for "
                f"{plain(config.liquidation_fee_bps)} bp of it",
            )
        )
    match config.funding_rate:
        case None:
            funding = "not charged: a perpetual's result leaves it out"
        case "fetched":
            funding = "the settlements of each market, as fetched"
        case rate:
            funding = f"longs pay shorts {plain(rate * 100)}% every {FUNDING_HOURS} hours"
    return [*rows, ("Funding", funding)]


def data_rows(result: BacktestResult, fingerprints: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return a row for each market: bars, first, last, missing bars, bars of the backtest without a price, SHA-256.

    fingerprints: of the run's manifest; none for weights or forecasts of no run.
    """
    rows: list[tuple[str, ...]] = []
    for column, symbol in enumerate(result.symbols):
        known = fingerprints.get(symbol, {})
        unpriced = int(np.isnan(result.prices[:, column]).sum())
        first, last = str(known.get("first", UNKNOWN)), str(known.get("last", UNKNOWN))
        rows.append(
            (
                symbol,
                fixed(known["rows"], 0) if "rows" in known else UNKNOWN,
                first.removesuffix(":00Z").replace("T", " "),
                last.removesuffix(":00Z").replace("T", " "),
                _missing(known, result.interval),
                fixed(unpriced, 0),
                str(known.get("sha256", UNKNOWN))[:_DIGEST_CHARACTERS],
            )
        )
    return rows


def _missing(known: Mapping[str, Any], interval: Interval) -> str:
    """Return how many bars are not there between the first and the last, on a clock that never stops."""
    try:
        first, last = interval.index(np.array([from_iso(known["first"]), from_iso(known["last"])]))
        return fixed(int(last - first) + 1 - known["rows"], 0)
    except (KeyError, TypeError, ValueError):
        return UNKNOWN


def commands(experiment: Experiment, name: str, manifest: Mapping[str, Any]) -> str:
    """Return the commands that make a backtest again, where data and runs are in their default directories.

    manifest: of the run that made the forecasts; empty where none did: the weights beside the page are traded then.
    """
    data = experiment.data
    fetch = ["--source", data.source, "--symbols", ",".join(data.symbols), "--interval", data.interval]
    if data.source == "bybit" and data.category != "linear":
        fetch += ["--category", data.category]
    if data.noise_only:
        fetch.append("--noise-only")
    if data.source == "file":
        fetch += ["--path", "FILE"]
    lines = [["fetch", *fetch, *_period(manifest, Interval(data.interval))]]
    if experiment.backtest.funding_rate == "fetched":
        lines.append(["fetch", "--kind", "funding", "--symbols", ",".join(data.symbols)])
    if manifest:
        changed = _changed(experiment.model_dump(mode="json"), manifest.get("experiment"))
        lines += [["train", "--from", f"runs/{name}/manifest.json"], ["predict"], ["backtest", *changed], ["verify"]]
    else:
        lines.append(["backtest", "--config", f"runs/{name}/config.yaml", "--weights", f"runs/{name}/weights.parquet"])
    return "\n".join(_wrapped(["flashtrader", *line]) for line in lines)


def _wrapped(words: Sequence[str]) -> str:
    """Return a command as a shell takes it, its options on further lines where one line would be too long."""
    parts: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not parts:
            parts.append([word])
        else:
            parts[-1].append(word)
    first, *options = map(shlex.join, parts)
    lines = [first]
    for text in options:
        if len(lines[-1]) + len(text) > _COMMAND_CHARACTERS:
            lines[-1] += " \\"
            lines.append(f"  {text}")
        else:
            lines[-1] += f" {text}"
    return "\n".join(lines)


def _period(manifest: Mapping[str, Any], interval: Interval) -> list[str]:
    """Return the options that fetch the bars which a run was made from."""
    try:
        first = min(from_iso(bars["first"]) for bars in manifest["data"].values())
        last = np.array([max(from_iso(bars["last"]) for bars in manifest["data"].values())])
    except (KeyError, TypeError, ValueError, AttributeError):
        return []
    return ["--start", iso_time(first), "--end", iso_time(int(interval.close(last)[0]))]


def _changed(experiment: Mapping[str, Any], trained: Any) -> list[str]:
    """Return the options that make a run's own policy and costs those of this backtest."""
    if not isinstance(trained, Mapping):
        return []
    options = []
    for section in ("policy", "backtest"):
        ours, theirs = experiment[section], trained.get(section, {})
        for key, value in ours.items():
            if theirs.get(key) != value:
                options += ["--set", f"{section}.{key}={'null' if value is None else value}"]
    return options


def flattened(value: Any, path: str = "") -> Iterable[Row]:
    """Yield the dotted path and text of everything in a manifest; a section without inner sections is one line."""
    if isinstance(value, Mapping) and (not path or any(isinstance(item, Mapping) for item in value.values())):
        for key, item in value.items():
            yield from flattened(item, f"{path}.{key}" if path else str(key))
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


def bar_length(interval: Interval) -> str:
    """Return what the bars of an interval are called."""
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


def date(timestamp_ms: np.int64 | int) -> str:
    """Return the day of a time in ms, UTC."""
    return str(np.datetime64(int(timestamp_ms), "ms").astype("datetime64[D]"))


def utc(timestamp_ms: np.int64 | int) -> str:
    """Return a time in ms to the minute, in words."""
    return str(np.datetime64(int(timestamp_ms), "ms").astype("datetime64[m]")).replace("T", " ") + " UTC"
