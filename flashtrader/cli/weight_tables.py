"""What `flashtrader predict` prints of a run that answers with target weights."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from flashtrader.cli.console import Table, show

if TYPE_CHECKING:
    from flashtrader.forecasting.forecast import Forecasts


def show_weights(made: "Forecasts", split: str, path: Path, as_json: bool) -> None:
    """Print the newest weights, and what all of them earned beside equal ones."""
    from flashtrader.cli.member_tables import forecast_tables
    from flashtrader.forecasting.weight_scores import score_weights
    from flashtrader.report.formats import counted, estimate, fixed, percent

    experiment, times = made.run.experiment, made.forecasts.index
    scores = score_weights(made.forecasts, made.outcomes, experiment)
    newest = made.forecasts.iloc[-1]
    rows = [
        (
            score.name,
            f"{score.bars:,}",
            percent(score.gross),
            percent(score.turnover, 2),
            percent(score.net_return, 4, signed=True),
            estimate(score.sharpe, score.sharpe_error, 4),
            fixed(score.annual_sharpe, 2, signed=True),
        )
        for score in scores
    ]
    columns = ("", "bars", "gross", "turnover", "net return", "Sharpe, 95 %", "a year")
    payload = {
        "run": str(made.run.path),
        "split": split,
        "forecasts": str(path),
        "bars": len(made.forecasts),
        "first": times[0].isoformat(),
        "last": times[-1].isoformat(),
        "newest": newest.to_dict(),
        "scores": [asdict(score) for score in scores],
    }
    backtest = experiment.backtest
    notes = [
        f"{counted(len(times), 'bar')}, {times[0]:%Y-%m-%d %H:%M} to {times[-1]:%Y-%m-%d %H:%M} UTC, "
        f"target weights: {path}",
        f"Net of {backtest.cost_rate * 1e4:g} bp of fees, spread and slippage a side, every trade made: "
        "backtest.no_trade_band plays no part here.",
    ]
    if split == "all":
        notes.append("The bars that the model was trained on are among them: these scores are no test of it.")
    weights = [(str(symbol), percent(weight, 2, signed=True)) for symbol, weight in newest.items()]
    models, of_models = forecast_tables(made)
    show(
        [
            Table(f"Weights of {made.run.path}: means over bars", columns, rows),
            *models,
            Table("Newest", ("symbol", "weight"), weights),
        ],
        payload | of_models,
        as_json,
        notes,
    )
