"""What `flashtrader predict` prints of a run that forecasts returns, and what families with more to show share."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashtrader.cli.console import Table, show

if TYPE_CHECKING:
    from flashtrader.forecasting.forecast import Forecasts


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
    """Return the table of scores, what `--json` says, and the notes below."""
    from flashtrader.report.formats import counted, estimate, fixed, percent

    newest = made.forecasts.iloc[-1]
    scores = made.scores
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
    payload = {
        "run": str(made.run.path),
        "split": split,
        "forecasts": str(path),
        "bars": len(made.forecasts),
        "first": made.forecasts.index[0].isoformat(),
        "last": made.forecasts.index[-1].isoformat(),
        "horizon_bars": made.horizon_bars,
        "newest": newest.to_dict(),
        "scores": [asdict(score) for score in scores],
    }
    times = made.forecasts.index
    notes = [
        f"{counted(len(times), 'bar')}, {times[0]:%Y-%m-%d %H:%M} to {times[-1]:%Y-%m-%d %H:%M} UTC, "
        f"log return over {counted(made.horizon_bars, 'bar')}: {path}",
        "R² is against forecasting no change; the interval of the IC allows for overlapping horizons.",
    ]
    if split == "all":
        notes.append("The bars that the model was trained on are among them: these scores are no test of it.")
    return Table(f"Forecasts of {made.run.path}", columns, rows), payload, notes


def beside(path: Path, name: str) -> Path:
    """Return where another file of the same forecasts goes: beside a latest.parquet, `latest_` begins its name, too."""
    return path.with_name(f"latest_{name}" if path.stem == "latest" else name)
