"""Everything that training needs to go on as if it had never stopped, in one file."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from flashtrader.errors import TrainingError
from flashtrader.models.weights import load_tensors, save_tensors
from flashtrader.training.optim import Schedule


@dataclass
class Progress:
    """How far training is. Losses are in squared (Huber: or absolute) standard deviations of the target."""

    step: int = 0
    best_step: int = 0
    best_loss: float = float("inf")
    best_skill: float = float("nan")
    evaluations_since_best: int = 0
    seconds: float = 0.0


def save_checkpoint(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, schedule: Schedule, progress: Progress
) -> None:
    """Replace `path` by model, optimiser, schedule, progress and random state, in one step.

    Segments are drawn from (seed, step), so the step is the sampler's whole state.
    """
    tensors: dict[str, Tensor] = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in moments.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    save_tensors(path, tensors, {"progress": asdict(progress), "schedule": schedule.state()})


def restore_checkpoint(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, schedule: Schedule) -> Progress:
    """Put a checkpoint's state into model, optimiser, schedule and random generators; return how far it was.

    Raises TrainingError when the file is missing, damaged, or of another model.
    """
    tensors, facts = load_tensors(path)
    state = optimiser.state_dict()
    try:
        model.load_state_dict(_under(tensors, "model."))
        state["state"] = _moments(_under(tensors, "optimiser."))
        optimiser.load_state_dict(state)
        schedule.restore(facts["schedule"])
        torch.set_rng_state(tensors["random.cpu"])
        if torch.cuda.is_available() and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"])
        return Progress(**facts["progress"])
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"{path}: the checkpoint does not fit the run's config.yaml ({reason})") from None


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _moments(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, moment = name.partition(".")
        moments.setdefault(int(index), {})[moment] = tensor
    return moments
