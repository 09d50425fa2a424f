"""What a run was made from: enough to make it again, and to notice that its data has changed."""

import platform
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import flashtrader
from flashtrader.config import Experiment
from flashtrader.errors import ConfigError, DataError
from flashtrader.manifest import Manifest
from flashtrader.models.model import GridModel
from flashtrader.models.precision import device_of
from flashtrader.models.weights import load_tensors, tensors_digest
from flashtrader.registry import flatten
from flashtrader.run import Run
from flashtrader.training.data import LabelledPanel
from flashtrader.training.distributed import team
from flashtrader.training.memory import choose_attention
from flashtrader.training.summary import TrainingSummary

_MAY_CHANGE = (
    *("training.max_steps", "training.patience", "training.checkpoint_every", "training.tensorboard"),
    *("training.distributed", "training.context_parallel"),
)
_RECORDED_PACKAGES = ("torch", "numpy", "scipy", "pandas", "pyarrow", "numba", "scikit-learn", "skops", "safetensors")


def describe_training(experiment: Experiment, data: LabelledPanel, model: GridModel) -> dict[str, Any]:
    """Return the manifest of a run that is about to begin.

    Raises BackendError when the attention backend that the experiment names can't run the training's calls.
    """
    return describe_data(experiment, data, device_of(model)) | {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "processes": team().size,
        "attention": asdict(choose_attention(experiment, model)),
    }


def describe_data(experiment: Experiment, data: LabelledPanel, device: torch.device) -> dict[str, Any]:
    """Return the part of a manifest that any model's has: of what experiment, when, with what and of which bars."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "".join(sign if sign.isprintable() else " " for sign in " ".join(sys.argv)),
        **describe_machine(experiment, device),
        "seed": experiment.training.seed,
        "data": data.fingerprints,
        "panel": {
            "bars": len(data.panel.timestamps),
            "runs": len(data.panel.run_starts),
            "features": list(data.panel.feature_names),
        },
        "split": data.split.describe(),
        "experiment": experiment.model_dump(mode="json"),
    }


def describe_machine(experiment: Experiment, device: torch.device) -> dict[str, Any]:
    """Return what the bits of a training depend on besides the experiment and its data."""
    libraries = ("transformers",) if experiment.model.backbone == "hf" else ()
    return {
        "versions": {"flashtrader": flashtrader.__version__, "python": platform.python_version()}
        | {package: version(package) for package in (*_RECORDED_PACKAGES, *libraries)},
        "commit": _commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def describe_outcome(summary: TrainingSummary) -> dict[str, Any]:
    """Return what a manifest says once training has ended: how, and the digest of every model that was fitted.

    The digests' keys are the files' paths within the run, members' and plain models' included.
    """
    path = summary.run.path
    files = sorted([*path.glob("**/checkpoints/best.safetensors"), *path.glob("**/plain/*.safetensors")])
    return {
        "training": {name: value for name, value in vars(summary).items() if name != "run"},
        "weights": {file.relative_to(path).as_posix(): tensors_digest(load_tensors(file)[0]) for file in files},
    }


def describe_resumption(run: Run, experiment: Experiment, step: int) -> dict[str, Any]:
    """Return what a manifest says of a training that goes on after a step: by what experiment, and by which before."""
    before = run.experiment
    lengths = {"max_steps": before.training.max_steps, "patience": before.training.patience}
    resumed = [*run.manifest.get("resumed", []), {"after_step": step} | lengths]
    return {"experiment": experiment.model_dump(mode="json"), "resumed": resumed}


def _commit() -> str | None:
    """Return the commit of the sources that run here, `-dirty` where they differ from it; None of an installed copy."""
    sources = Path(flashtrader.__file__).parents[1]
    if not (sources / ".git").exists():
        return None
    command = ("git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    try:
        asked = subprocess.run(command, cwd=sources, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip() or None


def check_same_experiment(run: Run, experiment: Experiment) -> None:
    """Raise ConfigError if the experiment is not the run's own but for when training stops and what it reports.

    The manifest tells which is its own once training has begun: config.yaml can be edited.
    """
    own = run.read_manifest().experiment if run.has_begun else run.experiment
    old, new = (flatten(described.model_dump(mode="json")) for described in (own, experiment))
    changed = [key for key in old.keys() | new.keys() if old.get(key) != new.get(key) and key not in _MAY_CHANGE]
    if changed:
        raise ConfigError(
            f"{run.path}: {', '.join(sorted(changed))} can't change when a run goes on, only {', '.join(_MAY_CHANGE)}; "
            "train a new run with --config"
        )


def with_bars_of(run: Run, experiment: Experiment) -> Experiment:
    """Return the experiment on the period of the bars that the run was trained on, whatever was fetched since."""
    return on_period_of(run.read_manifest(), experiment)


def on_period_of(manifest: Manifest, experiment: Experiment) -> Experiment:
    """Return the experiment on the period of the bars that a manifest tells of."""
    return experiment.model_copy(update={"data": experiment.data.model_copy(update=manifest.period)})


def check_same_data(run: Run, data: LabelledPanel) -> None:
    """Raise DataError if the stored bars are not those that the run was trained on."""
    trained_on = run.manifest["data"]
    changed = [symbol for symbol, found in data.fingerprints.items() if found != trained_on.get(symbol)]
    if changed:
        raise DataError(
            f"{run.path}: the stored bars of {', '.join(changed)} are not those that this run was trained on; "
            "train a new run, or bring the old bars back"
        )
