"""The models of a run of several, in the commands' tables: of walk-forward folds, and of seeds."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from flashtrader.cli.console import Table

if TYPE_CHECKING:
    import pandas as pd

    from flashtrader.forecasting.forecast import Forecasts
    from flashtrader.training.summary import SeedSpread, TrainingSummary

_SPREAD = ("over seeds", "mean", "deviation", "lowest", "highest")


def place_of(metrics: dict[str, Any]) -> str:
    """Return which of several models the metrics of a step are of, of a run or a sweep: empty of a run of one."""
    if "trial" in metrics:
        return f"{metrics['trial']}: "
    if "member" not in metrics:
        return ""
    fold = f"fold {metrics['fold']} of {metrics['folds']}, " if metrics["folds"] > 1 else ""
    return f"{fold}seed {metrics['seed']}: "


def training_tables(summary: "TrainingSummary") -> tuple[list[Table], dict[str, Any]]:
    """Return how each model of a run was trained, for people and for `--json`; nothing of a run of one."""
    from flashtrader.report.formats import fixed
    from flashtrader.report.metric_names import SKILL_LABELS
    from flashtrader.training.summary import SeedSpread

    manifest = summary.run.manifest
    members = manifest.get("members")
    if members is None:
        return [], {}
    rows = []
    for member in members:
        if "steps" not in member:
            rows.append((member["name"], member["status"], *[""] * 4))
            continue
        skill = member["validation_skill"]
        rows.append(
            (
                member["name"],
                member["status"],
                f"{member['steps']:,}",
                f"{member['best_step']:,}",
                fixed(member["validation_loss"], 5),
                fixed(float("nan") if skill is None else skill, 4, signed=True),
            )
        )
    label = SKILL_LABELS[summary.skill]
    tables = [Table("Models", ("model", "", "steps", "best step", "validation loss", label), rows)]
    spreads = manifest["spread"]
    if spreads:
        names = {"validation_loss": "validation loss", "validation_skill": f"validation {label}"}
        tables.append(_spread_table({names[key]: SeedSpread.read(spread) for key, spread in spreads.items()}, digits=5))
    return tables, {"members": members, "spread": spreads}


def forecast_tables(made: "Forecasts") -> tuple[list[Table], dict[str, Any]]:
    """Return what each fold's forecasts were worth, and how that differs from seed to seed; nothing of a run of one."""
    from flashtrader.report.formats import estimate

    if made.outcomes.isna().all(axis=None):
        return [], {}
    tables: list[Table] = []
    payload: dict[str, Any] = {}
    name, digits = ("Sharpe of a bar", 4) if made.run.experiment.policy.kind == "weights" else ("mean IC", 3)
    if made.folds:
        scored = [(forecasts, *_figure(made, forecasts)) for forecasts in made.folds]
        rows = [
            (
                f"{number}",
                f"{forecasts.index[0]:%Y-%m-%d %H:%M}",
                f"{len(forecasts):,}",
                estimate(figure, error, digits),
            )
            for number, (forecasts, figure, error) in enumerate(scored, start=1)
        ]
        tables.append(Table("By fold", ("fold", "from", "bars", f"{name}, 95 %"), rows))
        payload["folds"] = [
            {"first": forecasts.index[0].isoformat(), "bars": len(forecasts), "score": figure, "error": error}
            for forecasts, figure, error in scored
        ]
    spread = made.spread_over_seeds(lambda forecasts: _figure(made, forecasts)[0])
    if spread is not None:
        tables.append(_spread_table({f"{name} of one seed": spread}, digits))
        payload["seeds"] = {str(seed): _figure(made, table)[0] for seed, table in made.seeds.items()}
        payload["spread"] = asdict(spread)
    return tables, payload


def _figure(made: "Forecasts", forecasts: "pd.DataFrame") -> tuple[float, float]:
    """Return what sums up forecasts, with its standard error: the mean IC, or of weights the Sharpe ratio of a bar."""
    from flashtrader.forecasting.scores import mean_score
    from flashtrader.forecasting.weight_scores import score_weights

    outcomes = made.outcomes.loc[forecasts.index]
    if made.run.experiment.policy.kind == "weights":
        own, _ = score_weights(forecasts, outcomes, made.run.experiment)
        return own.sharpe, own.sharpe_error
    score = mean_score(forecasts, outcomes, made.horizon_bars)
    return score.ic, score.ic_error


def _spread_table(spreads: dict[str, "SeedSpread"], digits: int) -> Table:
    from flashtrader.report.formats import fixed

    rows = []
    for name, spread in spreads.items():
        signed = not name.endswith("loss")
        mean, *ends = (fixed(at, digits, signed=signed) for at in (spread.mean, spread.minimum, spread.maximum))
        rows.append((name, mean, fixed(spread.deviation, digits), *ends))
    return Table("How much the seed decides", _SPREAD, rows)
