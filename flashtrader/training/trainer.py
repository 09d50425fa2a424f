"""The training loop, the same for every family."""

import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flashtrader.config import Experiment
from flashtrader.errors import DivergedError, TrainingError
from flashtrader.files import write_text
from flashtrader.market.spans import iso_time
from flashtrader.models.model import GridModel
from flashtrader.models.precision import autocast, device_of
from flashtrader.models.stream import output_rows
from flashtrader.models.weights import save_tensors
from flashtrader.panel.segments import Batch
from flashtrader.run import Run
from flashtrader.training.checkpoint import Progress, restore_checkpoint, save_checkpoint
from flashtrader.training.context_parallel import Border
from flashtrader.training.data import TrainingData
from flashtrader.training.distributed import team, whole
from flashtrader.training.manifest import describe_outcome
from flashtrader.training.memory import enough_memory_for
from flashtrader.training.objectives import Objective, build_objective, build_skill
from flashtrader.training.optim import Schedule, build_optimiser
from flashtrader.training.stopping import STOPPED_BY, StopRequest, stop_request
from flashtrader.training.summary import TrainingSummary
from flashtrader.training.tracking import Metrics, MetricsLog, Watcher

_EXPLODED = 1_000
"""Times the best validation loss, or the loss of knowing nothing, which is near 1: more is no noise of any market."""


