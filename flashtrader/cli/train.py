"""`flashtrader train`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashtrader.cli.console import AsJson, ConfigPath, DataDir, Overrides, RunsDir, Table, say, show
from flashtrader.cli.reproductions import conclude, outcome, plan

if TYPE_CHECKING:
    from flashtrader.config import Experiment
    from flashtrader.run import Run
    from flashtrader.training.budget import Budget
    from flashtrader.training.summary import TrainingSummary

_EXIT_CODES = {"interrupted": 130, "terminated": 143}
"""As a shell has them: 128 and the number of the signal."""


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
    from flashtrader.config import load_config
    from flashtrader.errors import ConfigError
    from flashtrader.run import find_run

    if [config, resume, origin].count(None) != 2:
        raise ConfigError(
            "give --config X.yaml to train anew, or --resume RUN to go on with a run, or --from RUN to train it again; "
            "one of them alone"
        )
    if allow_changed_data and origin is None:
        raise ConfigError("--allow-changed-data needs --from beside it")
    if origin is not None and overrides:
        raise ConfigError("--set can't stand beside --from, which trains the same again; take --config for other keys")
    again = None if origin is None else plan(origin, data_dir, runs_dir, allow_changed_data=allow_changed_data)
    if again is not None:
        experiment = again.experiment
    elif resume is not None:
        run = find_run(runs_dir, resume)
        experiment = load_config(run.path / "config.yaml", overrides or [])
    elif config is not None:
        experiment = load_config(config, overrides or [])

    if dry_run:
        from flashtrader.training.budget import estimate
        from flashtrader.training.walk_forward import num_members

        return _show_budget(estimate(experiment, num_members(experiment, data_dir)), as_json)

    from flashtrader.training.loop import resume_training, train_model
    from flashtrader.training.stopping import Terminated, terminable

    if resume is None and experiment.plain_models:
        first = "first of each fold" if experiment.split.walk_forward else "first"
        say(f"{first} the plain models: {', '.join(experiment.plain_models)}")
    try:
        with _Progress(experiment) as progress, terminable():
            if resume is not None:
                summary = resume_training(experiment, data_dir, run, progress.update)
            elif again is not None:
                summary = again.train(data_dir, runs_dir, progress.update)
            else:
                summary = train_model(experiment, data_dir, runs_dir, progress.update)
    except KeyboardInterrupt as stop:
        say("stopped before a step was made; nothing is lost: the same command goes on")
        sys.exit(_EXIT_CODES["terminated" if isinstance(stop, Terminated) else "interrupted"])

    if experiment.plain_family is None:
        _draw_losses(summary.run)
    came = None if again is None else outcome(again, summary)
    _show_summary(summary, as_json, {} if came is None else {"reproduction": came})
    if summary.stopped in _EXIT_CODES:
        say(
            f"{summary.stopped} after {summary.steps} steps, which are saved; "
            f"go on with: flashtrader train --resume {summary.run.path}"
        )
        sys.exit(_EXIT_CODES[summary.stopped])
    if again is not None and came is not None:
        conclude(again, came)
    return None


def _draw_losses(run: "Run") -> None:
    """Draw the losses of a run's model, or of each of its models that has begun."""
    from flashtrader.files import read_json_lines
    from flashtrader.report.plots import plot_loss_curves, write_png

    members = [run.member(member["name"]) for member in run.manifest.get("members", [])]
    for model in members or [run]:
        if steps := read_json_lines(model.metrics):
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


def _show_budget(budget: "Budget", as_json: bool) -> None:
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


class _Progress:
    """A live bar where standard error is a terminal, and a line for every evaluation elsewhere."""

    def __init__(self, experiment: "Experiment") -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True, highlight=False)
        self._total = experiment.training.max_steps
        self._seen: dict[str, float] = {}
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal or experiment.plain_family is not None,
        )

    def __enter__(self) -> "_Progress":
        self._bar.start()
        self._task = self._bar.add_task("training", total=self._total, status="")
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, metrics: dict[str, Any]) -> None:
        """Show the metrics of one step."""
        from flashtrader.cli.member_tables import place_of
        from flashtrader.report.formats import fixed
        from flashtrader.report.metric_names import SKILL_LABELS

        same_model = self._seen.get("member") == metrics.get("member")
        self._seen = seen = (self._seen if same_model else {}) | metrics
        status = f"loss {fixed(seen['train_loss'], 4)}  {seen['bars_per_second']:,.0f} bars/s"
        for name, label in SKILL_LABELS.items():
            if (skill := seen.get(f"validation_{name}")) is not None:
                loss = fixed(seen["validation_loss"], 4)
                status += f"  validation loss {loss} {label} {fixed(skill, 4, signed=True)}"
        where, models = place_of(metrics), metrics.get("members", 1)
        completed = (metrics.get("member", 1) - 1) * self._total + metrics["step"]
        self._bar.update(self._task, completed=completed, total=models * self._total, status=where + status)
        if "validation_loss" in metrics and not self._console.is_terminal:
            say(f"{where}step {metrics['step']:,} of {self._total:,}  {status}{'  (best)' if metrics['best'] else ''}")
