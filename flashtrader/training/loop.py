"""The training loop, the same for every family."""

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flashtrader.config import Experiment
from flashtrader.errors import ConfigError, DivergedError, TrainingError
from flashtrader.files import read_json_lines, remove_parts, write_text
from flashtrader.market.spans import iso_time
from flashtrader.models.families import build_model
from flashtrader.models.model import GridModel
from flashtrader.models.plain import save_plain
from flashtrader.models.precision import autocast, device_of, pick_device
from flashtrader.models.stream import output_rows
from flashtrader.models.weights import load_tensors, save_tensors
from flashtrader.panel.segments import Batch
from flashtrader.run import Run, create_run
from flashtrader.training.checkpoint import Progress, has_checkpoint, restore_checkpoint, save_checkpoint
from flashtrader.training.data import LabelledPanel, TrainingData, label, prepare, require_trainable
from flashtrader.training.distributed import team, whole
from flashtrader.training.manifest import (
    check_same_data,
    check_same_experiment,
    describe_data,
    describe_outcome,
    describe_resumption,
    describe_training,
    with_bars_of,
)
from flashtrader.training.members import place_of_member, spread_members
from flashtrader.training.memory import enough_memory_for
from flashtrader.training.objectives import Objective, build_objective, build_skill
from flashtrader.training.optim import Schedule, build_optimiser
from flashtrader.training.plain import fit_plain_models, train_plain
from flashtrader.training.spread import Spread
from flashtrader.training.stopping import FINISHED, STOPPED_BY, StopRequest, Terminated, stop_request
from flashtrader.training.summary import TrainingSummary
from flashtrader.training.tracking import Metrics, MetricsLog, check_installed
from flashtrader.training.walk_forward import (
    Member,
    before,
    describe_members,
    finished,
    outcome_of,
    plan_members,
    summarise,
)

Watcher = Callable[[Metrics], None]

_log = logging.getLogger(__name__)

_EXPLODED = 1_000
"""Times the best validation loss, or the loss of knowing nothing, which is near 1: more is no noise of any market."""


def train_model(
    experiment: Experiment, data_dir: Path, runs_dir: Path, watch: Watcher, over: Spread | None = None
) -> TrainingSummary:
    """Train the model, or models, that an experiment describes in a new run directory.

    The plain models beside it come first; one of its own is fitted at once. `watch` gets the metrics of every step as
    they are written to metrics.jsonl; of several models, also which it is: `member` of so many `members`, `fold` of so
    many `folds`, from 1, and `seed`. Several models are trained at once if they are spread `over` something. Where
    torchrun has started its processes again, the run that they began goes on.
    """
    check_installed(experiment.training)
    begun = team().begun()
    if begun is not None:
        return resume_training(experiment, data_dir, Run(begun), watch, over)
    return _train(experiment, data_dir, partial(_create, runs_dir, experiment), watch, over)


def _create(runs_dir: Path, experiment: Experiment) -> Run:
    run = create_run(runs_dir, experiment)
    team().remember(run.path)
    return run


def _train(
    experiment: Experiment, data_dir: Path, create: Callable[[], Run], watch: Watcher, over: Spread | None
) -> TrainingSummary:
    if not experiment.has_members:
        return _train_one(experiment, data_dir, create, watch)
    run, members = _begin_members(experiment, data_dir, create)
    return _train_members(run, members, data_dir, watch, over)


