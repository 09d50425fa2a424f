"""From stored bars and forecasts or weights to a backtest, as an experiment describes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from flashtrader.backtest.policy import policy_weights
from flashtrader.backtest.prices import union_clock
from flashtrader.backtest.result import BacktestResult, run_backtest
from flashtrader.backtest.signals import read_signals
from flashtrader.config import Experiment
from flashtrader.errors import ConfigError, DataError
from flashtrader.interval import Interval
from flashtrader.market.bars import Bars, digests_between
from flashtrader.market.funding import FundingHistory
from flashtrader.market.funding_store import load_funding
from flashtrader.market.spans import iso_time
from flashtrader.market.store import load_bars, stored_source
from flashtrader.panel.targets import horizon_log_returns
from flashtrader.run import Run


@dataclass(frozen=True)
class Backtest:
    """A backtest, and the forecasts behind it beside what came of them; both None for weights, given or learned.

    forecasts, outcomes: index `time`, a column per symbol, log return over the horizon.
    """

    result: BacktestResult
    forecasts: pd.DataFrame | None = None
    outcomes: pd.DataFrame | None = None


def backtest_run(run: Run, experiment: Experiment, data_dir: Path) -> Backtest:
    """Trade the forecasts that a run made of its test bars; the backtest ends where they end.

    Raises ConfigError when the experiment means other bars or another horizon than the run forecast, DataError when
    the stored bars are not those that were forecast, or the forecasts do not begin where the run's test bars begin.
    """
    _check_same_forecasts(run, experiment)
    bars = load_bars(experiment.data, data_dir)
    clock_T = union_clock(bars.values())
    interval = Interval(experiment.data.interval)
    forecasts = read_signals(run.forecasts, clock_T, experiment.data.symbols, interval)
    first_ms, last_ms = (time.value // 1_000_000 for time in (forecasts.index[0], forecasts.index[-1]))
    forecast_bars = forecasts.attrs.get("bars")
    if forecast_bars not in (None, digests_between(bars, first_ms, last_ms)):
        raise DataError(
            f"{run.forecasts}: made of other bars than those in {data_dir}; forecast these with `flashtrader predict`"
        )
    test_start_ms = run.read_manifest().split.test_start_ms
    first_bar = np.searchsorted(clock_T, test_start_ms)
    test_start = pd.Timestamp(clock_T[first_bar] if first_bar < len(clock_T) else test_start_ms, unit="ms", tz="UTC")
    if test_start not in forecasts.index:
        raise DataError(
            f"{run.forecasts}: no forecast at {iso_time(test_start.value // 1_000_000)}, the first of the run's test "
            "bars; make them with `flashtrader predict --split test`"
        )
    plain = {
        str(family): _plain_forecasts(run.plain_forecasts(family), forecasts, interval)
        for family in run.experiment.plain_models
    }
    forecasts = forecasts[test_start:]
    filled_by = min(np.searchsorted(clock_T, forecasts.index[-1].value // 1_000_000, side="right"), len(clock_T) - 1)
    until_filled = {symbol: table[table["timestamp"] <= clock_T[filled_by]] for symbol, table in bars.items()}
    funding = _funding(experiment, data_dir)
    return _trade_forecasts(run.forecasts, forecasts, bars, until_filled, experiment, funding, plain)


def _plain_forecasts(path: Path, beside: pd.DataFrame, interval: Interval) -> pd.DataFrame:
    """Return a plain model's forecasts. Raises DataError unless they are of the very bars that the run forecast."""
    if not path.is_file():
        raise DataError(f"{path}: missing; make it, beside the run's own, with `flashtrader predict`")
    clock_T = pd.DatetimeIndex(beside.index).as_unit("ms").asi8
    forecasts = read_signals(path, clock_T, list(beside.columns), interval)
    if forecasts.attrs != beside.attrs or forecasts.shape != beside.shape:
        raise DataError(f"{path}: not of the bars of the run's own; make both again with `flashtrader predict`")
    return forecasts


