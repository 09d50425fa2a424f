"""Score our models by the literature's protocol on the exchange-rate benchmark, beside persistence.

    python scripts/exchange_rate.py exchange_rate-D-close.parquet --out exchange_rate.json

Daily rates of eight currencies. By time 70 % of the days are for training, 10 % for validation, 20 % for the test; each
series is z-scored by its training days. From the last 96 days the next 96, 192, 336 or 720 are forecast, at every day
of a part whose future lies within it; the test's first look-back reaches into validation. MSE and MAE are means over
windows, days ahead and series. Lai et al. (2018), LSTNet, made the data; Wu et al. (2021), Autoformer, section 4, the
protocol. Code that follows it often drops the test's last, incomplete batch; here every window counts.

Every model forecasts changes from the newest day, so that "no change", persistence, is their zero:

transformer  our decoder over day × currency, trained by our loop with a label at every day: two layers that each see 48
             days of daily changes see 95 of them together, the look-back's 96 days and not one more
dlinear      linear in the trend of a series' look-back and in what is left of it, for each day ahead (Zeng et al. 2023)
ridge        linear in a series' look-back, for each day ahead

Both linear models choose the penalty of each series and day ahead on the validation days, the transformer the step at
which it stops. Nothing is chosen by the test. Shapes: T days, A series, H days ahead, R windows, L look-back.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from flashtrader.cli.console import Table, say, show
from flashtrader.config import Experiment
from flashtrader.files import write_json
from flashtrader.interval import Interval
from flashtrader.manifest import Boundaries
from flashtrader.models.cache import KeyValueCache
from flashtrader.models.model import zero_head
from flashtrader.models.plain_linear import NormalEquations, fit_ridge, smoothing
from flashtrader.models.portfolio import PortfolioModel
from flashtrader.models.precision import pick_device
from flashtrader.models.stream import forecast_rows
from flashtrader.models.weights import load_tensors
from flashtrader.panel.panel import Panel
from flashtrader.panel.scaling import Scaler, fit_scaler
from flashtrader.panel.segments import Segments
from flashtrader.panel.splits import Rows, Split
from flashtrader.run import create_run
from flashtrader.training.data import TrainingData
from flashtrader.training.manifest import describe_machine, describe_training
from flashtrader.training.trainer import Trainer

Floats = NDArray[np.floating]

LOOK_BACK = 96
HORIZONS = (96, 192, 336, 720)
PUBLISHED_MSE_AT_96 = {"Informer": 0.847, "Autoformer": 0.197, "FEDformer": 0.148}
"""The first two as in Wu et al. (2021), Autoformer; the third as in Zhou et al. (2022), FEDformer."""

MODEL = {
    "family": "portfolio",
    "mixing": "factorised",
    "context_bars": LOOK_BACK // 2,
    "layers": 2,
    "width": 32,
    "heads": 4,
    "dropout": 0.1,
}
TRAINING = {
    "segment_bars": 512,
    "warmup_bars": LOOK_BACK - 1,
    "batch_size": 4,
    "max_steps": 200,
    "learning_rate": 1e-3,
    "schedule_warmup_steps": 20,
    "loss": "mse",
    "evaluate_every": 10,
    "patience": 5,
    "plain_models": [],
}


@dataclass(frozen=True, eq=False)
class Benchmark:
    """The benchmark's series, and how time divides them."""

    names: tuple[str, ...]
    timestamps: NDArray[np.int64]
    """(T,) nominal: one a row."""
    levels_TA: NDArray[np.float64]
    """z-scored by the training days."""
    horizon: int

    @classmethod
    def read(cls, path: Path, horizon: int) -> "Benchmark":
        """Return the benchmark of a wide Parquet table: `timestamp`, and a column per series."""
        table = pd.read_parquet(path)
        rates = table.drop(columns="timestamp")
        return cls.of(rates, table["timestamp"].to_numpy(), horizon)

    @classmethod
    def of(cls, rates: pd.DataFrame, timestamps: NDArray[np.int64], horizon: int) -> "Benchmark":
        """Return the benchmark of these rates, a column per series."""
        rates_TA = rates.to_numpy(np.float64)
        training_TA = rates_TA[: int(0.7 * len(rates_TA))]
        levels_TA = (rates_TA - training_TA.mean(axis=0)) / training_TA.std(axis=0)
        return cls(tuple(map(str, rates.columns)), timestamps, levels_TA, horizon)

    @property
    def split(self) -> Split:
        """The newest known day of every window of each part."""
        num_days = len(self.levels_TA)
        validation, test = int(0.7 * num_days), num_days - int(0.2 * num_days)
        return Split(
            train=Rows(LOOK_BACK - 1, validation - self.horizon),
            validation=Rows(validation - 1, test - self.horizon),
            test=Rows(test - 1, num_days - self.horizon),
            boundaries=Boundaries(
                train_start_ms=int(self.timestamps[0]),
                validation_start_ms=int(self.timestamps[validation]),
                test_start_ms=int(self.timestamps[test]),
                end_ms=int(self.timestamps[-1]),
                reach_bars=self.horizon,
                embargo_bars=0,
            ),
        )

    def look_back(self, rows: Rows, asset: int) -> Floats:
        """Return the levels of the look-back less the newest (R, L), newest last."""
        levels_T = self.levels_TA[rows.start - LOOK_BACK + 1 : rows.stop, asset]
        return sliding_window_view(levels_T, LOOK_BACK) - levels_T[LOOK_BACK - 1 :, None]

    def moves(self, rows: Rows) -> Floats:
        """Return how far each of the next H levels is from the newest one (R, A, H)."""
        newest_RA = self.levels_TA[rows.start : rows.stop]
        ahead_TA = self.levels_TA[rows.start + 1 : rows.stop + self.horizon]
        return sliding_window_view(ahead_TA, self.horizon, axis=0) - newest_RA[..., None]