class Trainer:
    """A model in training: one step, one evaluation and one checkpoint at a time.

    Each process of a team has one, and calls the same of it; the first of them writes. `network` is the model as a step
    calls it, which averages the gradients over the team.
    """

    def __init__(self, experiment: Experiment, data: TrainingData, model: GridModel, run: Run) -> None:
        self.experiment, self.config = experiment, experiment.training
        self.data, self.model, self.run = data, model, run
        self.device = device_of(model)
        self.team = team()
        self.team.check_same_bars(data.fingerprints)
        self.network = self.team.wrap(model)
        self.optimiser = build_optimiser(model, self.config)
        self.schedule = Schedule(self.config)
        train = data.split.train
        self.objective = build_objective(experiment, data.panel.targets[train.start : train.stop])
        self.skill = build_skill(experiment)
        self.progress = Progress()

    def restore(self) -> None:
        """Go back to the newest whole checkpoint; forget the metrics of steps after it.

        The checkpoint of a best step holds the best weights: a kill may have come before they had a file of their own.
        """
        self.progress = restore_checkpoint(self.run.checkpoints, self.model, self.optimiser, self.schedule)
        if self.progress.step > 0 and self.progress.best_step == self.progress.step:
            self._keep_best()
        self.team.from_writer(self._forget_later_metrics)

    def _forget_later_metrics(self) -> None:
        kept = [row for row in self.run.read_metrics() if row["step"] <= self.progress.step]
        write_text(self.run.metrics, "".join(json.dumps(row) + "\n" for row in kept))

    def train(self, watch: Watcher) -> TrainingSummary:
        """Train to the end, to early stopping, or until SIGINT or SIGTERM, which save a checkpoint first.

        Raises TrainingError when the training diverged, memory ran out or the disk refused; what was saved is whole.
        """
        try:
            with enough_memory_for(self.experiment, self.model, self.run.path):
                stopped = self._train(watch)
            return self._finish(stopped)
        except DivergedError:
            self._finish("diverged")
            raise
        except OSError as error:
            raise TrainingError(
                f"{error.filename or self.run.path}: {error.strerror or error}, at step {self.progress.step}; what "
                f"was saved before is whole: make room, then go on with: flashtrader train --resume {self.run.path}"
            ) from None

    def _train(self, watch: Watcher) -> str:
        """Make steps until there is a reason to stop, and return it."""
        stopped = self._reason_to_stop()
        with stop_request() as request, self._log() as log:
            while stopped is None:
                metrics = self.step()
                if self._is_due(self.config.evaluate_every):
                    metrics |= self.evaluate()
                stopped = self._reason_to_stop() or self._asked_of_any(request)
                best = metrics.get("best", False)
                # First the metrics: on resuming, those of steps after the checkpoint are dropped, missing ones stay so.
                if log is not None:
                    log.write(metrics)
                if stopped is not None or best or self._is_due(self.config.steps_between_checkpoints):
                    if log is not None:
                        log.flush_to_disk()
                    self.save()
                if best:  # after the checkpoint that tells of it: what goes on from one has no better weights beside it
                    self._keep_best()
                watch(metrics)
        return stopped

    @property
    def is_over(self) -> bool:
        """Whether no step is left to make."""
        return self._reason_to_stop() is not None

    def _log(self) -> AbstractContextManager[MetricsLog | None]:
        return MetricsLog(self.run, tensorboard=self.config.tensorboard) if self.team.is_writer else nullcontext()

    def _asked_of_any(self, request: StopRequest) -> str | None:
        """Return what a signal asked of one of the processes: all have to stop after the same step."""
        reasons = (None, *STOPPED_BY.values())
        return reasons[self.team.largest(reasons.index(request.reason))]

    def _is_due(self, every: int) -> bool:
        """Return whether the step that was just made is one of those, or the last of all."""
        return self.progress.step % every == 0 or self.progress.step >= self.config.max_steps

    def step(self) -> Metrics:
        """Make one optimiser step. Raises TrainingError when the loss is no longer a number."""
        began = time.perf_counter()
        self.network.train()
        self.team.seed_step(self.config.seed, self.progress.step)
        rate = self.schedule.learning_rate(self.progress.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        losses = []
        for part in range(self.config.accumulate):
            batch, starts = self._draw(part)
            with self.team.accumulating(self.network, last=part == self.config.accumulate - 1):
                loss = self._loss(batch) / self.config.accumulate
                loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise DivergedError(self._diverged("loss", starts))
        norm = whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm))
        if not math.isfinite(norm.item()):
            raise DivergedError(self._diverged("gradient", starts))
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - began
        self.progress.step += 1
        self.progress.seconds += seconds
        bars = self.config.batch_size * self.config.accumulate * self.config.segment_bars
        return {
            "step": self.progress.step,
            "train_loss": sum(losses),
            "gradient_norm": norm.item(),
            "learning_rate": rate,
            "bars_per_second": bars / seconds,
        }

    def evaluate(self) -> Metrics:
        """Forecast the validation bars in one pass; tell whether the model is the best so far."""
        began = time.perf_counter()
        # Every process does, since each may hold a part of the model; what the first one finds is what counts.
        found = self._validate()
        loss, skill = self.team.from_writer(lambda: found)
        if not math.isfinite(loss) or loss > _EXPLODED * max(self.progress.best_loss, 1.0):
            raise DivergedError(
                f"{self.run.path}: the validation loss is {loss:g} at step {self.progress.step}, and was "
                f"{self.progress.best_loss:g} at best; lower training.learning_rate or training.clip_norm; {self._kept}"
            )
        improved = loss < self.progress.best_loss
        self.schedule.evaluated(improved)
        if improved:
            self.progress.best_loss, self.progress.best_skill = loss, skill
            self.progress.best_step = self.progress.step
            self.progress.evaluations_since_best = 0
        else:
            self.progress.evaluations_since_best += 1
        self.progress.seconds += time.perf_counter() - began
        return {"validation_loss": loss, f"validation_{self.skill.name}": skill, "best": improved}

    def _keep_best(self) -> None:
        """Write the weights as the best so far, which those of this step are."""
        facts = {"step": self.progress.step, "validation_loss": self.progress.best_loss}
        weights = self.team.whole(self.model.state_dict())
        if self.team.is_writer:
            save_tensors(self.run.checkpoints / "best.safetensors", weights, facts)

    def _validate(self) -> tuple[float, float]:
        """Return loss and skill on the validation bars."""
        panel, rows = self.data.panel, self.data.split.validation
        with autocast(self.config, self.device):
            outputs_RKP = output_rows(self.model, panel, rows, self.experiment.warmup_bars)
        targets_RK = panel.targets[rows.start : rows.stop]
        loss = validation_loss(self.model, self.objective, outputs_RKP, targets_RK)
        return loss, self.skill.score(outputs_RKP, targets_RK)

    def save(self) -> None:
        """Write the last checkpoint; the one before it stays as `previous`."""
        save_checkpoint(self.run.checkpoints, self.model, self.optimiser, self.schedule, self.progress)

    def _draw(self, part: int) -> tuple[Batch, np.ndarray[Any, np.dtype[np.int64]]]:
        """Return the segments of this step: drawn anew from (seed, step, part), so a resumed run draws the same."""
        generator = np.random.default_rng([self.config.seed, self.progress.step, part])
        starts = generator.choice(self.data.segments.starts, self.config.batch_size)
        return self.team.share(self.data.segments, starts), starts

    def _loss(self, batch: Batch) -> torch.Tensor:
        values, mask, targets = (
            torch.from_numpy(array).to(self.device) for array in (batch.values, batch.mask, batch.targets)
        )
        past = Border(self.team, self.model.decoder, values.shape[1]) if self.team.context > 1 else None
        with autocast(self.config, self.device):
            outputs = self.network(values, mask, past)
        return self.objective(self.team.gather(outputs.float()), self.model.standardise(targets))

    def _reason_to_stop(self) -> str | None:
        if self.progress.step >= self.config.max_steps:
            return "completed"
        if self.config.patience is not None and self.progress.evaluations_since_best >= self.config.patience:
            return "early"
        return None

    def _diverged(self, what: str, starts: np.ndarray[Any, np.dtype[np.int64]]) -> str:
        first, last = (iso_time(int(self.data.panel.timestamps[start])) for start in (starts.min(), starts.max()))
        return (
            f"{self.run.path}: the {what} is not a number any more at step {self.progress.step + 1} (segments that "
            f"begin from {first} to {last}); lower training.learning_rate or training.clip_norm, or look at those "
            f"bars; {self._kept}"
        )

    @property
    def _kept(self) -> str:
        best = self.progress.best_step
        return f"of the best weights, {f'those of step {best} are kept' if best else 'none were saved yet'}"

    def _finish(self, stopped: str) -> TrainingSummary:
        progress = self.progress
        summary = TrainingSummary(
            run=self.run,
            steps=progress.step,
            best_step=progress.best_step,
            validation_loss=progress.best_loss,
            skill=self.skill.name,
            validation_skill=progress.best_skill,
            seconds=progress.seconds,
            stopped=stopped,
        )
        update_manifest(self.run, lambda: describe_outcome(summary))
        return summary


def update_manifest(run: Run, describe: Callable[[], dict[str, Any]]) -> None:
    """Put into a run's manifest what is to be said of it, as the one process that writes."""
    team().from_writer(lambda: run.write_manifest(run.manifest | describe()))


def validation_loss(
    model: GridModel, objective: Objective, outputs_RKP: NDArray[np.float32], targets_RK: NDArray[np.float32]
) -> float:
    """Return the objective over the rows that have both an answer and a known target, as one sequence."""
    answered_RK = np.isfinite(outputs_RKP).all(axis=2)
    known_RK = np.where(answered_RK, targets_RK, np.float32("nan"))
    outputs, targets = (torch.from_numpy(array)[None].to(device_of(model)) for array in (outputs_RKP, known_RK))
    return float(objective(outputs, model.standardise(targets)).item())
