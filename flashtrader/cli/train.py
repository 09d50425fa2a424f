"""`flashtrader train`."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashtrader.cli import sweeps
from flashtrader.cli.console import EXIT_CODES, AsJson, ConfigPath, DataDir, Overrides, RunsDir, Table, say, show
from flashtrader.cli.reproductions import conclude, outcome, plan
from flashtrader.cli.training_progress import TrainingProgress
from flashtrader.launch import num_processes

if TYPE_CHECKING:
    from flashtrader.config import Experiment
    from flashtrader.run import Run
    from flashtrader.training.reproduce import Reproduction
    from flashtrader.training.spread import Spread
    from flashtrader.training.summary import TrainingSummary
    from flashtrader.training.tracking import Watcher


class Engine(StrEnum):
    """What trains several models at once."""

    PROCESSES = "processes"
    RAY = "ray"


def train(
    config: ConfigPath = None,
    overrides: Overrides = None,
    resume: Annotated[
        str | None, typer.Option("--resume", help="Go on with this run from its last checkpoint.", show_default=False)
    ] = None,
    origin: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Train a run again from its manifest, to the same weights: a file or a run.",
            show_default=False,
        ),
    ] = None,
    allow_changed_data: Annotated[
        bool, typer.Option("--allow-changed-data", help="With --from, go on though the stored data have changed.")
    ] = False,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep",
            help="Train a run with each of a key's values: section.key=value,value; several are a grid.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Models to train at once: of folds, seeds, or a sweep.")
    ] = 1,
    engine: Annotated[
        Engine, typer.Option("--engine", help="What they are spread over: this machine, or a Ray cluster.")
    ] = Engine.PROCESSES,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what it would cost; train nothing.")] = False,
    data_dir: DataDir = Path("data"),
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Train the model that a config describes.

    With --from, train a run again on the bars that it saw: first say what is
    no longer as it was (data, versions, machine), in the end whether the
    weights are identical; exit with 1 when they are not.
    """
    from flashtrader.errors import ConfigError

    if [config, resume, origin].count(None) != 2:
        raise ConfigError(
            "give --config X.yaml to train anew, or --resume RUN to go on with a run, or --from RUN to train it again; "
            "one of them alone"
        )
    if allow_changed_data and origin is None:
        raise ConfigError("--allow-changed-data needs --from beside it")
    if origin is not None and overrides:
        raise ConfigError("--set can't stand beside --from, which trains the same again; take --config for other keys")
    at_once = workers > 1 or engine is Engine.RAY
    if origin is not None and at_once:
        raise ConfigError("--workers and --engine can't stand beside --from, which trains the same in the same order")
    sweeps_over = grid or sweeps.is_sweep(resume)
    if num_processes() > 1 and (at_once or sweeps_over):
        raise ConfigError(
            "--workers, --engine and --sweep train several models at once, and torchrun's processes one model "
            "together; leave torchrun out, or these"
        )
    if sweeps_over:
        if dry_run:
            raise ConfigError("--dry-run tells of one experiment; give it --set in place of --sweep")
        sweep = sweeps.plan(config, overrides or [], grid or [], resume, runs_dir)
        return sweeps.train_and_show(sweep, data_dir, _spread(engine, workers), as_json)
    if origin is not None:
        order = _again(origin, data_dir, runs_dir, allow_changed_data=allow_changed_data)
    elif resume is not None:
        order = _going_on(resume, overrides or [], data_dir, runs_dir)
    elif config is not None:
        order = _anew(config, overrides or [], data_dir, runs_dir)
    if at_once and not order.experiment.has_members:
        raise ConfigError(
            "--workers and --engine are for several models: of folds (split.walk_forward), seeds (training.seeds) or a "
            "--sweep; this is one model, which torchrun trains with several processes"
        )
    if dry_run:
        return _show_budget(order.experiment, data_dir, as_json)
    return _train(order, _spread(engine, workers) if at_once else None, as_json)


def _spread(engine: Engine, workers: int) -> "Spread":
    from flashtrader.training.spread import Spread

    return Spread(engine.value, workers)


@dataclass(frozen=True)
class _Order:
    """What is to be trained, and the training of it."""

    experiment: "Experiment"
    begin: "Callable[[Watcher, Spread | None], TrainingSummary]"
    reproduces: "Reproduction | None" = None
    goes_on: bool = False


def _anew(config: Path, overrides: list[str], data_dir: Path, runs_dir: Path) -> _Order:
    from flashtrader.config import load_config

    experiment = load_config(config, overrides)  # what it refuses need not wait for PyTorch

    from flashtrader.training.loop import train_model

    return _Order(experiment, partial(train_model, experiment, data_dir, runs_dir))


def _going_on(resume: str, overrides: list[str], data_dir: Path, runs_dir: Path) -> _Order:
    from flashtrader.config import load_config
    from flashtrader.run import find_run

    run = find_run(runs_dir, resume)
    experiment = load_config(run.path / "config.yaml", overrides)

    from flashtrader.training.loop import resume_training

    return _Order(experiment, partial(resume_training, experiment, data_dir, run), goes_on=True)


