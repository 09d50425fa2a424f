"""The forecasts of an order-book run, as `flashtrader predict` shows and writes them."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashtrader.cli.console import Table, show

if TYPE_CHECKING:
    from flashtrader.config import Experiment
    from flashtrader.forecasting.book_scores import DirectionScore
    from flashtrader.forecasting.forecast import Answers

SCORES = "direction_scores.json"
"""Beside the forecasts: what they and the plain answers scored and earned."""


def show_directions(answers: "Answers", split: str, path: Path, as_json: bool) -> None:
    """Write directions, scores and their picture beside the forecasts in `path`; show the scores."""
    from flashtrader.cli.return_forecasts import beside
    from flashtrader.files import write_json
    from flashtrader.forecasting.books import forecast_directions
    from flashtrader.forecasting.forecast import tabulate, write_forecasts
    from flashtrader.report.book_plots import plot_directions
    from flashtrader.report.formats import counted
    from flashtrader.report.plots import write_png

    made, forecasts = forecast_directions(answers), tabulate(answers).forecasts
    experiment = answers.run.experiment
    directions_path = beside(path, "directions.parquet")
    write_forecasts(path, forecasts)
    write_forecasts(directions_path, made.directions)
    times, newest = forecasts.index, made.directions.iloc[-1]
    target = experiment.panel.target
    payload: dict[str, Any] = {
        "run": str(answers.run.path),
        "split": split,
        "forecasts": str(path),
        "directions": str(directions_path),
        "bars": len(forecasts),
        "first": times[0].isoformat(),
        "last": times[-1].isoformat(),
        **target.model_dump(exclude={"kind"}),
        "newest": forecasts.iloc[-1].to_dict(),
        "newest_directions": newest.drop("outcome").to_dict(),
        "scores": [asdict(score) for score in made.scores],
    }
    model, *_ = made.scores
    if model.snapshots:
        write_json(path.with_name(SCORES), payload)
        figure = plot_directions(
            model.confusion,
            [score.direction for score in model.classes],
            forecasts.iloc[:, 0].to_numpy(),
            made.moves_bps,
        )
        write_png(figure, path.with_name("directions.png"))
    probabilities = "  ".join(f"{name.removeprefix('p_')} {newest[name]:.3f}" for name in newest.index.drop("outcome"))
    notes = [
        f"{counted(len(times), 'snapshot')}, {times[0]:%Y-%m-%d %H:%M:%S} to {times[-1]:%Y-%m-%d %H:%M:%S} UTC, "
        f"P(up) − P(down) after {target.horizon_bars} snapshots: {path}",
        f"newest: {probabilities}; training balances the classes, so each counts as if it were as common as the others",
        *_notes_on_scores(made.scores, experiment, split),
    ]
    show(_tables(made.scores, experiment) if model.snapshots else [], payload, as_json, notes)


def _tables(scores: "Sequence[DirectionScore]", experiment: "Experiment") -> list[Table]:
    from flashtrader.report.formats import estimate, fixed, percent

    model, *_ = scores
    directions = [score.direction for score in model.classes]
    answers = [
        (
            score.name,
            f"{percent(score.accuracy)} ± {percent(1.96 * score.accuracy_error)}",
            fixed(score.macro_f1, 3),
            *(fixed(part.f1, 3) for part in score.classes),
        )
        for score in scores
    ]
    by_outcome = [
        (part.direction, *(f"{count:,}" for count in counts), percent(part.precision), percent(part.recall))
        for part, counts in zip(model.classes, model.confusion, strict=True)
    ]
    earned = [
        (
            score.name,
            f"{score.pnl.signals:,}",
            estimate(score.pnl.mean_bps, score.pnl.error_bps, 3),
            estimate(score.pnl.mid_mean_bps, score.pnl.mid_error_bps, 3),
        )
        for score in scores
    ]
    return [
        Table(
            f"Where {experiment.data.symbols[0]} goes: {model.snapshots:,} snapshots with outcome",
            ("answers", "accuracy, 95 %", "macro F1", *(f"F1 {direction}" for direction in directions)),
            answers,
        ),
        Table(
            "The model's answers by outcome",
            ("outcome", *(f"said {direction}" for direction in directions), "precision", "recall"),
            by_outcome,
        ),
        Table("PnL of a signal in bp", ("answers", "signals", "after spread, 95 %", "at the mid, 95 %"), earned),
    ]


def _notes_on_scores(scores: "Sequence[DirectionScore]", experiment: "Experiment", split: str) -> list[str]:
    from flashtrader.report.formats import plain

    if not scores[0].snapshots:
        return ["no snapshot has both a forecast and a known outcome: nothing to score"]
    fees_bps = 2 * experiment.backtest.fee_bps
    return [
        "A signal buys at the ask, or sells at the bid, one snapshot after its decision, and leaves at the other side "
        f"{experiment.panel.target.horizon_bars} snapshots later; fees are not in it: by backtest.fee_bps, "
        f"{plain(fees_bps)} bp for both trades.",
        "Intervals allow for overlapping horizons. Persistence repeats the newest move that is known; majority and "
        "imbalance (a logistic regression) learn from the training part.",
        *(
            ["The snapshots that the model was trained on are among them: these scores are no test of it."]
            if split == "all"
            else []
        ),
    ]
