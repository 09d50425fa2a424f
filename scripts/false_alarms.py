"""Count how often pure noise is taken for skill, beside how often it may be.

    python scripts/false_alarms.py --markets 40 --strategies 1000 --out false_alarms.json

Markets: on each seed of the simulated exchange's noise-only twin, bars are fetched, a model is trained, its test bars
are forecast, traded and judged, all by the functions behind the commands: with no costs, where knowing nothing earns
nothing, and with the usual ones. Forty of them show that no link of the chain is broken, and rates only roughly.

Strategies: signals that are drawn without a look at the market, judged by the same functions without a model. So there
can be enough of them to tell a rate of 5 % from one of 7 %. They trade a fair game, prices whose simple returns are
the noise's log returns, for a log return without a mean is a simple return with one. Of the test of losses, whose null
is that two forecasts are equally good, the outcomes hold half of the forecast: then it errs as much as no change does.

An interval around a rate is the exact binomial one, Clopper & Pearson (1934).
"""

import argparse
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.signal import lfilter
from scipy.stats import binomtest

from flashtrader.arrays import Floats
from flashtrader.backtest.assessment import Assessment, assess
from flashtrader.backtest.experiment import backtest_run
from flashtrader.backtest.result import run_backtest
from flashtrader.backtest.verdict import Finding, side
from flashtrader.cli.console import Table, say, show
from flashtrader.config import BacktestConfig, Experiment
from flashtrader.files import write_json
from flashtrader.forecasting.forecast import forecast_run, keep_forecasts
from flashtrader.forecasting.skill import measure_skill
from flashtrader.interval import Interval
from flashtrader.market.bars import Bars
from flashtrader.market.fetch import fetch
from flashtrader.market.sources.simulated import GENESIS_MS, SimulatedSource
from flashtrader.market.store import Store
from flashtrader.training.loop import train_model
from flashtrader.training.manifest import describe_machine

HOURLY = Interval("60")
SYMBOLS = ("NOISE1", "NOISE2")
HORIZON_BARS = 6
STRATEGY_HORIZON_BARS = 24
FREE = {"fee_bps": 0.0, "slippage_bps": 0.0}
PERSISTENCE = 0.95
"""Autocorrelation of a drawn signal from bar to bar."""
LEVEL = 0.05
"""Of every interval and test, both sides together."""


SKILL = {
    "verdict: better than buy and hold": 0.025,
    "Sharpe ratio: better than cash": 0.025,
    "Sharpe ratio: better than buy and hold": 0.025,
}
"""How often each claim may be made of noise; the verdict's, which needs several of them at once, less often still."""
DIFFERENCE = {
    "Sharpe ratio: other than cash": 0.05,
    "Sharpe ratio: other than buy and hold": 0.05,
}
"""May be claimed of noise only where nothing is charged: costs make it worse than cash."""
FORECASTS = {
    "IC: other than zero": 0.05,
    "rank IC: other than zero": 0.05,
    "losses: less than no change": 0.025,
}
EQUALLY_GOOD = {"losses: other than no change": 0.05}
"""May be claimed of noise only where the two err alike: a model that was fitted to noise errs more."""


@dataclass(frozen=True)
class Rate:
    """How often something was claimed of noise."""

    claim: str
    alarms: int
    tries: int
    rate: float
    interval: tuple[float, float]
    """Where the true rate lies with 95 % confidence."""
    nominal: float


def experiment(family: str, seed: int) -> Experiment:
    """Return the experiment that is made on every market."""
    return Experiment.model_validate(
        {
            "name": f"noise-{seed}",
            "data": {"source": "simulated", "noise_only": True, "symbols": SYMBOLS, "interval": HOURLY.code},
            "panel": {
                "features": ["log_return", "volatility_24", "price_ratio_24"],
                "target": {"horizon_bars": HORIZON_BARS},
            },
            "split": {"validation": 0.2, "test": 0.4},
            "model": {"family": family, "context_bars": 64},
            "training": {"seed": seed},
            "policy": {"kind": "threshold", "long_above": 0.0, "short_below": 0.0, "weight": 0.5},
        }
    )


