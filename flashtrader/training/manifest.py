"""What a run was made from: enough to make it again, and to notice that its data has changed."""

import platform
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from flashtrader import __version__
from flashtrader.config import Experiment
from flashtrader.errors import ConfigError, DataError
from flashtrader.models.model import GridModel
from flashtrader.models.precision import device_of
from flashtrader.panel.splits import Boundaries
from flashtrader.run import Run
from flashtrader.training.budget import choose_attention
from flashtrader.training.data import LabelledPanel, TrainingData

_MAY_CHANGE = ("training.max_steps", "training.patience", "training.tensorboard")
_RECORDED_PACKAGES = ("torch", "numpy", "pandas", "pyarrow", "scikit-learn")


def describe_training(experiment: Experiment, data: TrainingData, model: GridModel) -> dict[str, Any]:
    """Return the manifest of a run that is about to begin.

    Raises BackendError when the attention backend that the experiment names can't run the training's calls.
    """
    device = device_of(model)
    return describe_data(experiment, data) | {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "attention": asdict(choose_attention(experiment, model)),
    }


def describe_data(experiment: Experiment, data: LabelledPanel) -> dict[str, Any]:
    """Return the part of a manifest that any model's has: when, with what and of which bars it was made."""
    libraries = ("transformers",) if experiment.model.backbone == "hf" else ()
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
        "versions": {"flashtrader": __version__, "python": platform.python_version()}
        | {package: version(package) for package in (*_RECORDED_PACKAGES, *libraries)},
        "seed": experiment.training.seed,
        "data": data.fingerprints,
        "panel": {
            "bars": len(data.panel.timestamps),
            "runs": len(data.panel.run_starts),
            "features": list(data.panel.feature_names),
        },
        "split": data.split.describe(),
    }


def check_same_experiment(run: Run, experiment: Experiment) -> None:
    """Raise ConfigError if the experiment is not the run's own but for when training stops and what it reports."""
    old, new = (_flat(described.model_dump(mode="json")) for described in (run.experiment, experiment))
    changed = [key for key in old.keys() | new.keys() if old.get(key) != new.get(key) and key not in _MAY_CHANGE]
    if changed:
        raise ConfigError(
            f"{run.path}: {', '.join(sorted(changed))} can't change when a run goes on, only {', '.join(_MAY_CHANGE)}; "
            "train a new run with --config"
        )


def with_bars_of(run: Run, experiment: Experiment) -> Experiment:
    """Return the experiment on the period of the bars that the run was trained on, whatever was fetched since."""
    manifest = run.manifest
    end = datetime.fromtimestamp(Boundaries.read(manifest.get("split")).end_ms / 1000, UTC)
    start = min(datetime.fromisoformat(bars["first"]) for bars in manifest["data"].values())
    return experiment.model_copy(update={"data": experiment.data.model_copy(update={"start": start, "end": end})})


def check_same_data(run: Run, data: TrainingData) -> None:
    """Raise DataError if the stored bars are not those that the run was trained on."""
    trained_on = run.manifest["data"]
    changed = [symbol for symbol, found in data.fingerprints.items() if found != trained_on.get(symbol)]
    if changed:
        raise DataError(
            f"{run.path}: the stored bars of {', '.join(changed)} are not those that this run was trained on; "
            "train a new run, or bring the old bars back"
        )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by their dotted paths."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
