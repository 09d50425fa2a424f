"""A sweep in the commands: trained, and shown as a table with what the choice from it is worth."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashtrader.cli.console import EXIT_CODES, Table, say, show
from flashtrader.cli.runs import Figure, selection_warnings

if TYPE_CHECKING:
    from flashtrader.registry import RunSummary
    from flashtrader.training.spread import Spread
    from flashtrader.training.sweep import Sweep


def is_sweep(name: str | None) -> bool:
    """Return whether `--resume` names the file of a sweep, not a run."""
    return name is not None and name.endswith(".json")


def plan(
    config: Path | None, overrides: Sequence[str], grid: Sequence[str], resume: str | None, runs_dir: Path
) -> "Sweep":
    """Return a new sweep, with its runs made, or the one that `--resume` names."""
    from flashtrader.errors import ConfigError
    from flashtrader.training.sweep import begin_sweep, read_sweep

    if config is not None and grid:
        return begin_sweep(config, overrides, grid, runs_dir)
    if resume is None or grid or overrides:
        raise ConfigError("--sweep needs --config X.yaml beside it; a sweep goes on with --resume alone, as it was")
    for path in (Path(resume), runs_dir / resume):
        if path.is_file():
            return read_sweep(path)
    raise ConfigError(f"no sweep {resume!r} here or in {runs_dir}; give the file that `train --sweep` wrote")


def train_and_show(sweep: "Sweep", data_dir: Path, over: "Spread", as_json: bool) -> None:
    """Train what a sweep has left to train, and show all of it, the best first."""
    from flashtrader.cli.training_progress import TrainingProgress
    from flashtrader.errors import TrainingError
    from flashtrader.registry import summarise
    from flashtrader.training.sweep import train_sweep

    experiments = [sweep.run(trial).experiment for trial in sweep.trials]
    say(f"{sweep.path}: {len(experiments)} runs, {sweep.trials[0].run} to {sweep.trials[-1].run}")
    with TrainingProgress(max(experiment.training.max_steps for experiment in experiments)) as progress:
        finish = train_sweep(sweep, data_dir, progress.update, over)
    found = {trial.run: summarise(sweep.run(trial).path) for trial in sweep.trials}
    _show(sweep, found, as_json)
    again = f"go on with: flashtrader train --resume {sweep.path}"
    if finish.stopped is not None:
        say(f"{finish.stopped}; what was trained is saved; {again}")
        sys.exit(EXIT_CODES[finish.stopped])
    if finish.failures:
        raise TrainingError(f"{sweep.path}: {finish.told}; {again}")


def _show(sweep: "Sweep", found: "dict[str, RunSummary]", as_json: bool) -> None:
    from math import nan

    from flashtrader.report.formats import UNKNOWN, fixed

    def skill(name: str) -> float:
        figure = found[name].validation_skill
        return nan if figure is None else figure

    ranked = sorted(
        sweep.trials, key=lambda trial: (skill(trial.run) == skill(trial.run), skill(trial.run)), reverse=True
    )
    keys = list(sweep.trials[0].values)
    rows, described = [], []
    for trial in ranked:
        summary = found[trial.run]
        outcome = summary.manifest.training if summary.manifest else None
        loss = outcome.validation_loss if outcome else None
        rows.append(
            (
                trial.run,
                *(trial.values[key] for key in keys),
                summary.status.value,
                UNKNOWN if loss is None else fixed(loss, 5),
                fixed(skill(trial.run), 4, signed=True) if outcome else UNKNOWN,
            )
        )
        described.append(
            {
                "run": trial.run,
                "values": dict(trial.values),
                "status": summary.status.value,
                "validation_loss": loss,
                "validation_skill": summary.validation_skill,
            }
        )
    trained = [found[trial.run] for trial in ranked if found[trial.run].validation_skill is not None]
    warnings = selection_warnings(trained[0], Figure.SKILL, trained) if trained else []
    columns = ("run", *keys, "", "validation loss", "validation skill")
    payload: dict[str, Any] = {"sweep": str(sweep.path), "runs": described, "warnings": warnings}
    show([Table(f"Sweep {sweep.path}", columns, rows)], payload, as_json, warnings)