def judge_market(family: str, seed: int, num_bars: int, directory: Path) -> tuple[Assessment, Assessment]:
    """Fetch, train, forecast and trade one market; return what is said of it without costs and with them."""
    data_dir, made_of = directory / "data", experiment(family, seed)
    end_ms = GENESIS_MS + num_bars * HOURLY.milliseconds
    fetch(SimulatedSource(noise_only=True, seed=seed, now_ms=end_ms), Store(data_dir), SYMBOLS, HOURLY)
    run = train_model(made_of, data_dir, directory / "runs", lambda _: None).run
    keep_forecasts(forecast_run(run, data_dir))

    def judged(costs: dict[str, float]) -> Assessment:
        traded = made_of.model_copy(update={"backtest": made_of.backtest.model_copy(update=costs)})
        made = backtest_run(run, traded, data_dir)
        return assess(made.result, forecasts=made.forecasts, outcomes=made.outcomes, horizon_bars=HORIZON_BARS)

    return judged(FREE), judged({})


def judge_strategy(seed: int, num_bars: int) -> Assessment:
    """Trade and score signals that know nothing of a fair game, without costs."""
    bars, signal_T = fair_game(seed, num_bars), persistent_noise(seed, num_bars)
    time_T = pd.to_datetime(bars["timestamp"], unit="ms", utc=True).rename("time")
    signals = pd.DataFrame({"NOISE": signal_T}, index=pd.DatetimeIndex(time_T))
    result = run_backtest({"NOISE": bars}, signals.map(np.sign), HOURLY, BacktestConfig.model_validate(FREE))
    log_close = pd.DataFrame({"NOISE": np.log(bars["close"].to_numpy())}, index=signals.index)
    noise = log_close.diff(STRATEGY_HORIZON_BARS).shift(-STRATEGY_HORIZON_BARS)
    forecasts = signals * noise.std() / 4
    judged = assess(result, forecasts=forecasts, outcomes=noise, horizon_bars=STRATEGY_HORIZON_BARS, seed=seed)
    equally_good = measure_skill(forecasts, noise + forecasts / 2, STRATEGY_HORIZON_BARS)
    assert judged.forecast is not None
    return replace(judged, forecast=replace(judged.forecast, diebold_mariano=equally_good.diebold_mariano))


def fair_game(seed: int, num_bars: int) -> Bars:
    """Return bars whose simple returns are the log returns of the noise-only exchange."""
    source = SimulatedSource(noise_only=True, seed=seed, now_ms=GENESIS_MS + num_bars * HOURLY.milliseconds)
    bars = next(iter(source.pages("NOISE", HOURLY, source.history("NOISE", HOURLY)))).bars
    moves_T = np.log(bars["close"].to_numpy() / bars["open"].to_numpy())
    close_T = 100 * np.cumprod(1 + moves_T.clip(-0.5))
    open_T = np.append(100.0, close_T[:-1])
    return bars.assign(open=open_T, close=close_T, high=np.maximum(open_T, close_T), low=np.minimum(open_T, close_T))


def persistent_noise(seed: int, num_bars: int) -> Floats:
    """Return noise of unit variance that changes its sign about once in ten bars."""
    generator = np.random.default_rng([seed, 1])
    noise_T: Floats = lfilter([math.sqrt(1 - PERSISTENCE**2)], [1, -PERSISTENCE], generator.normal(size=num_bars))
    return noise_T


