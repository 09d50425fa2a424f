"""Kill trainings at random moments, go on after each kill, and compare the end with an undisturbed training's.

    python scripts/training_campaign.py --kills 100 --out training_campaign.json

Two experiments of configs/smoke, one model and a walk-forward of eight, made longer and with a checkpoint at every
step, so that a good part of the kills falls into a write. Each is trained by the command itself, in a process of its
own that gets a SIGKILL at a moment drawn evenly from the time that an undisturbed training takes: also before there is
a run, or a manifest, or a checkpoint. Then `train --resume` goes on, and is killed in turn, until a training ends; then
another begins.

After each kill every file of the run is read: none may be damaged. At the end of each training the weights must be bit
for bit those of the undisturbed one, with optimiser and random state, and the metrics the same but for times.
"""

import argparse
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flashtrader.cli import main as flashtrader
from flashtrader.cli.console import Table, say, show
from flashtrader.config import load_config
from flashtrader.errors import FlashtraderError
from flashtrader.files import read_json, read_json_lines, write_json
from flashtrader.manifest import read_manifest
from flashtrader.models.weights import load_tensors, tensors_digest
from flashtrader.run import Run
from flashtrader.training.manifest import describe_machine

SMOKE = Path(__file__).parents[1] / "configs" / "smoke"
EXPERIMENTS = {
    "one model": (
        SMOKE / "returns.yaml",
        (
            "training.max_steps=60",
            "training.evaluate_every=10",
            "training.checkpoint_every=1",
            "panel.features=[log_return]",
        ),
    ),
    "walk-forward of eight": (
        SMOKE / "walk-forward.yaml",
        (
            "training.max_steps=12",
            "training.evaluate_every=3",
            "training.checkpoint_every=1",
            "panel.features=[log_return]",
        ),
    ),
}
_LATE = ("torch._dynamo", "matplotlib.backends.backend_agg")
"""Modules that libraries load when they are first at work."""
TIMES = {"bars_per_second", "seconds"}


@dataclass
class Campaign:
    """What the kills of one experiment's trainings came to."""

    seconds_undisturbed: float
    kills: int = 0
    resumes: int = 0
    """Times that `train --resume` went on after a kill; the others hit before there was a run to go on with."""
    trainings: int = 0
    """That came to their end."""
    steps: int = 0
    """Of those, without what was made twice."""
    moments: dict[str, int] = field(default_factory=dict)
    """How many kills hit before what."""
    corrupt_files: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    """What of a training was not as in the undisturbed one."""
    seconds: float = 0.0

    @property
    def identical(self) -> bool:
        """Whether every training ended as the undisturbed one did."""
        return self.trainings > 0 and not self.different


@dataclass(frozen=True)
class Place:
    """A directory with stored bars, in which commands run in processes of their own."""

    path: Path
    processes: ForkServerContext

    def run(self, *arguments: object, seconds: float | None = None) -> bool:
        """Run a command to its end, or kill it after so many seconds; return whether it came to its end.

        Raises SystemExit, with what it said, when it failed.
        """
        said = self.path / "said.txt"
        words = [*map(str, arguments), "--data-dir", str(self.path / "data")]
        process = self.processes.Process(target=_command, args=(words, said))
        process.start()
        process.join(seconds)
        process.kill()
        process.join()
        if process.exitcode not in (0, -signal.SIGKILL):
            raise SystemExit(f"flashtrader {' '.join(words)}: exit {process.exitcode}\n{said.read_text()}")
        return process.exitcode == 0