def resume_training(
    experiment: Experiment, data_dir: Path, run: Run, watch: Watcher, over: Spread | None = None
) -> TrainingSummary:
    """Go on with a run from its last checkpoint, bit for bit as if it had never stopped (on a CPU).

    The experiment is the run's own, but for when training stops and what it reports. Bars fetched since are left out.
    A run that was killed before its first checkpoint begins at step 0. Of several models, those that are trained stay
    as they are. Raises ConfigError for any other change, DataError when the bars that the run was trained on have
    changed.
    """
    check_same_experiment(run, experiment)
    team().from_writer(partial(remove_parts, run.path))
    if not team().from_writer(lambda: run.has_begun):
        if (run.path / "backtest.json").is_file():
            raise ConfigError(f"{run.path}: a backtest without a model, which can't go on; train one with --config")
        _log.warning("%s: killed as it was made; it begins at step 0", run.path)
        return train_in(experiment, data_dir, run, watch, over)
    if not experiment.has_members:
        return _resume_one(experiment, data_dir, run, watch)
    return _train_members(run, _go_on_with_members(experiment, data_dir, run), data_dir, watch, over)


def train_in(
    experiment: Experiment, data_dir: Path, run: Run, watch: Watcher, over: Spread | None = None
) -> TrainingSummary:
    """Train as `train_model` does, in a run directory that is there and in which nothing has begun."""
    return _train(experiment, data_dir, partial(_begin_anew, run, experiment), watch, over)


def _begin_members(experiment: Experiment, data_dir: Path, create: Callable[[], Run]) -> tuple[Run, list[Member]]:
    """Return a new run of several models, and what is to be trained in it; the panel is let go of."""
    data = label(experiment, data_dir)
    members = _plan(experiment, data)
    manifest = _describe(experiment, data)

    def begin() -> Run:
        run = create()
        run.write_manifest(manifest | describe_members(run, members))
        return run

    return team().from_writer(begin), members


def _go_on_with_members(experiment: Experiment, data_dir: Path, run: Run) -> list[Member]:
    """Return what is to be trained in a run of several models that goes on; the panel is let go of."""
    check_same_experiment(run, experiment)
    data = label(with_bars_of(run, experiment), data_dir)
    check_same_data(run, data)
    _go_on(run, experiment, after_step=sum(member.get("steps", 0) for member in run.manifest["members"]))
    return _plan(experiment, data)


def _plan(experiment: Experiment, data: LabelledPanel) -> list[Member]:
    """Return the members, once each is known to have bars to train on and to validate by."""
    members = plan_members(experiment, data.panel)
    for member in members:
        require_trainable(experiment, data.panel, member.split)
    return members


def _describe(experiment: Experiment, data: LabelledPanel) -> dict[str, Any]:
    if experiment.plain_family is not None:
        return describe_data(experiment, data, torch.device("cpu"))
    return describe_training(experiment, data, _untrained(experiment, data))


def _train_members(
    run: Run, members: Sequence[Member], data_dir: Path, watch: Watcher, over: Spread | None
) -> TrainingSummary:
    """Train each member that is not trained yet, one after the other, until it is asked to stop or one diverges.

    Spread `over` something, all that can be trained are; then TrainingError tells which could not, and why.
    """
    if over is not None:
        finish = spread_members(run, members, data_dir, _train_member, watch, over)
        trained = [summary for member in members if (summary := outcome_of(run.member(member.name))) is not None]
        summary = _conclude(run, members, trained, finish.outcome)
        if finish.failures:
            raise TrainingError(f"{run.path}: {finish.told}; go on with: flashtrader train --resume {run.path}")
        return summary
    summaries: list[TrainingSummary] = []
    stopped = "completed"
    try:
        for member in members:
            earlier = before(member, members) if run.experiment.warm_starts else None
            begins_as = run.member(earlier.name) if earlier else None
            own_watch = partial(_watch_member, watch, place_of_member(member, members))
            summaries.append(_train_member(run.member(member.name), member, begins_as, data_dir, own_watch))
            _update_manifest(run, lambda: describe_members(run, members))
            if summaries[-1].stopped not in FINISHED:
                stopped = summaries[-1].stopped
                break
    except KeyboardInterrupt as stop:  # outside of its steps, of which none is ever cut in two
        stopped = "terminated" if isinstance(stop, Terminated) else "interrupted"
    except DivergedError:
        _conclude(run, members, summaries, "diverged")
        raise
    return _conclude(run, members, summaries, stopped)


