"""Everything that training needs to go on as if it had never stopped, in one file, and the one before it."""

import logging
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import NonNegativeInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from flashtrader.errors import TrainingError, is_out_of_memory
from flashtrader.files import replacing
from flashtrader.models.weights import load_tensors, save_tensors
from flashtrader.training.distributed import divided_like, team
from flashtrader.training.optim import Schedule

_log = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far training is. Losses are in squared (Huber: or absolute) standard deviations of the target."""

    step: NonNegativeInt = 0
    best_step: NonNegativeInt = 0
    best_loss: float = float("inf")
    best_skill: float = float("nan")
    evaluations_since_best: NonNegativeInt = 0
    seconds: float = 0.0


def save_checkpoint(
    directory: Path, model: nn.Module, optimiser: torch.optim.Optimizer, schedule: Schedule, progress: Progress
) -> None:
    """Replace last.safetensors by model, optimiser, schedule, progress and random state; keep the one before it.

    Of several processes all have to call this, and the first one writes, whatever of the model each of them holds.

    At any moment one of the two is whole. Segments are drawn from (seed, step), so the step is the sampler's whole
    state. Raises OSError, with the older checkpoint intact, when the disk is full or refuses.
    """
    tensors: dict[str, Tensor] = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in moments.items()}
    tensors = team().whole(tensors)
    if not team().is_writer:
        return
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    last, previous = _files(directory)
    if last.is_file():
        _keep(last, previous)
    save_tensors(last, tensors, {"progress": asdict(progress), "schedule": schedule.state()})


def _files(directory: Path) -> tuple[Path, Path]:
    return directory / "last.safetensors", directory / "previous.safetensors"


def _keep(path: Path, kept: Path) -> None:
    """Let `kept` hold what `path` holds, while `path` stays where it is."""
    with replacing(kept) as temporary:
        temporary.unlink()
        try:
            os.link(path, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(path, temporary)


def has_checkpoint(directory: Path) -> bool:
    """Return whether there is anything to go on from, whole or not."""
    return any(path.is_file() for path in _files(directory))


def restore_checkpoint(
    directory: Path, model: nn.Module, optimiser: torch.optim.Optimizer, schedule: Schedule
) -> Progress:
    """Put the newest whole checkpoint into model, optimiser, schedule and random generators; return how far it was.

    Raises TrainingError when none is whole, or it is of another model.
    """
    path, tensors, facts = _newest_whole(directory)
    state = optimiser.state_dict()
    try:
        held = model.state_dict()
        weights = {name: divided_like(tensor, held[name]) for name, tensor in _under(tensors, "model.").items()}
        model.load_state_dict(weights)
        state["state"] = _moments(_under(tensors, "optimiser."), optimiser)
        optimiser.load_state_dict(state)
        schedule.restore(facts["schedule"])
        torch.set_rng_state(tensors["random.cpu"])
        if torch.cuda.is_available() and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"])
        return Progress(**facts["progress"])
    except (ArithmeticError, RuntimeError, KeyError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise TrainingError(
            f"{path}: the checkpoint does not fit the run's config.yaml; restore both from a copy, or train again"
        ) from error


def _newest_whole(directory: Path) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
    last, previous = _files(directory)
    try:
        return last, *load_tensors(last)
    except TrainingError as error:
        try:
            found = load_tensors(previous)
        except TrainingError:
            raise error from None
    if last.is_file():
        _log.warning("%s is damaged; training goes on from the checkpoint before it, %s", last, previous.name)
        if team().is_writer:  # else the next checkpoint would put it in the place of the whole one
            last.replace(last.with_name("damaged.safetensors"))
    return previous, *found


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _moments(tensors: dict[str, Tensor], optimiser: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, moment = name.partition(".")
        moments.setdefault(int(index), {})[moment] = divided_like(tensor, parameters[int(index)])
    return moments