def claims_of(judged: Assessment) -> set[str]:
    """Return what an assessment claims."""
    against, forecast = judged.significance.against, judged.forecast
    assert forecast is not None
    to_cash = side(judged.significance.sharpe.interval)
    to_held = side(against["buy_and_hold"].interval) if against else 0
    squared = forecast.diebold_mariano[0]
    differs = squared.p_value < LEVEL
    made = {
        "verdict: better than buy and hold": judged.finding is Finding.BEATS_BUY_AND_HOLD,
        "Sharpe ratio: better than cash": to_cash > 0,
        "Sharpe ratio: other than cash": to_cash != 0,
        "Sharpe ratio: better than buy and hold": to_held > 0,
        "Sharpe ratio: other than buy and hold": to_held != 0,
        "IC: other than zero": side(forecast.ic.interval) != 0,
        "rank IC: other than zero": side(forecast.rank_ic.interval) != 0,
        "losses: less than no change": differs and squared.statistic > 0,
        "losses: other than no change": differs,
    }
    return {claim for claim, is_made in made.items() if is_made}


def rates_of(judged: Sequence[Assessment], nominal: Mapping[str, float]) -> list[Rate]:
    """Return how often each claim is made; none without a try."""
    if not judged:
        return []
    alarms = Counter(claim for assessment in judged for claim in claims_of(assessment))
    rates = []
    for claim, allowed in nominal.items():
        interval = binomtest(alarms[claim], len(judged)).proportion_ci(method="exact")
        rate = alarms[claim] / len(judged)
        rates.append(Rate(claim, alarms[claim], len(judged), rate, (interval.low, interval.high), allowed))
    return rates


def table(title: str, rates: Sequence[Rate]) -> Table:
    """Return a row per claim."""
    rows = [
        (
            rate.claim,
            f"{rate.alarms} of {rate.tries:,}",
            f"{rate.rate:.1%}",
            "{:.1%} to {:.1%}".format(*rate.interval),
            f"{rate.nominal:.1%}",
        )
        for rate in rates
    ]
    return Table(title, ("claimed of noise", "times", "rate", "95 % interval", "nominal"), rows)


def main() -> None:
    """Judge the markets and the strategies; print every rate and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markets", type=int, default=40)
    parser.add_argument("--bars", type=int, default=13_000, help="of a market")
    parser.add_argument("--family", choices=("ridge", "dlinear", "boosting"), default="boosting")
    parser.add_argument("--strategies", type=int, default=1_000)
    parser.add_argument("--strategy-bars", type=int, default=3_000)
    parser.add_argument("--out", type=Path, default=Path("false_alarms.json"))
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    began = time.perf_counter()

    free, charged = [], []
    for seed in range(arguments.markets):
        with tempfile.TemporaryDirectory() as directory:
            without, at_cost = judge_market(arguments.family, seed, arguments.bars, Path(directory))
        free.append(without)
        charged.append(at_cost)
        say(f"market {seed + 1} of {arguments.markets}: {without.verdict}")
    strategies = [judge_strategy(seed, arguments.strategy_bars) for seed in range(arguments.strategies)]
    rates = {
        "markets, without costs": rates_of(free, SKILL | DIFFERENCE | FORECASTS),
        "markets, at cost": rates_of(charged, SKILL),
        "strategies": rates_of(strategies, SKILL | DIFFERENCE | FORECASTS | EQUALLY_GOOD),
    }
    findings = {"without costs": Counter(a.finding for a in free), "at cost": Counter(a.finding for a in charged)}
    payload = {
        "command": " ".join(sys.argv),
        **describe_machine(experiment(arguments.family, 0), torch.device("cpu")),
        "markets": {"family": arguments.family, "bars": arguments.bars, "horizon_bars": HORIZON_BARS},
        "strategies": {"bars": arguments.strategy_bars, "horizon_bars": STRATEGY_HORIZON_BARS},
        "seconds": time.perf_counter() - began,
        "rates": {title: [asdict(rate) for rate in made] for title, made in rates.items()},
        "findings": findings,
    }
    write_json(arguments.out, payload)
    tables = [table(title[0].upper() + title[1:], made) for title, made in rates.items() if made]
    found = [
        f"markets, {costs}: " + ", ".join(f"{count} {finding}" for finding, count in counts.most_common())
        for costs, counts in findings.items()
        if counts
    ]
    show(tables, payload, arguments.json, [*found, f"written to {arguments.out}"])


if __name__ == "__main__":
    main()