def _conclude(
    run: Run, members: Sequence[Member], summaries: Sequence[TrainingSummary], stopped: str
) -> TrainingSummary:
    """Return what came of the members so far, once it is in the run's manifest."""
    summary = summarise(run, summaries, build_skill(run.experiment).name, stopped=stopped)
    _update_manifest(run, lambda: describe_members(run, members) | describe_outcome(summary))
    return summary


def _update_manifest(run: Run, describe: Callable[[], dict[str, Any]]) -> None:
    """Put into a run's manifest what is to be said of it, as the one process that writes."""
    team().from_writer(lambda: run.write_manifest(run.manifest | describe()))


def _watch_member(watch: Watcher, place: Metrics, metrics: Metrics) -> None:
    watch(metrics | place)


def _train_member(run: Run, member: Member, earlier: Run | None, data_dir: Path, watch: Watcher) -> TrainingSummary:
    """Train one member, or go on with it; what it has before its first checkpoint is made again."""
    done = team().from_writer(lambda: finished(run, member.experiment))
    if done is not None:
        return done
    if team().from_writer(lambda: has_checkpoint(run.checkpoints)):
        return _resume_one(member.experiment, data_dir, run, watch)
    return _train_one(member.experiment, data_dir, partial(_begin_anew, run, member.experiment), watch, earlier)


def _begin_anew(run: Run, experiment: Experiment) -> Run:
    """Return a run that was killed before its first checkpoint as if it had just been made."""
    run.metrics.unlink(missing_ok=True)
    run.write_config(experiment)
    return run


def _train_one(
    experiment: Experiment, data_dir: Path, create: Callable[[], Run], watch: Watcher, earlier: Run | None = None
) -> TrainingSummary:
    """Train one model in the run directory that `create` makes, from the best weights of an `earlier` run if given."""
    if experiment.plain_family is not None:
        return team().from_writer(partial(train_plain, experiment.plain_family, experiment, data_dir, create))
    return _begin(experiment, prepare(experiment, data_dir), create, watch, earlier)


def _begin(
    experiment: Experiment, data: TrainingData, create: Callable[[], Run], watch: Watcher, earlier: Run | None = None
) -> TrainingSummary:
    """Fit the plain models beside a transformer, then train it, from its first step on."""
    model = _untrained(experiment, data)
    if earlier is not None:
        tensors, _ = load_tensors(earlier.checkpoints / "best.safetensors")
        learned = {name: tensor for name, tensor in tensors.items() if not name.startswith("standardiser.")}
        unfit = set(learned) ^ {name for name in model.state_dict() if not name.startswith("standardiser.")}
        if unfit:
            raise TrainingError(
                f"{earlier.path}: its weights do not fit a warm start: {', '.join(sorted(unfit))} "
                "missing or unknown; train that fold anew"
            )
        model.load_state_dict(learned, strict=False)  # the standardiser is the fold's own
    manifest = describe_training(experiment, data, model) | ({"begins_as": earlier.name} if earlier else {})

    def begin() -> Run:
        beside = fit_plain_models(experiment, data, experiment.plain_models)
        run = create()
        for family, fitted in beside.items():
            save_plain(run.plain_model(family), fitted.model)
        scores = {family: asdict(fitted.score) for family, fitted in beside.items()}
        run.write_manifest(manifest | {"plain_models": scores})
        return run

    return Trainer(experiment, data, model, team().from_writer(begin)).train(watch)


def _resume_one(experiment: Experiment, data_dir: Path, run: Run, watch: Watcher) -> TrainingSummary:
    """Go on with a run of one model."""
    if experiment.plain_family is not None:
        raise ConfigError(
            f"{run.path}: {experiment.plain_family} is fitted at once and has nothing to go on with; train a new run "
            "with --config"
        )
    check_same_experiment(run, experiment)
    data = prepare(with_bars_of(run, experiment), data_dir)
    check_same_data(run, data)
    if not team().from_writer(lambda: has_checkpoint(run.checkpoints)):
        _log.warning("%s: killed before its first checkpoint; it begins at step 0", run.path)
        return _begin(experiment, data, partial(_begin_anew, run, experiment), watch)
    trainer = Trainer(experiment, data, _untrained(experiment, data), run)
    trainer.restore()
    _go_on(run, experiment, after_step=trainer.progress.step)
    return trainer.train(watch)


