"""The plain models beside a run, in the commands' tables."""

from typing import TYPE_CHECKING

from flashtrader.cli.console import Table

if TYPE_CHECKING:
    from flashtrader.backtest.result import BacktestResult
    from flashtrader.forecasting.forecast import Forecasts
    from flashtrader.training.summary import TrainingSummary

_BACKTEST_KEYS = ("total_return", "sharpe", "max_drawdown", "num_trades", "total_cost")


def validation_tables(summary: "TrainingSummary") -> list[Table]:
    """Return how a run and its plain models did on the validation bars; no table without plain models."""
    from flashtrader.report.formats import fixed

    beside = summary.run.manifest.get("plain_models")
    if not beside:
        return []
    scores = {summary.run.experiment.model.family: (summary.validation_loss, summary.validation_skill)} | {
        family: (score["validation_loss"], score["validation_ic"]) for family, score in beside.items()
    }
    rows = [
        (family, fixed(loss, 5), fixed(float("nan") if ic is None else ic, 4, signed=True))
        for family, (loss, ic) in scores.items()
    ]
    return [Table("Beside plain models", ("model", "validation loss", "IC"), rows)]


def score_tables(made: "Forecasts") -> list[Table]:
    """Return how good a run's forecasts and its plain models' were; no table without plain models or outcomes."""
    from flashtrader.report.formats import estimate, fixed, percent

    if not made.plain or made.outcomes.isna().all(axis=None):
        return []
    rows = [
        (
            model,
            estimate(score.ic, score.ic_error, 3),
            fixed(score.r2, 4, signed=True),
            fixed(score.skill, 4, signed=True),
            percent(score.direction),
        )
        for model, score in made.mean_scores.items()
    ]
    columns = ("model", "mean IC, 95 %", "R²", "skill", "direction")
    return [Table("Beside plain models: means over the markets", columns, rows)]


def backtest_tables(result: "BacktestResult") -> list[Table]:
    """Return what plain models would have earned by the same policy; no table without plain models."""
    from flashtrader.report.metric_names import METRIC_NAMES

    names = [name for name in METRIC_NAMES if name.key in _BACKTEST_KEYS]
    measured = {"strategy": result.metrics} | {family: traded.metrics for family, traded in result.plain.items()}
    rows = [(model, *(name.text(getattr(metrics, name.key)) for name in names)) for model, metrics in measured.items()]
    columns = ("model", *(name.label for name in names))
    return [Table("Beside plain models, traded by the same policy", columns, rows)] if result.plain else []