def _again(origin: str, data_dir: Path, runs_dir: Path, *, allow_changed_data: bool) -> _Order:
    planned = plan(origin, data_dir, runs_dir, allow_changed_data=allow_changed_data)
    return _Order(planned.experiment, lambda watch, _over: planned.train(data_dir, runs_dir, watch), planned)


def _train(order: _Order, over: "Spread | None", as_json: bool) -> None:
    """Train, by torchrun's processes if it has begun them, show what came of it, and end the process as it ended."""
    from flashtrader.report.formats import counted
    from flashtrader.training.stopping import Terminated, terminable
    from flashtrader.training.torchrun import join

    experiment = order.experiment
    if over is not None:
        threads = counted(over.threads, "thread")
        say(f"{over.workers} models at a time, each with {threads}; of another number some sums round otherwise")
    progress = TrainingProgress(experiment.training.max_steps, drawn=experiment.plain_family is None)
    try:
        with join(experiment.training) as team:
            if not order.goes_on and team.begun() is None and experiment.plain_models:
                first = "first of each fold" if experiment.split.walk_forward else "first"
                say(f"{first} the plain models: {', '.join(experiment.plain_models)}")
            with progress, terminable():
                summary = order.begin(progress.update, over)
    except KeyboardInterrupt as stop:
        if progress.has_begun:
            say("stopped within a step; the run goes on from its last checkpoint with: flashtrader train --resume RUN")
        else:
            say("stopped before a step was made; nothing is lost: the same command goes on")
        sys.exit(EXIT_CODES["terminated" if isinstance(stop, Terminated) else "interrupted"])

    if not team.is_writer:
        sys.exit(EXIT_CODES.get(summary.stopped, 0))
    if experiment.plain_family is None:
        _draw_losses(summary.run)
    came = None if order.reproduces is None else outcome(order.reproduces, summary)
    _show_summary(summary, as_json, {} if came is None else {"reproduction": came})
    if summary.stopped in EXIT_CODES:
        say(
            f"{summary.stopped} after {summary.steps} steps, which are saved; "
            f"go on with: flashtrader train --resume {summary.run.path}"
        )
        sys.exit(EXIT_CODES[summary.stopped])
    if order.reproduces is not None and came is not None:
        conclude(order.reproduces, came)


def _draw_losses(run: "Run") -> None:
    """Draw the losses of a run's model, or of each of its models that has begun."""
    from flashtrader.report.plots import plot_loss_curves, write_png

    members = [run.member(member["name"]) for member in run.manifest.get("members", [])]
    for model in members or [run]:
        if steps := model.read_metrics():
            write_png(plot_loss_curves(steps), model.path / "loss.png")


def _show_summary(summary: "TrainingSummary", as_json: bool, more: dict[str, Any]) -> None:
    from flashtrader.cli.member_tables import training_tables
    from flashtrader.cli.plain_tables import validation_tables
    from flashtrader.report.formats import fixed
    from flashtrader.report.metric_names import SKILL_LABELS

    models, described = training_tables(summary)
    of_all = " (of all models)" if models else ""
    mean = " (mean)" if models else ""
    rows = [
        ("steps" + of_all, f"{summary.steps:,}" + (" (stopped early)" if summary.stopped == "early" else "")),
        ("best step" + mean, f"{summary.best_step:,}"),
        ("validation loss" + mean, fixed(summary.validation_loss, 5)),
        (f"validation {SKILL_LABELS[summary.skill]}" + mean, fixed(summary.validation_skill, 4, signed=True)),
        ("time", f"{summary.seconds:.0f} s"),
    ]
    payload = {
        "run": str(summary.run.path),
        "steps": summary.steps,
        "best_step": summary.best_step,
        "validation_loss": summary.validation_loss,
        f"validation_{summary.skill}": summary.validation_skill,
        "seconds": summary.seconds,
        "stopped": summary.stopped,
        "plain": summary.run.manifest.get("plain_models", {}),
        **described,
        **more,
    }
    trained = Table(f"Trained {summary.run.path}", ("", "value"), rows)
    show([trained, *models, *validation_tables(summary)], payload, as_json)


def _show_budget(experiment: "Experiment", data_dir: Path, as_json: bool) -> None:
    from flashtrader.training.budget import estimate
    from flashtrader.training.walk_forward import num_members

    budget = estimate(experiment, num_members(experiment, data_dir))
    peak = "unknown for backbone hf" if budget.peak_bytes is None else f"{budget.peak_bytes / 2**20:,.0f} MiB"
    times = f"{budget.models} × {budget.steps:,}" if budget.models > 1 else f"{budget.steps:,}"
    rows = [
        ("models to train", f"{budget.models:,}"),
        ("parameters", f"{budget.parameters:,}"),
        ("tokens in a step", f"{budget.tokens_per_step:,}"),
        ("labels in a step", f"{budget.labels_per_step:,}"),
        ("attention backend", budget.attention),
        ("peak memory, estimated", peak),
        ("time of a step, measured", f"{budget.step_seconds:.3f} s"),
        (f"time of {times} steps", f"{budget.total_seconds / 60:.1f} min"),
    ]
    show([Table("What training would cost", ("", "value"), rows)], budget.as_dict(), as_json)
