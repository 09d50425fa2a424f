"""Whether the estimate of a training's memory, as `train --dry-run` gives it, is what a training takes."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from flashtrader.benchmarks.peak_memory import PeakMemory
from flashtrader.config import Experiment, load_config
from flashtrader.training.budget import rehearse, untrained_model
from flashtrader.training.memory import step_peak_bytes


@dataclass(frozen=True)
class TrainingMemory:
    """What a config's training was said to take at most, and what it took."""

    config: str
    estimated_bytes: int | None
    """As `train --dry-run` has it; None for backbone hf."""
    measured_bytes: int | None
    """Of two steps from nothing, on this CPU; None where it can't be measured."""

    @property
    def ratio(self) -> float | None:
        """Estimate over measurement; None unless there are both."""
        if self.estimated_bytes is None or self.measured_bytes is None:
            return None
        return self.estimated_bytes / self.measured_bytes

    def to_json(self) -> dict[str, Any]:
        """Return the fields and the ratio."""
        return asdict(self) | {"ratio": self.ratio}


def measure_configs(paths: Sequence[Path]) -> list[TrainingMemory]:
    """Return the estimated and the measured memory of training each config on this CPU. Raises ConfigError.

    Each has a process of its own: small blocks that a larger training has left free would hide a small one's.
    """
    rows = []
    for path in paths:
        with PeakMemory(torch.device("cpu")) as memory:
            rows.append(measure_training(memory, str(path), load_config(path, [])))
    return rows


def measure_training(memory: PeakMemory, name: str, experiment: Experiment) -> TrainingMemory:
    """Return one row. memory: of the CPU."""
    on_cpu = experiment.model_copy(update={"training": experiment.training.model_copy(update={"device": "cpu"})})
    return TrainingMemory(
        config=name,
        estimated_bytes=step_peak_bytes(on_cpu, untrained_model(on_cpu)),
        measured_bytes=memory.bytes_of(_two_steps_from_nothing, on_cpu),
    )


def _two_steps_from_nothing(experiment: Experiment) -> Callable[[], object]:
    """Return what builds a model and trains it for two steps: AdamW's moments are there from the second on."""

    def train() -> None:
        step = rehearse(experiment)
        step()
        step()

    return train
