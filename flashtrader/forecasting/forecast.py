"""A trained run and bars → forecasts.

A run of several models forecasts a bar with those of the newest fold whose test part has begun, by their mean over the
seeds. So a forecast never comes from a model that was trained on its bar or on a later one.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flashtrader.config import PlainFamily
from flashtrader.errors import ConfigError, DataError
from flashtrader.files import replacing
from flashtrader.forecasting.scores import MeanScore, Score, mean_score, score_forecasts
from flashtrader.market.bars import digests_between
from flashtrader.market.spans import iso_time
from flashtrader.models.families import load_model
from flashtrader.models.model import GridModel
from flashtrader.models.plain import PlainModel, load_plain
from flashtrader.models.precision import autocast, device_of, pick_device
from flashtrader.models.stream import chunk_length, forecasts_of, output_rows
from flashtrader.panel.closes import PricedPanel, price_panel
from flashtrader.panel.loading import LoadedPanel, load_panel
from flashtrader.panel.panel import Panel
from flashtrader.panel.splits import Rows, split_at
from flashtrader.run import Run
from flashtrader.training.memory import explained
from flashtrader.training.summary import SeedSpread
from flashtrader.training.walk_forward import Fold, refuse_members, trained_folds

Part = Literal["test", "all", "latest"]


@dataclass(frozen=True)
class Forecasts:
    """What a run forecast.

    forecasts, outcomes: index `time` (the decision bar's opening time, UTC), a column per symbol, log return over the
    horizon; an outcome that is not known yet is NaN. plain: the same of the plain models beside the run. seeds: of
    several seeds, each one's own forecasts, whose mean `forecasts` is. folds: of a walk-forward, the forecasts of each
    fold.
    """

    run: Run
    horizon_bars: int
    forecasts: pd.DataFrame
    outcomes: pd.DataFrame
    plain: Mapping[PlainFamily, pd.DataFrame]
    seeds: Mapping[int, pd.DataFrame] = field(default_factory=dict)
    folds: Sequence[pd.DataFrame] = ()

    @property
    def scores(self) -> list[Score]:
        """The score of each symbol."""
        return score_forecasts(self.forecasts, self.outcomes, self.horizon_bars)

    @property
    def mean_scores(self) -> dict[str, MeanScore]:
        """The mean score over the symbols: of the run's family, then of each plain model."""
        tables = ((self.run.experiment.model.family, self.forecasts), *self.plain.items())
        return {name: mean_score(table, self.outcomes, self.horizon_bars) for name, table in tables}

    def spread_over_seeds(self, score: Callable[[pd.DataFrame], float]) -> SeedSpread | None:
        """Return how a score of the forecasts differs from seed to seed; None of one seed."""
        return SeedSpread.of([score(table) for table in self.seeds.values()]) if len(self.seeds) > 1 else None


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
    """Forecast stored bars with a run's best models and their scalers, as `answer_run` reads them; or with plain ones.

    Raises ConfigError for every bar of a walk-forward, TrainingError before all of its models are trained.
    """
    folds = trained_folds(run)
    loaded = load_panel(run.experiment, data_dir)
    panel, rows = loaded.panel, part_rows(run, loaded.panel, part)
    shares = [(fold, rows_of) for fold, rows_of in _share_out(folds, panel, rows) if len(rows_of)]
    stream = [[_member_values(member, loaded, rows_of) for member in fold.members] for fold, rows_of in shares]
    values_SRK = np.stack([np.concatenate(pieces) for pieces in zip(*stream, strict=True)])
    _require_forecast(run, rows, values_SRK, data_dir)
    made = _collect(run, loaded, rows, mean_over_seeds(values_SRK), _plain_values(run, loaded, shares))
    if not run.experiment.has_members:
        return made
    seeds = [member.experiment.training.seed for member in folds[0].members]
    several = len(seeds) > 1
    starts = [rows_of.start - rows.start for _, rows_of in shares]
    stops = [*starts[1:], len(rows)]
    return replace(
        made,
        seeds={seed: _table(panel, rows, own_RK) for seed, own_RK in zip(seeds, values_SRK, strict=True) if several},
        folds=[made.forecasts[start:stop] for start, stop in zip(starts, stops, strict=True)] if len(folds) > 1 else (),
    )


def _share_out(folds: Sequence[Fold], panel: Panel, rows: Rows) -> list[tuple[Fold, Rows]]:
    """Return the rows that each fold forecasts: from its test's first on until the next one's; the first's from any."""
    begins = [int(np.searchsorted(panel.timestamps, fold.test_start_ms)) for fold in folds]
    bounds = np.clip([rows.start, *begins[1:], rows.stop], rows.start, rows.stop).tolist()
    return [(fold, Rows(start, stop)) for fold, start, stop in zip(folds, bounds[:-1], bounds[1:], strict=True)]


def _member_values(run: Run, loaded: LoadedPanel, rows: Rows) -> NDArray[np.float32]:
    """Return one model's forecasts (R, K)."""
    family = run.experiment.plain_family
    if family is not None:
        model = load_plain(run.checkpoints / "best.safetensors", family, run.experiment)
        return model.forecast(_priced(run, loaded), rows)
    answers = _answer(run, loaded, rows)
    return forecasts_of(answers.model, answers.outputs_RKP)


def mean_over_seeds(values_SRK: Sequence[NDArray[np.float32]] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean forecast (R, K) of each seed's (R, K)."""
    mean_RK: NDArray[np.float32] = np.asarray(values_SRK).mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean_RK


def answer_run(run: Run, data_dir: Path, part: Part = "test") -> Answers:
    """Let the best model of a run of one read stored bars.

    part: `test` is every bar from the run's test boundary on, bars fetched since included; `all` is every bar that
    has enough before it, training bars included; `latest` is the newest closed bar.
    Raises DataError when bars are missing, TrainingError when the checkpoint is missing or damaged, ConfigError for a
    run of several models.
    """
    refuse_members(run)
    loaded = load_panel(run.experiment, data_dir)
    answers = _answer(run, loaded, part_rows(run, loaded.panel, part))
    _require_forecast(run, answers.rows, answers.outputs_RKP, data_dir)
    return answers


def _answer(run: Run, loaded: LoadedPanel, rows: Rows) -> Answers:
    experiment, model = run.experiment, load_best(run)
    at_once = f"{chunk_length(model.decoder.shape.context_bars):,} bars at once, of {len(loaded.panel.symbols)} symbols"
    message = (
        f"{run.path}: out of memory while forecasting {len(rows):,} bars: the model reads {at_once}; close what else "
        "uses the memory, forecast with --split latest, or train one with a smaller model.context_bars or model.width"
    )
    with explained(lambda: message), autocast(experiment.training, device_of(model)):
        outputs_RKP = output_rows(model, loaded.panel, rows, experiment.warmup_bars)
    return Answers(run, loaded, model, rows, outputs_RKP)


def tabulate(answers: Answers) -> Forecasts:
    """Return the symbols' forecasts in a model's answers, and what came of them."""
    run, loaded, rows = answers.run, answers.loaded, answers.rows
    values_RK = forecasts_of(answers.model, answers.outputs_RKP)
    return _collect(run, loaded, rows, values_RK, _plain_values(run, loaded, [(trained_folds(run)[0], rows)]))


def _plain_values(
    run: Run, loaded: LoadedPanel, shares: Sequence[tuple[Fold, Rows]]
) -> dict[PlainFamily, NDArray[np.float32]]:
    """Return the forecasts (R, K) of the plain models, which stand beside each fold's first member."""
    families = run.experiment.plain_models
    if not families:
        return {}
    priced = _priced(run, loaded)
    return {
        family: np.concatenate([_plain_model(fold, family).forecast(priced, rows) for fold, rows in shares])
        for family in families
    }


def _plain_model(fold: Fold, family: PlainFamily) -> PlainModel:
    first = fold.members[0]
    return load_plain(first.plain_model(family), family, first.experiment)


def _priced(run: Run, loaded: LoadedPanel) -> PricedPanel:
    return price_panel(loaded.panel, loaded.tables, run.experiment.panel.max_gap_bars)


def _require_forecast(run: Run, rows: Rows, values: NDArray[np.float32], data_dir: Path) -> None:
    if not np.isfinite(values).any():
        raise DataError(
            f"{run.path}: none of the {len(rows)} bars asked for has the {run.experiment.warmup_bars} bars before it, "
            f"without an outage, that a forecast needs; fetch more into {data_dir}"
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
    """Return the best model of a run of one, on the device that its experiment names.

    Raises TrainingError when it is damaged, ConfigError for a run of several models.
    """
    refuse_members(run)
    experiment = run.experiment
    model = load_model(run.checkpoints / "best.safetensors", experiment)
    return model.to(pick_device(experiment.training))


def load_newest(run: Run) -> list[GridModel]:
    """Return the models that a run forecasts a new bar with: its best, or those of the newest fold, one a seed."""
    return [load_best(member) for member in trained_folds(run)[-1].members]


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
    """Return the rows of a part, as in `answer_run`.

    Raises DataError when no bar is left, ConfigError for all bars of a walk-forward.
    """
    every = Rows(0, len(panel.timestamps))
    newest = Rows(every.stop - 1, every.stop)
    walks = run.experiment.split.walk_forward is not None
    if part == "all" and walks:
        raise ConfigError(
            f"{run.path}: no fold of a walk-forward leaves the bars before its first test unseen; forecast those from "
            "there on with --split test, or the newest one with --split latest"
        )
    if part == "all":
        return every
    if part == "latest" and not walks:
        return newest
    split = split_at(panel, run.read_manifest().split)
    if not len(split.test):
        other = "" if walks else ", or forecast with --split all"
        raise DataError(
            f"{run.path}: no bar at or after {iso_time(split.boundaries.test_start_ms)}, where the run's test part "
            f"begins; fetch newer bars{other}"
        )
    return newest if part == "latest" else split.test


def _table(panel: Panel, rows: Rows, values_TK: NDArray[np.float32]) -> pd.DataFrame:
    times = pd.to_datetime(panel.timestamps[rows.start : rows.stop], unit="ms", utc=True).rename("time")
    values_TS = values_TK[:, panel.symbol_targets].astype(np.float64)
    return pd.DataFrame(values_TS, index=times, columns=list(panel.symbols))