Forecaster = Callable[[Benchmark], Floats]
"""Fits a model to training and validation, and returns its moves of the test windows (R, A, H)."""


def persistence(benchmark: Benchmark) -> Floats:
    """Forecast no change."""
    return np.zeros((len(benchmark.split.test), len(benchmark.names), benchmark.horizon))


def linear(benchmark: Benchmark, parts_JL: NDArray[np.float64]) -> Floats:
    """Forecast each series and day ahead by ridge regression on J parts, each linear in the series' look-back."""
    split, horizon = benchmark.split, benchmark.horizon
    forecasts_RAH = np.empty((len(split.test), len(benchmark.names), horizon))
    moves = {part: benchmark.moves(part) for part in (split.train, split.validation)}
    for asset in range(len(benchmark.names)):
        equations = [_equations(benchmark.look_back(part, asset) @ parts_JL.T, moves[part][:, asset]) for part in moves]
        fits = [fit_ridge(*parts) for parts in zip(*equations, strict=True)]
        weights_HJ, intercept_H = np.stack([fit.weights_I for fit in fits]), np.array([fit.intercept for fit in fits])
        forecasts_RAH[:, asset] = benchmark.look_back(split.test, asset) @ (weights_HJ @ parts_JL).T + intercept_H
    return forecasts_RAH


def _equations(inputs_RI: Floats, outcomes_RH: Floats) -> Iterator[NormalEquations]:
    """Yield the normal equations of each column of outcomes; what is of the inputs alone is summed once."""
    of_inputs = NormalEquations.of([(inputs_RI, outcomes_RH[:, 0])], inputs_RI.shape[1])
    sums_H, squares_H = outcomes_RH.sum(axis=0), np.square(outcomes_RH).sum(axis=0)
    for total, products_I, square in zip(sums_H, (outcomes_RH.T @ inputs_RI), squares_H, strict=True):
        yield replace(of_inputs, sum=float(total), products_I=products_I, square=float(square))


class LevelModel(PortfolioModel):
    """Predicts, of each series at every day, how far the next H levels will be from this one."""

    def __init__(self, experiment: Experiment, scaler: Scaler) -> None:
        super().__init__(experiment, scaler)
        self.head = zero_head(experiment.model.width, experiment.panel.target.horizon_bars)

    def forward(self, values_BTEF: Tensor, mask_BTE: Tensor, past: KeyValueCache | None = None) -> Tensor:
        """Return (B, T, A · H, 1)."""
        return super().forward(values_BTEF, mask_BTE, past).flatten(-2)[..., None]


def experiment_of(benchmark: Benchmark, training: dict[str, Any]) -> Experiment:
    """Return the transformer's experiment; `training` overrides keys of that section."""
    return Experiment.model_validate(
        {
            "name": "exchange-rate",
            "data": {"source": "file", "symbols": benchmark.names, "interval": "D"},
            "panel": {"features": ["log_return"], "target": {"horizon_bars": benchmark.horizon}},
            "model": MODEL,
            "training": TRAINING | training,
        }
    )


def transformer(benchmark: Benchmark, training: dict[str, Any]) -> Floats:
    """Forecast by a transformer that sees the daily changes of all series; `training` as of `experiment_of`."""
    experiment = experiment_of(benchmark, training)
    split, panel = benchmark.split, daily_changes(benchmark)
    # Every day ahead counts as the benchmark counts it: in the unit of the levels.
    scaler = replace(fit_scaler(panel, split.train), target_std=np.ones(len(panel.target_names), np.float32))
    segments = Segments(panel, split.train, experiment.training.segment_bars, experiment.unlabelled_bars)
    torch.manual_seed(experiment.training.seed)
    model = LevelModel(experiment, scaler).to(pick_device(experiment.training))
    assert model.decoder.receptive_bars + 2 == LOOK_BACK, "a change joins two levels"
    with tempfile.TemporaryDirectory() as runs_dir:
        run = create_run(Path(runs_dir), experiment)
        data = TrainingData(panel, {}, {}, split, scaler, segments)
        run.write_manifest(describe_training(experiment, data, model))
        Trainer(experiment, data, model, run).train(watch=lambda _: None)
        model.load_state_dict(load_tensors(run.checkpoints / "best.safetensors")[0])
    moves_RK = forecast_rows(model, panel, split.test, experiment.warmup_bars)
    return moves_RK.reshape(len(split.test), len(benchmark.names), benchmark.horizon)


