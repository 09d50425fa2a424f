"""A backtest result to files: `backtest.json` and tables that pandas reads back."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flashtrader.backtest.assessment import Assessment, assess
from flashtrader.backtest.prices import FUNDING_HOURS
from flashtrader.backtest.result import BacktestResult
from flashtrader.files import replacing, write_json


def write_backtest(
    result: BacktestResult, directory: Path, experiment: Mapping[str, Any], assessment: Assessment | None = None
) -> None:
    """Write `equity.parquet`, `trades.parquet`, `weights.parquet` and `backtest.json` to `directory`.

    experiment: the settings behind the weights, recorded in `backtest.json`. assessment: of the result; unless
    given, that of a backtest that is the only one of its kind. Each file is replaced in one step, and `backtest.json`
    comes last: once it is there, the tables are.
    """
    _write_table(pd.DataFrame({"equity": result.equity}, index=result.time), directory / "equity.parquet")
    _write_table(trades(result), directory / "trades.parquet")
    _write_table(result.weights, directory / "weights.parquet")
    write_json(directory / "backtest.json", summary(result, assessment) | {"experiment": experiment})


def trades(result: BacktestResult) -> pd.DataFrame:
    """Return a row per filled order, in order of time: time, symbol, side, price, value, quantity, cost.

    `time` is the decision bar's opening time; `value` and `cost` are in currency, `quantity` in units of the asset, and
    all are positive.
    """
    rows, assets = np.nonzero(result.traded)
    prices = result.prices[rows, assets]
    traded = result.traded[rows, assets]
    values = np.abs(traded)
    return pd.DataFrame(
        {
            "time": result.time[rows],
            "symbol": pd.Categorical.from_codes(assets, categories=pd.Index(result.symbols)),
            "side": pd.Categorical.from_codes((traded < 0).astype(np.int8), categories=pd.Index(["buy", "sell"])),
            "price": prices,
            "value": values,
            "quantity": values / prices,
            "cost": result.rates.of_orders(result.traded),
        }
    )


def summary(result: BacktestResult, assessment: Assessment | None = None) -> dict[str, Any]:
    """Return what `backtest.json` holds. A figure that is not defined is NaN here and null there."""
    assessment = assessment or assess(result)
    config = result.config
    time = result.time
    return {
        "verdict": assessment.verdict,
        "finding": str(assessment.finding),
        "significance": asdict(assessment.significance),
        "forecast": None if assessment.forecast is None else asdict(assessment.forecast),
        "metrics": asdict(result.metrics),
        "references": {
            name: asdict(reference.metrics) for name, reference in (result.references | result.plain).items()
        },
        "symbols": list(result.symbols),
        "period": {
            "start": time[0].isoformat(),
            "end": time[-1].isoformat(),
            "bars": len(time),
            "interval": result.interval.code,
            "calendar": config.calendar,
        },
        "ruined_at": time[-1].isoformat() if result.ruined_at is not None else None,
        "rules": {
            "initial_equity": config.initial_equity,
            "fill": config.fill,
            "no_trade_band": config.no_trade_band,
            "max_gross": config.max_gross,
            "maintenance_margin": config.maintenance_margin,
        },
        "costs": _costs(result),
        "cost_multiples": [{"multiple": multiple} | asdict(metrics) for multiple, metrics in result.multiples.items()],
        "funding": _funding(result),
    }


def _costs(result: BacktestResult) -> dict[str, Any]:
    keys = (
        *("fee_bps", "maker_fee_bps", "maker_share", "half_spread_bps", "slippage_bps", "volatility_slippage"),
        *("impact_coefficient", "impact_exponent", "liquidity_bars", "liquidation_fee_bps"),
    )
    return {
        **{key: getattr(result.config, key) for key in keys},
        "total": result.metrics.total_cost,
        "parts": {name: float(part_T.sum()) for name, part_T in vars(result.cost_parts).items()},
        "liquidation_fees": float(result.liquidation_fees.sum()),
        "unfilled_orders": result.unfilled,
    }


def _funding(result: BacktestResult) -> dict[str, Any]:
    rate = result.config.funding_rate
    constant = isinstance(rate, float)
    return {
        "used": "constant" if constant else rate or "none",
        "rate": rate if constant else None,
        "every_hours": FUNDING_HOURS if constant else None,
        "total": float(result.funding.sum()),
    }


def _write_table(table: pd.DataFrame, path: Path) -> None:
    with replacing(path) as temporary:
        table.to_parquet(temporary)
