"""Does longer context pay on this data? The same training at several contexts, and what can be said of the difference.

Trainings differ in the window that a layer sees and in nothing else. All of them get segments that hold the longest
context twice, its bars as their warm-up, and as many of them in a step as keep the labels of a step near what the
config asks for. So seed by seed, every context learns from the same labels in the same order, starts from the same
weights, and is scored on the same bars, with the weights that were best on validation. What a context costs is measured
on these common segments: a training at a short context alone could use shorter ones.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.benchmarks.machine import Machine, machine
from flashtrader.benchmarks.paired import Difference, paired_difference
from flashtrader.benchmarks.peak_memory import PeakMemory
from flashtrader.config import Experiment
from flashtrader.errors import ConfigError
from flashtrader.interval import Interval
from flashtrader.market.sources.simulated import SimulatedSource
from flashtrader.models.families import load_model
from flashtrader.models.precision import autocast, pick_device
from flashtrader.models.stream import forecast_rows
from flashtrader.panel.panel import Panel
from flashtrader.panel.splits import Rows
from flashtrader.training.budget import rehearse
from flashtrader.training.correlation import mean_information_coefficient
from flashtrader.training.data import TrainingData, prepare
from flashtrader.training.loop import train_model
from flashtrader.training.objectives import build_objective
from flashtrader.training.stopping import FINISHED

Part = Literal["validation", "test"]

CONFIDENCE = 0.95
"""Of all differences of a benchmark together (Bonferroni)."""
STRETCHES = 16
"""Parts of the scored time, each of which scores a difference of its own."""
_STRETCH_HORIZONS = 4
"""A stretch is at least this many horizons long, so that the targets that reach into the next one hardly count."""


@dataclass(frozen=True)
class Training:
    """One training, and its scores on the benchmark's part of the data."""

    context_bars: int
    seed: int
    ic: float
    loss: float
    best_step: int
    seconds: float
    """Steps and evaluations."""


@dataclass(frozen=True)
class Context:
    """A context's mean over the seeds."""

    context_bars: int
    receptive_bars: int
    """Bars that a forecast depends on, its own included: every layer looks a window further back."""
    ic: float
    loss: float
    seconds: float
    """Of a training, steps and evaluations."""
    peak_bytes: int | None
    """What two steps hold at most, data aside; None where it can't be measured."""
    ic_difference: Difference | None
    """From the shortest's; None for the shortest."""
    loss_difference: Difference | None


@dataclass(frozen=True)
class ContextBenchmark:
    """All trainings and what they say, shortest context first."""

    experiment: str
    part: Part
    segment_bars: int
    warmup_bars: int
    batch_size: int
    labelled_bars_per_step: int
    contexts: tuple[Context, ...]
    trainings: tuple[Training, ...]
    best_ic: float | None
    """Of the best forecast there is on the same bars; known on the simulated exchange alone."""
    machine: Machine

    @property
    def verdict(self) -> str:
        """One sentence: whether longer context pays."""
        shortest, *longer = self.contexts
        told_apart = [context for context in longer if _excludes_zero(context)]
        where = f"on these {self.part} bars"
        if not told_apart:
            return (
                f"No longer context can be told apart from {shortest.context_bars:,} bars {where}: "
                f"every difference's interval includes 0."
            )
        best = max(told_apart, key=lambda context: context.ic)
        difference = best.ic_difference
        assert difference is not None
        verb, side = ("pays", "above") if difference.estimate > 0 else ("costs", "below")
        share = (
            "" if self.best_ic is None else f", {best.ic / self.best_ic:.0%} of the best achievable {self.best_ic:.3f}"
        )
        return (
            f"Longer context {verb} {where}: {best.context_bars:,} bars reach an IC of {best.ic:.3f}{share}, "
            f"{abs(difference.estimate):.3f} {side} {shortest.context_bars:,} bars (difference {difference.low:+.3f} "
            f"to {difference.high:+.3f}, {CONFIDENCE:.0%} confidence)."
        )

    def to_json(self) -> dict[str, Any]:
        """Return the benchmark as plain values."""
        return {"verdict": self.verdict, "confidence": CONFIDENCE} | asdict(self)


