"""A trained run and bars → forecasts."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flashtrader.config import PlainFamily
from flashtrader.errors import DataError
from flashtrader.files import replacing
from flashtrader.forecasting.scores import MeanScore, Score, mean_score, score_forecasts
from flashtrader.market.bars import digests_between
from flashtrader.market.spans import iso_time
from flashtrader.models.families import load_model
from flashtrader.models.model import GridModel
from flashtrader.models.plain import PlainModel, load_plain
from flashtrader.models.precision import autocast, device_of, pick_device
from flashtrader.models.stream import forecasts_of, output_rows
from flashtrader.panel.closes import price_panel
from flashtrader.panel.loading import LoadedPanel, load_panel
from flashtrader.panel.panel import Panel
from flashtrader.panel.splits import Rows, split_at
from flashtrader.run import Run

Part = Literal["test", "all", "latest"]


@dataclass(frozen=True)
class Forecasts:
    """What a run forecast.

    forecasts, outcomes: index `time` (the decision bar's opening time, UTC), a column per symbol, log return over the
    horizon; an outcome that is not known yet is NaN. plain: the same of the plain models beside the run.
    """

    run: Run
    horizon_bars: int
    forecasts: pd.DataFrame
    outcomes: pd.DataFrame
    plain: Mapping[PlainFamily, pd.DataFrame]

    @property
    def scores(self) -> list[Score]:
        """The score of each symbol."""
        return score_forecasts(self.forecasts, self.outcomes, self.horizon_bars)

    @property
    def mean_scores(self) -> dict[str, MeanScore]:
        """The mean score over the symbols: of the run's family, then of each plain model."""
        tables = ((self.run.experiment.model.family, self.forecasts), *self.plain.items())
        return {name: mean_score(table, self.outcomes, self.horizon_bars) for name, table in tables}


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
    """Forecast stored bars with a run's best model and its scaler, as `answer_run` reads them; or with a plain one."""
    family = run.experiment.plain_family
    if family is None:
        return tabulate(answer_run(run, data_dir, part))
    loaded = load_panel(run.experiment, data_dir)
    rows = part_rows(run, loaded.panel, part)
    models = {family: load_plain(run.checkpoints / "best.safetensors", family, run.experiment)}
    values_RK = _plain_values(run, loaded, rows, models)[family]
    _require_forecast(run, rows, values_RK, data_dir)
    return _collect(run, loaded, rows, values_RK, {})


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
    _require_forecast(run, rows, outputs_RKP, data_dir)
    return Answers(run, loaded, model, rows, outputs_RKP)


def tabulate(answers: Answers) -> Forecasts:
    """Return the symbols' forecasts in a model's answers, and what came of them."""
    run, loaded, rows = answers.run, answers.loaded, answers.rows
    models = {
        family: load_plain(run.plain_model(family), family, run.experiment) for family in run.experiment.plain_models
    }
    values_RK = forecasts_of(answers.model, answers.outputs_RKP)
    return _collect(run, loaded, rows, values_RK, _plain_values(run, loaded, rows, models))


def _plain_values(
    run: Run, loaded: LoadedPanel, rows: Rows, models: Mapping[PlainFamily, PlainModel]
) -> dict[PlainFamily, NDArray[np.float32]]:
    """Return plain models' forecasts (R, K)."""
    if not models:
        return {}
    priced = price_panel(loaded.panel, loaded.tables, run.experiment.panel.max_gap_bars)
    return {family: model.forecast(priced, rows) for family, model in models.items()}


def _require_forecast(run: Run, rows: Rows, values: NDArray[np.float32], data_dir: Path) -> None:
    if not np.isfinite(values).any():
        raise DataError(
            f"{run.path}: none of the {len(rows)} bars asked for has the {run.experiment.warmup_bars} bars before it "
            f"that a forecast needs; fetch more history into {data_dir}"
        )


def _collect(
    run: Run,
    loaded: LoadedPanel,
    rows: Rows,
    values_RK: NDArray[np.float32],
    plain_RK: Mapping[PlainFamily, NDArray[np.float32]],
) -> Forecasts:
    """Return forecasts as tables that know what they are forecasts of."""
    panel, experiment = loaded.panel, run.experiment
    first_ms, last_ms = panel.timestamps[[rows.start, rows.stop - 1]].tolist()
    made_of: dict[Hashable, Any] = {
        "interval": experiment.data.interval,
        "bars": digests_between(loaded.tables, first_ms, last_ms),
        "target": experiment.panel.target.model_dump(),
    }

    def forecasts(values_RK: NDArray[np.float32]) -> pd.DataFrame:
        table = _table(panel, rows, values_RK)
        table.attrs = made_of
        return table

    return Forecasts(
        run=run,
        horizon_bars=experiment.panel.target.horizon_bars,
        forecasts=forecasts(values_RK),
        outcomes=_table(panel, rows, panel.targets[rows.start : rows.stop]),
        plain={family: forecasts(values) for family, values in plain_RK.items()},
    )


def load_best(run: Run) -> GridModel:
    """Return the run's best model, on the device that its experiment names. Raises TrainingError when it is damaged."""
    experiment = run.experiment
    model = load_model(run.checkpoints / "best.safetensors", experiment)
    return model.to(pick_device(experiment.training))


def keep_forecasts(made: Forecasts) -> None:
    """Write a run's forecasts into the run, after those of its plain models."""
    for family, table in made.plain.items():
        write_forecasts(made.run.plain_forecasts(family), table)
    write_forecasts(made.run.forecasts, made.forecasts)


def write_forecasts(path: Path, forecasts: pd.DataFrame) -> None:
    """Replace `path` by the forecasts, in one step: as CSV where it ends so, else as Parquet.

    Parquet also keeps `attrs`: the bars' interval and digests, and the target, by which a backtest knows what they are
    forecasts of.
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