def daily_changes(benchmark: Benchmark) -> Panel:
    """Return the series as a panel: what it sees are daily changes, and its targets, series by series, the moves.

    The first day has no change. Test days have no target.
    """
    levels_TA, split = benchmark.levels_TA, benchmark.split
    num_days, num_assets = levels_TA.shape
    labelled = Rows(0, split.validation.stop)
    targets_TK = np.full((num_days, num_assets * benchmark.horizon), np.nan, np.float32)
    targets_TK[: labelled.stop] = benchmark.moves(labelled).reshape(labelled.stop, -1)
    return Panel(
        timestamps=benchmark.timestamps,
        interval=Interval("D"),
        symbols=benchmark.names,
        feature_names=("change",),
        values=np.diff(levels_TA, axis=0, prepend=levels_TA[:1]).astype(np.float32)[..., None],
        mask=np.repeat(np.arange(num_days)[:, None] > 0, num_assets, axis=1),
        targets=targets_TK,
        target_names=tuple(f"{name}+{ahead}" for name in benchmark.names for ahead in range(1, benchmark.horizon + 1)),
        target_entities=np.repeat(np.arange(num_assets), benchmark.horizon),
        symbol_targets=np.arange(num_assets) * benchmark.horizon,
        run_starts=np.array([0]),
    )


def forecasters(training: dict[str, Any]) -> dict[str, Forecaster]:
    """Return every model by its name; `training` as of `experiment_of`."""
    trend_LL = smoothing(LOOK_BACK)
    trend_and_rest = np.concatenate((trend_LL, np.eye(LOOK_BACK) - trend_LL))
    return {
        "persistence": persistence,
        "transformer": partial(transformer, training=training),
        "dlinear": partial(linear, parts_JL=trend_and_rest),
        "ridge": partial(linear, parts_JL=np.eye(LOOK_BACK)),
    }


@dataclass(frozen=True)
class Result:
    """How one model does at one horizon, over every test window."""

    model: str
    horizon: int
    windows: int
    mse: float
    mae: float
    seconds: float
    """Of fitting and forecasting."""


def score(name: str, forecaster: Forecaster, benchmark: Benchmark) -> Result:
    """Fit a model, and return the mean errors of its forecasts over windows, days ahead and series."""
    began = time.perf_counter()
    forecasts_RAH = forecaster(benchmark)
    seconds = time.perf_counter() - began
    outcomes_RAH = benchmark.moves(benchmark.split.test)
    errors_RAH = forecasts_RAH - outcomes_RAH
    return Result(
        model=name,
        horizon=benchmark.horizon,
        windows=len(outcomes_RAH),
        mse=float(np.square(errors_RAH).mean()),
        mae=float(np.abs(errors_RAH).mean()),
        seconds=seconds,
    )


def table(results: Iterable[Result], horizons: Sequence[int]) -> Table:
    """Return a row per model, with both errors at every horizon."""
    cells: dict[str, list[str]] = {}
    for result in results:
        cells.setdefault(result.model, []).append(f"{result.mse:.3f} / {result.mae:.3f}")
    published = [
        (f"{name} *", *(f"{mse:.3f}" if horizon == 96 else "–" for horizon in horizons))
        for name, mse in PUBLISHED_MSE_AT_96.items()
        if 96 in horizons
    ]
    rows = [(name, *row) for name, row in cells.items()] + published
    return Table("MSE / MAE over the test windows", ("days ahead", *map(str, horizons)), rows)


def main() -> None:
    """Score every model at every horizon; print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(forecasters({}))
    parser.add_argument("path", type=Path, help="the benchmark as Parquet: timestamp, and a column per currency")
    parser.add_argument("--horizons", type=int, nargs="+", default=HORIZONS)
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("exchange_rate.json"))
    arguments = parser.parse_args()

    models = forecasters({"seed": arguments.seed})
    results = []
    for horizon in arguments.horizons:
        benchmark = Benchmark.read(arguments.path, horizon)
        for name in arguments.models:
            results.append(score(name, models[name], benchmark))
            say(f"{name} at {horizon}: {results[-1].seconds:.0f} s")
    experiment = experiment_of(benchmark, {"seed": arguments.seed})
    payload = {
        "command": " ".join(sys.argv),
        **describe_machine(experiment, pick_device(experiment.training)),
        "seed": arguments.seed,
        "model": MODEL,
        "training": TRAINING,
        "results": [asdict(result) for result in results],
        "published_mse_at_96": PUBLISHED_MSE_AT_96,
    }
    write_json(arguments.out, payload)
    notes = ["* as published: MSE at 96 days", f"written to {arguments.out}"]
    show([table(results, arguments.horizons)], payload, as_json=False, notes=notes)


if __name__ == "__main__":
    main()