def bench_context(
    experiment: Experiment,
    contexts_bars: Sequence[int],
    num_seeds: int,
    *,
    data_dir: Path,
    runs_dir: Path,
    part: Part = "validation",
    on_training: Callable[[Training], None] = lambda _: None,
) -> ContextBenchmark:
    """Train the experiment at every context with `num_seeds` seeds, the experiment's own and those after it.

    The runs stay in `runs_dir`. on_training: is told each training as it is done. Raises ConfigError for fewer than two
    contexts, KeyboardInterrupt when a training is interrupted.
    """
    contexts_bars = sorted(set(contexts_bars))
    if len(contexts_bars) < 2:
        raise ConfigError("a comparison needs two contexts or more, such as --contexts 64,512")
    seeds = range(experiment.training.seed, experiment.training.seed + num_seeds)
    common = with_common_segments(experiment, contexts_bars[-1])
    data = prepare(common, data_dir)
    rows: Rows = getattr(data.split, part)
    device = pick_device(common.training)
    try:
        with PeakMemory(device) as memory:
            peaks = [memory.bytes_of(_two_steps, _at(common, context_bars, seeds[0])) for context_bars in contexts_bars]
    except MemoryError:
        raise ConfigError(
            f"a step of {common.training.batch_size} segments of {common.training.segment_bars:,} bars, twice the "
            "longest context, does not fit in memory; lower training.batch_size or the longest of --contexts"
        ) from None
    trainings: list[Training] = []
    forecasts: list[NDArray[np.float32]] = []
    for context_bars in contexts_bars:
        for seed in seeds:
            made, forecasts_RK = _train(_at(common, context_bars, seed), data, rows, data_dir, runs_dir)
            trainings.append(made)
            forecasts.append(forecasts_RK)
            on_training(made)
    training = common.training
    return ContextBenchmark(
        experiment=experiment.name,
        part=part,
        segment_bars=training.segment_bars,
        warmup_bars=common.warmup_bars,
        batch_size=training.batch_size,
        labelled_bars_per_step=_labelled_bars(common),
        contexts=_summarise(common, data, rows, trainings, forecasts, peaks),
        trainings=tuple(trainings),
        best_ic=_best_ic(common, data.panel, rows),
        machine=machine(device),
    )


def with_common_segments(experiment: Experiment, longest_bars: int) -> Experiment:
    """Return the experiment with segments in which every context up to the longest fits: see the module's text."""
    segment_bars = max(experiment.training.segment_bars, 2 * longest_bars)
    adapted = _with_training(experiment, segment_bars=segment_bars, warmup_bars=longest_bars)
    batches = _labelled_bars(experiment) / _labelled_bars(adapted)
    return _with_training(adapted, batch_size=max(1, round(batches * experiment.training.batch_size)))


def _with_training(experiment: Experiment, **changes: object) -> Experiment:
    return experiment.model_copy(update={"training": experiment.training.model_copy(update=changes)})


def _at(common: Experiment, context_bars: int, seed: int) -> Experiment:
    name = f"{common.name}-context-{context_bars}-seed-{seed}"
    model = common.model.model_copy(update={"context_bars": context_bars})
    return _with_training(common, seed=seed, plain_models=()).model_copy(update={"name": name, "model": model})


def _labelled_bars(experiment: Experiment) -> int:
    """Return the labelled bars of one step."""
    training = experiment.training
    return training.batch_size * training.accumulate * (training.segment_bars - experiment.unlabelled_bars)


def _two_steps(experiment: Experiment) -> Callable[[], object]:
    """Return what builds a model and trains it for two steps: the optimiser's moments are there from the second on."""

    def train() -> None:
        step = rehearse(experiment)
        step()
        step()

    return train


