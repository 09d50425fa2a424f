"""What `flashtrader predict` makes and prints of a run of family candles."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashtrader.cli.console import Table, milliseconds, show

if TYPE_CHECKING:
    from flashtrader.forecasting.candle_scores import BandScore, Calibration, Errors, FeatureScore
    from flashtrader.forecasting.candles import CandleForecasts, RolledOut
    from flashtrader.forecasting.forecast import Answers
    from flashtrader.run import Run

_NUM_PATHS, _NUM_STARTS = 200, 10
_FEWEST_BARS_SEEN = 30  # before a fan chart's decision
_SPACES = {
    "z": ("z-scores of logarithms", 1.0),
    "price": ("currency, volume as it is", 1.0),
    "return": ("log change from this close and volume, %", 100.0),
}
"""What a space is called, and how many of its printed units make one."""


@dataclass(frozen=True)
class RolloutRequest:
    """What `--rollout` and the options beside it ask for."""

    num_bars: int
    num_paths: int
    decision_ms: int | None
    num_starts: int


def rollout_request(
    run: "Run", num_bars: int | None, num_paths: int | None, decision: str | None, num_starts: int | None
) -> RolloutRequest | None:
    """Return what the options ask for; None without `--rollout`. Raises ConfigError where they can't be followed."""
    from flashtrader.errors import ConfigError

    if num_bars is None:
        given = {"--paths": num_paths, "--from": decision, "--starts": num_starts}
        for option, value in given.items():
            if value is not None:
                raise ConfigError(f"{option} needs --rollout BARS beside it")
        return None
    model = run.experiment.model
    if model.family != "candles":
        raise ConfigError(f"--rollout: {run.path} is of family {model.family}; only runs of family candles roll out")
    draws = model.distribution != "point"
    return RolloutRequest(
        num_bars=num_bars,
        num_paths=(_NUM_PATHS if draws else 0) if num_paths is None else num_paths,
        decision_ms=milliseconds("--from", decision),
        num_starts=_NUM_STARTS if num_starts is None else num_starts,
    )


def predict_candles(answers: "Answers", split: str, path: Path, request: RolloutRequest | None, as_json: bool) -> None:
    """Show the next candles, their scores and, if asked for, a rollout; write all of it beside the forecasts."""
    from flashtrader.cli.return_forecasts import beside, describe
    from flashtrader.forecasting.candles import forecast_candles
    from flashtrader.forecasting.forecast import write_forecasts

    made = forecast_candles(answers)
    close = made.close
    write_forecasts(path, close.forecasts)
    candles = beside(path, "candles.parquet")
    write_forecasts(candles, made.candles)
    table, payload, notes = describe(close, split, path)
    payload |= {
        "candles": str(candles),
        "newest_candle": made.candles.iloc[-1].to_dict(),
        "candle_scores": [asdict(score) for score in made.scores],
        "calibration": [asdict(score) for score in made.calibration],
    }
    tables, written = [table], [candles]
    if made.scores[0].bars:
        tables += [_score_table(made.scores, space) for space in _SPACES]
        written.append(_draw_forecasts(made, path.parent))
        notes.append(
            "Persistence repeats this candle; of log changes it is no change from this close, the better guess of an "
            "open. Skill is 1 − error / persistence's; ± is its 95 % interval, autocorrelation allowed for."
        )
    if made.calibration:
        tables.append(_calibration_table(made.calibration))
        written.append(_draw_calibration(made, path.parent))
        notes.append(
            "Coverage is of the central intervals. CRPS is the mean error of a whole distribution, here of logarithms; "
            "its skill is against the moves of all training bars, forecast at every bar."
        )
    if request is not None:
        tables += _roll_out(made, request, path.parent, payload, written)
    payload["written"] = [str(file) for file in written]
    notes.append(f"written to {path.parent}: {', '.join(file.name for file in written)}")
    show(tables, payload, as_json, notes)


def _score_table(scores: "Sequence[FeatureScore]", space: str) -> Table:
    """Return two rows for each feature, the model's errors above persistence's, and the means of both."""
    from flashtrader.forecasting.candle_scores import mean_errors

    name, scale = _SPACES[space]
    of_space = [score for score in scores if score.space == space]
    rows = []
    for score in of_space:
        rows.append((score.feature, *_errors(score.model, scale), _skill(score.mse_skill), _skill(score.mae_skill)))
        intervals = _interval(score.mse_skill_error), _interval(score.mae_skill_error)
        rows.append(("persisted", *_errors(score.persistence, scale), *intervals))
    ours, theirs = (mean_errors([getattr(score, who) for score in of_space]) for who in ("model", "persistence"))
    rows += [("mean of 5", *_errors(ours, scale), "", ""), ("persisted", *_errors(theirs, scale), "", "")]
    columns = ("", "MSE", "RMSE", "MAE", "MAPE", "R²", "MSE\nskill", "MAE\nskill")
    return Table(f"Next candle, {of_space[0].bars:,} bars: {name}", columns, rows)


def _errors(errors: "Errors", scale: float) -> tuple[str, ...]:
    from flashtrader.report.formats import UNKNOWN, fixed, significant

    lengths = (scale**2 * errors.mse, scale * errors.rmse, scale * errors.mae)
    mape = UNKNOWN if isnan(errors.mape) else f"{significant(100 * errors.mape)}%"
    return *map(significant, lengths), mape, fixed(errors.r2, 4 if errors.r2 > -10 else 1)


def _skill(skill: float) -> str:
    from flashtrader.report.formats import percent

    return percent(skill, 1 if skill > -10 else 0, signed=True)


def _interval(error: float) -> str:
    """Return the half width of a 95 % interval; nothing without one."""
    from flashtrader.report.formats import percent

    return "" if isnan(error) else f"± {percent(1.96 * error, 1 if error < 0.5 else 0)}"


