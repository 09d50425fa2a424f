"""A trained run and bars → forecasts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flashtrader.errors import DataError
from flashtrader.files import replacing
from flashtrader.forecasting.scores import Score, score_forecasts
from flashtrader.market.bars import digests_between
from flashtrader.market.spans import iso_time
from flashtrader.models.families import load_model
from flashtrader.models.model import GridModel
from flashtrader.models.precision import autocast, device_of, pick_device
from flashtrader.models.stream import forecasts_of, output_rows
from flashtrader.panel.loading import LoadedPanel, load_panel
from flashtrader.panel.panel import Panel
from flashtrader.panel.splits import Rows, split_at
from flashtrader.run import Run

Part = Literal["test", "all", "latest"]


@dataclass(frozen=True)
class Forecasts:
    """What a run forecast.

    forecasts, outcomes: index `time` (the decision bar's opening time, UTC), a column per symbol, log return over the
    horizon; an outcome that is not known yet is NaN.
    """

    run: Run
    horizon_bars: int
    forecasts: pd.DataFrame
    outcomes: pd.DataFrame

    @property
    def scores(self) -> list[Score]:
        """The score of each symbol."""
        return score_forecasts(self.forecasts, self.outcomes, self.horizon_bars)


@dataclass(frozen=True, eq=False)
class Answers:
    """What a run's best model answered at stored bars."""

    run: Run
    loaded: LoadedPanel
    model: GridModel
    rows: Rows
    outputs_RKP: NDArray[np.float32]
    """At the close of each row; NaN where there is no forecast."""


def forecast_run(run: Run, data_dir: Path, part: Part = "test") -> Forecasts:
    """Forecast stored bars with a run's best model and its scaler, as `answer_run` reads them."""
    return tabulate(answer_run(run, data_dir, part))


def answer_run(run: Run, data_dir: Path, part: Part = "test") -> Answers:
    """Let a run's best model read stored bars.

    part: `test` is every bar from the run's test boundary on, bars fetched since included; `all` is every bar that
    has enough before it, training bars included; `latest` is the newest closed bar.
    Raises DataError when bars are missing, TrainingError when the checkpoint is missing or damaged.
    """
    experiment = run.experiment
    loaded = load_panel(experiment, data_dir)
    model = load_best(run)
    rows = part_rows(run, loaded.panel, part)
    with autocast(experiment.training, device_of(model)):
        outputs_RKP = output_rows(model, loaded.panel, rows, experiment.warmup_bars)
    if not np.isfinite(outputs_RKP).any():
        raise DataError(
            f"{run.path}: none of the {rows.stop - rows.start} bars asked for has the {experiment.warmup_bars} bars "
            f"before it that a forecast needs; fetch more history into {data_dir}"
        )
    return Answers(run, loaded, model, rows, outputs_RKP)


def tabulate(answers: Answers) -> Forecasts:
    """Return the symbols' forecasts in a model's answers, and what came of them."""
    experiment, panel, rows = answers.run.experiment, answers.loaded.panel, answers.rows
    forecasts = _table(panel, rows, forecasts_of(answers.model, answers.outputs_RKP))
    first_ms, last_ms = panel.timestamps[[rows.start, rows.stop - 1]].tolist()
    forecasts.attrs = {
        "interval": experiment.data.interval,
        "bars": digests_between(answers.loaded.tables, first_ms, last_ms),
    }
    return Forecasts(
        run=answers.run,
        horizon_bars=experiment.panel.target.horizon_bars,
        forecasts=forecasts,
        outcomes=_table(panel, rows, panel.targets[rows.start : rows.stop]),
    )


def load_best(run: Run) -> GridModel:
    """Return the run's best model, on the device that its experiment names. Raises TrainingError when it is damaged."""
    experiment = run.experiment
    model = load_model(run.checkpoints / "best.safetensors", experiment)
    return model.to(pick_device(experiment.training))


def write_forecasts(path: Path, forecasts: pd.DataFrame) -> None:
    """Replace `path` by the forecasts, in one step: as CSV where it ends so, else as Parquet.

    Parquet also keeps `attrs`: the bars' interval and digests, by which a backtest knows what they are forecasts of.
    """
    with replacing(path) as temporary:
        if path.suffix.lower() == ".csv":
            forecasts.to_csv(temporary)
        else:
            forecasts.to_parquet(temporary)


def part_rows(run: Run, panel: Panel, part: Part) -> Rows:
    """Return the rows of a part, as in `forecast_run`. Raises DataError when no bar is left for the test part."""
    match part:
        case "all":
            return Rows(0, len(panel.timestamps))
        case "latest":
            return Rows(len(panel.timestamps) - 1, len(panel.timestamps))
        case "test":
            split = split_at(panel, run.manifest.get("split"))
            if not len(split.test):
                raise DataError(
                    f"{run.path}: no bar at or after {iso_time(split.boundaries.test_start_ms)}, where the run's test "
                    "part begins; fetch newer bars, or forecast with --split all"
                )
            return split.test


def _table(panel: Panel, rows: Rows, values_TK: NDArray[np.float32]) -> pd.DataFrame:
    times = pd.to_datetime(panel.timestamps[rows.start : rows.stop], unit="ms", utc=True).rename("time")
    values_TS = values_TK[:, panel.symbol_targets].astype(np.float64)
    return pd.DataFrame(values_TS, index=times, columns=list(panel.symbols))