def _train(
    experiment: Experiment, data: TrainingData, rows: Rows, data_dir: Path, runs_dir: Path
) -> tuple[Training, NDArray[np.float32]]:
    """Return a training and its best weights' forecasts of the rows (R, K), in standard deviations of the target."""
    summary = train_model(experiment, data_dir, runs_dir, lambda _: None)
    if summary.stopped not in FINISHED:
        raise KeyboardInterrupt
    model = load_model(summary.run.checkpoints / "best.safetensors", experiment)
    device = pick_device(experiment.training)
    with autocast(experiment.training, device):
        forecasts_RK = forecast_rows(model.to(device), data.panel, rows, experiment.warmup_bars)
    forecasts_RK /= data.scaler.target_std
    targets_RK = data.panel.targets[rows.start : rows.stop] / data.scaler.target_std
    made = Training(
        context_bars=experiment.context_bars,
        seed=experiment.training.seed,
        ic=mean_information_coefficient(forecasts_RK, targets_RK),
        loss=_loss(experiment, forecasts_RK, targets_RK),
        best_step=summary.best_step,
        seconds=summary.seconds,
    )
    return made, forecasts_RK


def _loss(experiment: Experiment, forecasts_RK: NDArray[np.float32], targets_RK: NDArray[np.float32]) -> float:
    known_RK = np.where(np.isfinite(forecasts_RK), targets_RK, np.nan)
    outputs, targets = torch.from_numpy(forecasts_RK)[..., None], torch.from_numpy(known_RK)
    return build_objective(experiment)(outputs, targets).item()


def _summarise(
    experiment: Experiment,
    data: TrainingData,
    rows: Rows,
    trainings: Sequence[Training],
    forecasts: Sequence[NDArray[np.float32]],
    peaks: Sequence[int | None],
) -> tuple[Context, ...]:
    """Return each context's means and differences. trainings: the shortest context's first; peaks: by context."""
    targets_RK = data.panel.targets[rows.start : rows.stop] / data.scaler.target_std
    known = np.flatnonzero((np.isfinite(forecasts[0]) & np.isfinite(targets_RK)).any(axis=1))
    shortest_stretch = _STRETCH_HORIZONS * experiment.panel.target.horizon_bars
    stretches = np.array_split(known, max(2, min(STRETCHES, len(known) // shortest_stretch)))
    ic_CS = np.array([training.ic for training in trainings]).reshape(len(peaks), -1)
    loss_CS = np.array([training.loss for training in trainings]).reshape(ic_CS.shape)
    ic_CSG, loss_CSG = (
        np.array([[score(made[stretch], targets_RK[stretch]) for stretch in stretches] for made in forecasts]).reshape(
            *ic_CS.shape, -1
        )
        for score in (mean_information_coefficient, partial(_loss, experiment))
    )
    confidence = 1 - (1 - CONFIDENCE) / (len(peaks) - 1)

    def difference(score_CS: Floats, score_CSG: Floats, context: int) -> Difference | None:
        if context == 0:
            return None
        return paired_difference(score_CS[context] - score_CS[0], score_CSG[context] - score_CSG[0], confidence)

    seconds_CS = np.array([training.seconds for training in trainings]).reshape(ic_CS.shape)
    contexts_bars = dict.fromkeys(training.context_bars for training in trainings)
    return tuple(
        Context(
            context_bars=context_bars,
            receptive_bars=1 + experiment.model.layers * (context_bars - 1),
            ic=float(ic_CS[context].mean()),
            loss=float(loss_CS[context].mean()),
            seconds=float(seconds_CS[context].mean()),
            peak_bytes=peaks[context],
            ic_difference=difference(ic_CS, ic_CSG, context),
            loss_difference=difference(loss_CS, loss_CSG, context),
        )
        for context, context_bars in enumerate(contexts_bars)
    )


def _best_ic(experiment: Experiment, panel: Panel, rows: Rows) -> float | None:
    """Return the IC of the best forecast on the rows, None where nobody knows it or nothing can be forecast."""
    if experiment.data.source != "simulated":
        return None
    source, horizon_bars = SimulatedSource(noise_only=experiment.data.noise_only), experiment.panel.target.horizon_bars
    times = panel.timestamps[rows.start : rows.stop]
    best_RK = np.stack(
        [
            source.best_forecast(symbol, Interval(experiment.data.interval), times, horizon_bars)
            for symbol in panel.symbols
        ],
        axis=1,
    )
    best_ic = mean_information_coefficient(best_RK, panel.targets[rows.start : rows.stop])
    return best_ic if math.isfinite(best_ic) else None


def _excludes_zero(context: Context) -> bool:
    difference = context.ic_difference
    return difference is not None and (difference.low > 0 or difference.high < 0)