def _go_on(run: Run, experiment: Experiment, after_step: int) -> None:
    """Write into a run by what experiment it goes on, and drop what was made of its models as they were."""

    def write() -> None:
        run.write_manifest(run.manifest | describe_resumption(run, experiment, after_step))
        run.write_config(experiment)
        run.drop_results()

    team().from_writer(write)


def _untrained(experiment: Experiment, data: LabelledPanel) -> GridModel:
    model = build_model(experiment, data.scaler)
    return model.to(pick_device(experiment.training))


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
        """Go back to the newest whole checkpoint; forget the metrics of steps after it."""
        self.progress = restore_checkpoint(self.run.checkpoints, self.model, self.optimiser, self.schedule)
        self.team.from_writer(self._forget_later_metrics)

    def _forget_later_metrics(self) -> None:
        kept = [row for row in read_json_lines(self.run.metrics) if row["step"] <= self.progress.step]
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
                # First the metrics: on resuming, those of steps after the checkpoint are dropped, missing ones stay so.
                if log is not None:
                    log.write(metrics)
                if stopped is not None or self._is_due(self.config.steps_between_checkpoints):
                    if log is not None:
                        log.flush_to_disk()
                    self.save()
                watch(metrics)
        return stopped

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
                raise DivergedError(self._diverged(starts))
        norm = whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm))
        if not math.isfinite(norm.item()):
            raise DivergedError(self._diverged(starts))
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
        """Forecast the validation bars in one pass; keep the model if it is the best so far."""
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
            facts = {"step": self.progress.step, "validation_loss": loss}
            weights = self.team.whole(self.model.state_dict())
            if self.team.is_writer:
                save_tensors(self.run.checkpoints / "best.safetensors", weights, facts)
        else:
            self.progress.evaluations_since_best += 1
        self.progress.seconds += time.perf_counter() - began
        return {"validation_loss": loss, f"validation_{self.skill.name}": skill, "best": improved}

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
        with autocast(self.config, self.device):
            outputs = self.network(values, mask, self.team.past(self.model.decoder, values.shape[1]))
        return self.objective(self.team.gather(outputs.float()), self.model.standardise(targets))

    def _reason_to_stop(self) -> str | None:
        if self.progress.step >= self.config.max_steps:
            return "completed"
        if self.config.patience is not None and self.progress.evaluations_since_best >= self.config.patience:
            return "early"
        return None

    def _diverged(self, starts: np.ndarray[Any, np.dtype[np.int64]]) -> str:
        first, last = (iso_time(int(self.data.panel.timestamps[start])) for start in (starts.min(), starts.max()))
        return (
            f"{self.run.path}: the loss is not a number any more at step {self.progress.step + 1} (segments that begin "
            f"from {first} to {last}); lower training.learning_rate or training.clip_norm, or look at those bars; "
            f"{self._kept}"
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
        _update_manifest(self.run, lambda: describe_outcome(summary))
        return summary


def validation_loss(
    model: GridModel, objective: Objective, outputs_RKP: NDArray[np.float32], targets_RK: NDArray[np.float32]
) -> float:
    """Return the objective over the rows that have both an answer and a known target, as one sequence."""
    answered_RK = np.isfinite(outputs_RKP).all(axis=2)
    known_RK = np.where(answered_RK, targets_RK, np.float32("nan"))
    outputs, targets = (torch.from_numpy(array)[None].to(device_of(model)) for array in (outputs_RKP, known_RK))
    return float(objective(outputs, model.standardise(targets)).item())
