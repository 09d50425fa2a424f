"""Plain models: fitted beside a run before its training begins, or as the run itself."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from flashtrader.config import Experiment, PlainFamily
from flashtrader.errors import ConfigError
from flashtrader.models.plain import History, PlainModel, fit_plain, save_plain
from flashtrader.panel.closes import price_panel
from flashtrader.panel.splits import Rows
from flashtrader.run import Run
from flashtrader.training.data import LabelledPanel, label
from flashtrader.training.manifest import describe_data, describe_outcome
from flashtrader.training.objectives import build_objective, build_skill
from flashtrader.training.summary import TrainingSummary
from flashtrader.training.tracking import MetricsLog


@dataclass(frozen=True)
class PlainScore:
    """How a plain model does on the validation rows. The loss is the experiment's own, on standardised targets."""

    validation_loss: float
    validation_ic: float
    seconds: float
    """That fitting took."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A plain model and its score."""

    model: PlainModel
    score: PlainScore


def fit_plain_models(
    experiment: Experiment, data: LabelledPanel, families: Sequence[PlainFamily]
) -> dict[PlainFamily, Fitted]:
    """Return the plain models of these families, fitted on the training rows that the experiment's own model has.

    Raises ConfigError when none of these rows has both a forecast and a known target.
    """
    if not families:
        return {}
    priced = price_panel(data.panel, data.tables, experiment.panel.max_gap_bars)
    history = History(experiment, priced, data.split, data.scaler)
    train = data.split.train
    if not history.usable(train).any():
        raise ConfigError(
            f"split.validation: none of the {len(train)} training bars has both a forecast and a known target (a "
            f"history begins anew after an outage, with {experiment.warmup_bars} warm-up bars); move the boundary, "
            "lower training.warmup_bars, or raise panel.max_gap_bars"
        )
    return {family: _fit(family, history) for family in families}


def train_plain(
    family: PlainFamily, experiment: Experiment, data_dir: Path, create: Callable[[], Run]
) -> TrainingSummary:
    """Fit a plain model as the run that `create` makes once it is fitted; its one step is the fit."""
    data = label(experiment, data_dir)
    fitted = fit_plain_models(experiment, data, [family])[family]
    score = fitted.score
    run = create()
    save_plain(run.checkpoints / "best.safetensors", fitted.model)
    with MetricsLog(run, tensorboard=experiment.training.tensorboard) as log:
        log.write({"step": 1} | asdict(score))
    summary = TrainingSummary(
        run=run,
        steps=1,
        best_step=1,
        validation_loss=score.validation_loss,
        skill="ic",
        validation_skill=score.validation_ic,
        seconds=score.seconds,
        stopped="completed",
    )
    run.write_manifest(describe_data(experiment, data, torch.device("cpu")) | describe_outcome(summary))
    return summary


def _fit(family: PlainFamily, history: History) -> Fitted:
    began = time.perf_counter()
    model = fit_plain(family, history)
    seconds = time.perf_counter() - began
    return Fitted(model, PlainScore(*_validate(model, history, history.split.validation), seconds))


def _validate(model: PlainModel, history: History, rows: Rows) -> tuple[float, float]:
    """Return the validation loss and IC."""
    outputs_RKP = (model.forecast(history.priced, rows) / history.scaler.target_std)[..., None]
    targets_RK = history.priced.panel.targets[rows.start : rows.stop] / history.scaler.target_std
    targets_RK[~history.usable(rows)] = float("nan")
    loss = build_objective(history.experiment)(*(torch.from_numpy(array)[None] for array in (outputs_RKP, targets_RK)))
    return float(loss.item()), build_skill(history.experiment).score(outputs_RKP, targets_RK)