def _calibration_table(calibration: "Sequence[Calibration]") -> Table:
    from flashtrader.report.formats import percent, significant

    rows = [
        (
            score.feature,
            *(percent(share) for share in (score.coverage_50, score.coverage_80, score.coverage_95)),
            *(significant(100 * crps) for crps in (score.crps, score.training_crps)),
            f"{_skill(score.crps_skill)} {_interval(score.crps_skill_error)}",
        )
        for score in calibration
    ]
    columns = ("", "in 50%", "in 80%", "in 95%", "CRPS, %", "training's", "skill")
    return Table(f"Its distribution, {calibration[0].bars:,} bars", columns, rows)


def _roll_out(
    made: "CandleForecasts", request: RolloutRequest, directory: Path, payload: dict[str, Any], written: list[Path]
) -> list[Table]:
    """Write a rollout and its picture, and check the bands of others; return what there is to print of both."""
    from flashtrader.forecasting.candles import check_bands, roll_out
    from flashtrader.forecasting.forecast import write_forecasts

    rolled = roll_out(made, request.num_bars, request.num_paths, request.decision_ms)
    file = directory / "rollout.parquet"
    write_forecasts(file, rolled.table)
    written += [file, _draw_fan(made, rolled, directory)]
    bands = check_bands(made, request.num_bars, request.num_starts) if request.num_paths else []
    payload["rollout"] = {
        "decision": rolled.decision.isoformat(),
        "bars": request.num_bars,
        "paths": request.num_paths,
        "last": rolled.table.iloc[-1].to_dict(),
        "bands": [asdict(score) for score in bands],
    }
    return [_path_table(rolled), *([_band_table(bands)] if bands else [])]


def _path_table(rolled: "RolledOut") -> Table:
    """Return the close after a step, a quarter, a half and all of a rollout."""
    from flashtrader.panel.candles import CLOSE
    from flashtrader.report.formats import significant

    table = rolled.table.assign(came=rolled.came_HC[:, CLOSE])
    steps = sorted({1, *(-(-len(table) * quarter // 4) for quarter in (1, 2, 3, 4))})
    columns = {"close": "point path"}
    columns |= {name: f"{int(name[-2:])}%" for name in table.columns if name.startswith("close_q")}
    columns |= {"came": "came"}
    rows = [(f"{step:,}", *(significant(table[name].iloc[step - 1], 6) for name in columns)) for step in steps]
    num_paths = len(rolled.rollout.paths)
    title = f"Close after {rolled.decision:%Y-%m-%d %H:%M} UTC, {num_paths:,} sample paths"
    return Table(title, ("step", *columns.values()), rows)


def _band_table(bands: "Sequence[BandScore]") -> Table:
    from flashtrader.report.formats import percent

    rows = [
        (
            score.feature,
            f"{percent(score.coverage_50)} {_interval(score.coverage_50_error)}",
            f"{percent(score.coverage_90)} {_interval(score.coverage_90_error)}",
        )
        for score in bands
    ]
    title = f"Steps inside their bands, {bands[0].rollouts} rollouts"
    return Table(title, ("", "50% band", "90% band"), rows)


def _draw_forecasts(made: "CandleForecasts", directory: Path) -> Path:
    import numpy as np

    from flashtrader.forecasting.candle_scores import FEATURES, held_logs
    from flashtrader.panel.candles import log_candles
    from flashtrader.report.candle_plots import plot_candle_forecasts
    from flashtrader.report.plots import write_png

    scored_T = np.isfinite(made.forecast_TC).all(axis=1) & np.isfinite(made.next_TC).all(axis=1)
    levels = made.forecast_TC[scored_T], made.next_TC[scored_T]
    held_RC = held_logs(made.this_TC[scored_T])
    changes = log_candles(levels[0]) - held_RC, log_candles(levels[1]) - held_RC
    r2_C = [score.model.r2 for score in made.scores if score.space == "return"]
    path = directory / "candles.png"
    write_png(plot_candle_forecasts(made.timestamps[scored_T], levels, changes, FEATURES, r2_C), path)
    return path


def _draw_calibration(made: "CandleForecasts", directory: Path) -> Path:
    from flashtrader.forecasting.candle_scores import FEATURES
    from flashtrader.report.candle_plots import plot_calibration
    from flashtrader.report.plots import write_png

    path = directory / "calibration.png"
    write_png(plot_calibration(made.pit_RC, FEATURES), path)
    return path


def _draw_fan(made: "CandleForecasts", rolled: "RolledOut", directory: Path) -> Path:
    import numpy as np

    from flashtrader.forecasting.candle_scores import BAND_LEVELS
    from flashtrader.panel.candles import CLOSE
    from flashtrader.report.candle_plots import plot_fan
    from flashtrader.report.plots import write_png
    from flashtrader.report.summaries import Curve

    (bars,) = made.answers.loaded.tables.values()
    times, closes = bars["timestamp"].to_numpy(), bars["close"].to_numpy()
    seen = slice(max(0, rolled.row + 1 - max(len(rolled.came_HC), _FEWEST_BARS_SEEN)), rolled.row + 1)
    came_HC, ahead = rolled.came_HC, rolled.rollout.timestamps
    there_H = np.isfinite(came_HC[:, CLOSE])
    figure = plot_fan(
        before=Curve(times[seen], closes[seen]),
        timestamps=ahead,
        levels=BAND_LEVELS if len(rolled.bands) else (),
        bands_QH=rolled.bands[..., CLOSE],
        point_H=rolled.rollout.point[:, CLOSE],
        after=Curve(ahead[there_H], came_HC[there_H, CLOSE]),
    )
    path = directory / "rollout.png"
    write_png(figure, path)
    return path