def forks() -> ForkServerContext:
    """Return how processes begin: as a fork of one that has loaded what a training needs, and done nothing yet."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(
        ["flashtrader.cli.commands", "flashtrader.training.loop", "flashtrader.report.plots", *_LATE]
    )
    return processes


def _command(words: list[str], said: Path) -> None:
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    torch.set_num_threads(1)  # tensors are tiny here
    sys.argv = ["flashtrader", *words]
    flashtrader()


def kill_trainings(config: Path, changes: Sequence[str], kills: int, seed: int, place: Place) -> Campaign:
    """Train an experiment undisturbed, then again and again under so many kills in all.

    Raises SystemExit when a training fails that was not killed.
    """
    data = load_config(config).data
    span = ("--start", data.start, "--end", data.end)
    place.run("fetch", "--source", data.source, "--symbols", ",".join(data.symbols), *span)
    anew = ("--config", config, *(word for change in changes for word in ("--set", change)))

    def train(runs_dir: Path, seconds: float | None = None) -> bool:
        run = newest_run(runs_dir)
        how = anew if run is None else ("--resume", run.path)
        return place.run("train", *how, "--runs-dir", runs_dir, seconds=seconds)

    began = time.perf_counter()
    train(place.path / "undisturbed")
    campaign = Campaign(time.perf_counter() - began)
    expected = outcome(newest_run(place.path / "undisturbed"))
    generator = np.random.default_rng(seed)
    while campaign.kills < kills:
        runs_dir = place.path / f"training-{campaign.trainings}"
        while campaign.kills < kills and not train(runs_dir, generator.uniform(0, campaign.seconds_undisturbed)):
            run = newest_run(runs_dir)
            campaign.kills += 1
            campaign.resumes += run is not None
            hit = moment(run)
            campaign.moments[hit] = campaign.moments.get(hit, 0) + 1
            campaign.corrupt_files += damaged_files(runs_dir)
        train(runs_dir)  # to its end; where it has come to it already, this finds nothing to do
        ended = outcome(newest_run(runs_dir))
        campaign.different += sorted(part for part in expected | ended if expected.get(part) != ended.get(part))
        campaign.trainings += 1
        campaign.steps += steps_of(runs_dir)
        say(f"{campaign.kills} of {kills} kills; {campaign.trainings} trainings ended, identical: {campaign.identical}")
    campaign.seconds = time.perf_counter() - began
    return campaign


def newest_run(runs_dir: Path) -> Run | None:
    """Return the run that `--resume` can name: one whose config was written."""
    configs = sorted(runs_dir.glob("*/config.yaml"))
    return Run(configs[-1].parent) if configs else None


def steps_of(runs_dir: Path) -> int:
    """Return how many steps the training in a directory has."""
    return sum(len(read_json_lines(path)) for path in runs_dir.rglob("metrics.jsonl"))


def moment(run: Run | None) -> str:
    """Return what a kill came before."""
    if run is None:
        return "before there was a run"
    if not run.has_begun:
        return "before its manifest"
    models = _models(run)
    if not any((model.checkpoints / "last.safetensors").is_file() for model in models):
        return "before its first checkpoint"
    return "after its end" if run.manifest.get("training") else "between two checkpoints"


def damaged_files(runs_dir: Path) -> list[str]:
    """Return every file that can't be read, of those that are no leftovers of a write that was cut off."""
    readers: dict[str, Callable[[Path], object]] = {
        "config.yaml": load_config,
        "manifest.json": read_manifest,
        "metrics.jsonl": read_json_lines,
        "*.safetensors": load_tensors,
    }
    damaged = []
    for pattern, read in readers.items():
        for path in runs_dir.rglob(pattern):
            try:
                read(path)
            except FlashtraderError as error:
                damaged.append(str(error))
    return damaged


def outcome(run: Run | None) -> dict[str, Any]:
    """Return all that came of a training but how long it took, and what was left half-written."""
    assert run is not None
    made: dict[str, Any] = {"left behind": [path.name for path in run.path.rglob(".*.part")]}
    for file in run.path.rglob("*.safetensors"):
        if file.stem != "previous":  # of which a training that was killed at its end may have another one
            tensors, facts = load_tensors(file)
            made[str(file.relative_to(run.path))] = (tensors_digest(tensors), _without_times(facts))
    for file in run.path.rglob("metrics.jsonl"):
        made[str(file.relative_to(run.path))] = _without_times(read_json_lines(file))
    for file in run.path.rglob("manifest.json"):
        recorded = read_json(file)
        parts = {
            part: recorded.get(part) for part in ("data", "split", "training", "weights", "members", "plain_models")
        }
        made[str(file.relative_to(run.path))] = _without_times(parts)
    return made


def _models(run: Run) -> list[Run]:
    return [Run(path.parent) for path in run.path.glob("members/*/config.yaml")] or [run]


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_times(item) for name, item in value.items() if name not in TIMES}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


def main() -> None:
    """Run the campaign of each experiment; print and write the figures; exit with 1 if anything is lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of both experiments together")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=Path("training_campaign.json"))
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    campaigns = {}
    for name, (config, changes) in EXPERIMENTS.items():
        with tempfile.TemporaryDirectory() as directory:
            place = Place(Path(directory), forks())
            campaigns[name] = kill_trainings(
                config, changes, -(-arguments.kills // len(EXPERIMENTS)), arguments.seed, place
            )
    payload = {
        "command": " ".join(sys.argv),
        **describe_machine(load_config(SMOKE / "returns.yaml"), torch.device("cpu")),
        "campaigns": {
            name: asdict(campaign) | {"identical": campaign.identical} for name, campaign in campaigns.items()
        },
    }
    write_json(arguments.out, payload)
    rows = [
        ("kills", *(f"{campaign.kills:,}" for campaign in campaigns.values())),
        *(
            (f"– {when}", *(f"{campaign.moments.get(when, 0):,}" for campaign in campaigns.values()))
            for when in sorted(set().union(*(campaign.moments for campaign in campaigns.values())))
        ),
        ("resumed", *(f"{campaign.resumes:,}" for campaign in campaigns.values())),
        ("trainings ended", *(f"{campaign.trainings:,}" for campaign in campaigns.values())),
        ("steps of them", *(f"{campaign.steps:,}" for campaign in campaigns.values())),
        ("damaged files", *(f"{len(campaign.corrupt_files):,}" for campaign in campaigns.values())),
        ("identical", *("yes" if campaign.identical else "no" for campaign in campaigns.values())),
        ("seconds", *(f"{campaign.seconds:.0f}" for campaign in campaigns.values())),
    ]
    show([Table("Trainings under kills", ("", *campaigns), rows)], payload, arguments.json)
    if not all(campaign.identical and not campaign.corrupt_files for campaign in campaigns.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
