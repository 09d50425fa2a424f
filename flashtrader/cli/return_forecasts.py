"""What `flashtrader predict` prints of a run that forecasts returns, and what families with more to show share."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashtrader.cli.console import Table, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashtrader.forecasting.forecast import Forecasts
    from flashtrader.forecasting.scores import Score


def show_returns(made: "Forecasts", split: str, path: Path, as_json: bool) -> None:
    """Print the newest forecasts, and how all of them, each model's and the plain models' score."""
    from flashtrader.cli.assessment_tables import skill_table
    from flashtrader.cli.member_tables import forecast_tables
    from flashtrader.cli.plain_tables import score_tables
    from flashtrader.forecasting.skill import measure_skill

    table, payload, notes = describe(made, split, path)
    skill = measure_skill(made.forecasts, made.outcomes, made.horizon_bars)
    payload["skill"] = asdict(skill)
    worth = [skill_table(skill)] if skill.bars else []
    models, of_models = forecast_tables(made)
    payload["plain"] = {model: asdict(score) for model, score in made.mean_scores.items()} if made.plain else {}
    show([table, *worth, *models, *score_tables(made)], payload | of_models, as_json, notes)


def describe(made: "Forecasts", split: str, path: Path) -> tuple[Table, dict[str, Any], list[str]]:
    """Return the table of forecasts and their scores, what `--json` says, and the notes below."""
    from flashtrader.report.formats import counted

    scores = made.scores
    payload = {
        "run": str(made.run.path),
        "split": split,
        "forecasts": str(path),
        "bars": len(made.forecasts),
        "first": made.forecasts.index[0].isoformat(),
        "last": made.forecasts.index[-1].isoformat(),
        "horizon_bars": made.horizon_bars,
        "newest": made.forecasts.iloc[-1].to_dict(),
        "scores": [asdict(score) for score in scores],
    }
    times = made.forecasts.index
    notes = [
        f"{counted(len(times), 'bar')}, {times[0]:%Y-%m-%d %H:%M} to {times[-1]:%Y-%m-%d %H:%M} UTC, "
        f"log return over {counted(made.horizon_bars, 'bar')}: {path}"
    ]
    if not any(score.bars for score in scores):
        return _newest(made), payload, notes
    notes.append("R² is against forecasting no change; the interval of the IC allows for overlapping horizons.")
    if split == "all":
        notes.append("The bars that the model was trained on are among them: these scores are no test of it.")
    return _scored(made, scores), payload, notes


def _scored(made: "Forecasts", scores: "Sequence[Score]") -> Table:
    from flashtrader.report.formats import estimate, fixed, percent

    newest = made.forecasts.iloc[-1]
    rows = [
        (
            score.symbol,
            f"{score.bars:,}",
            estimate(score.ic, score.ic_error, 3),
            fixed(score.rank_ic, 3, signed=True),
            fixed(score.r2, 3, signed=True),
            percent(score.direction),
            percent(newest[score.symbol], 3, signed=True),
        )
        for score in scores
    ]
    columns = ("symbol", "bars", "IC, 95 %", "rank IC", "R²", "direction", "newest")
    return Table(f"Forecasts of {made.run.path}", columns, rows)


def _newest(made: "Forecasts") -> Table:
    """Return what each model forecasts of the newest bar, where no outcome is known to score it by."""
    import pandas as pd

    from flashtrader.report.formats import percent

    tables = ((made.run.experiment.model.family, made.forecasts), *made.plain.items())
    newest = pd.DataFrame({model: table.iloc[-1] for model, table in tables})
    rows = [
        (str(symbol), *(percent(forecast, 3, signed=True) for forecast in forecasts))
        for symbol, *forecasts in newest.itertuples()
    ]
    return Table(f"Forecasts of {made.run.path}", ("symbol", *newest.columns), rows)


def beside(path: Path, name: str) -> Path:
    """Return where another file of the same forecasts goes: beside a latest.parquet, `latest_` begins its name, too."""
    return path.with_name(f"latest_{name}" if path.stem == "latest" else name)