def _check_same_forecasts(run: Run, experiment: Experiment) -> None:
    """Refuse a config under which a forecast would not mean what the run meant by it.

    Hourly forecasts would even pass for forecasts of every twelfth 5-minute bar, and be traded before they are known.
    """
    made, asked = run.experiment, experiment
    same = {
        "data.source": (stored_source(made.data), stored_source(asked.data)),
        "data.interval": (made.data.interval, asked.data.interval),
        "panel.target": (made.panel.target, asked.panel.target),
    }
    for key, (theirs, ours) in same.items():
        if theirs != ours:
            raise ConfigError(
                f"{key}: not that of {run.path}, whose forecasts are to be traded; leave it as it is there, or train a "
                "run with it"
            )


def backtest_file(path: Path, experiment: Experiment, data_dir: Path, *, are_forecasts: bool) -> Backtest:
    """Trade a file of forecasts, by the experiment's policy, or of target weights, as they are.

    Raises ConfigError for a run's forecasts of something else than is to be traded, and what `read_signals` raises.
    """
    bars = load_bars(experiment.data, data_dir)
    interval = Interval(experiment.data.interval)
    signals = read_signals(path, union_clock(bars.values()), experiment.data.symbols, interval)
    _check_same_target(path, signals, experiment, are_forecasts=are_forecasts)
    funding = _funding(experiment, data_dir)
    if are_forecasts:
        return _trade_forecasts(path, signals, bars, bars, experiment, funding)
    return Backtest(run_backtest(bars, signals, interval, experiment.backtest, funding=funding, where=str(path)))


def _check_same_target(path: Path, signals: pd.DataFrame, experiment: Experiment, *, are_forecasts: bool) -> None:
    """Refuse a run's forecasts, which say what they are of, where they would be taken for something else."""
    made = signals.attrs.get("target")
    if made is None:
        return
    if are_forecasts and made != experiment.panel.target.model_dump():
        told = ", ".join(f"{key}: {value}" for key, value in made.items())
        raise ConfigError(
            f"panel.target: not that of the run that made {path} ({told}); give the config of that run, or --run"
        )
    if not are_forecasts and made["kind"] != "fill_return":
        raise ConfigError(f"{path}: holds forecasts of {made['kind']} and no target weights; give it to --forecasts")


def _trade_forecasts(
    path: Path,
    forecasts: pd.DataFrame,
    known: Mapping[str, Bars],
    traded: Mapping[str, Bars],
    experiment: Experiment,
    funding: Mapping[str, FundingHistory] | None,
    plain: Mapping[str, pd.DataFrame] | None = None,
) -> Backtest:
    """Return the backtest of a file's forecasts on the bars of `traded`, and the outcomes that those of `known` show.

    Forecasts that are weights already have no outcome.
    """
    weights = policy_weights(forecasts, known, experiment)
    beside = {
        name: policy_weights(table.loc[forecasts.index], known, experiment) for name, table in (plain or {}).items()
    }
    interval = Interval(experiment.data.interval)
    where = f"weights from {path}"
    result = run_backtest(traded, weights, interval, experiment.backtest, beside, funding, where)
    if experiment.policy.kind == "weights":
        return Backtest(result)
    return Backtest(
        result=result,
        forecasts=forecasts,
        outcomes=_outcomes(known, experiment).reindex(forecasts.index),
    )


def _funding(experiment: Experiment, data_dir: Path) -> dict[str, FundingHistory] | None:
    return load_funding(experiment.data, data_dir) if experiment.backtest.funding_rate == "fetched" else None


def _outcomes(bars: Mapping[str, Bars], experiment: Experiment) -> pd.DataFrame:
    """Return what every forecast was about: index `time`, a column per symbol, NaN where it is not known."""
    clock_T = union_clock(bars.values())
    interval, panel = Interval(experiment.data.interval), experiment.panel
    columns = {
        symbol: horizon_log_returns(table, clock_T, interval, panel.target.horizon_bars, panel.max_gap_bars)
        for symbol, table in bars.items()
    }
    return pd.DataFrame(columns, index=pd.to_datetime(clock_T, unit="ms", utc=True).rename("time"))
