"""`flashtrader predict`."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flashtrader.cli.console import AsJson, DataDir, RunName, RunsDir, Table, show

if TYPE_CHECKING:
    from flashtrader.forecasting.forecast import Forecasts


class Part(StrEnum):
    """Which bars to forecast."""

    TEST = "test"
    ALL = "all"
    LATEST = "latest"


def predict(
    run: RunName = None,
    split: Annotated[
        Part, typer.Option("--split", help="Bars after the run's test boundary, every bar, or the newest closed one.")
    ] = Part.TEST,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Where to write; the run's forecasts.parquet unless given.", show_default=False),
    ] = None,
    data_dir: DataDir = Path("data"),
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Forecast stored bars with a trained run."""
    from flashtrader.forecasting.forecast import forecast_run, write_forecasts
    from flashtrader.run import find_run

    made = forecast_run(find_run(runs_dir, run), data_dir, split.value)
    path = out or made.run.forecasts
    write_forecasts(path, made.forecasts)
    _show(made, split, path, as_json)


def _show(made: "Forecasts", split: Part, path: Path, as_json: bool) -> None:
    from flashtrader.report.formats import fixed, percent

    newest = made.forecasts.iloc[-1]
    scores = made.scores
    rows = [
        (
            score.symbol,
            f"{score.bars:,}",
            f"{fixed(score.ic, 3, signed=True)} ± {fixed(1.96 * score.ic_error, 3)}",
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
        "split": split.value,
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
        f"{len(times):,} bars, {times[0]:%Y-%m-%d %H:%M} to {times[-1]:%Y-%m-%d %H:%M} UTC, "
        f"log return over {made.horizon_bars} bars: {path}",
        "R² is against forecasting no change; the interval of the IC allows for overlapping horizons.",
    ]
    if split is Part.ALL:
        notes.append("The bars that the model was trained on are among them: these scores are no test of it.")
    show([Table(f"Forecasts of {made.run.path}", columns, rows)], payload, as_json, notes)
