"""How the processes that torchrun started become a team, and what it means when one of them is lost."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from flashtrader.config import TrainingConfig
from flashtrader.errors import ConfigError, TrainingError, first_line, is_out_of_memory
from flashtrader.launch import num_processes, rank, was_launched
from flashtrader.models.precision import pick_device
from flashtrader.training.distributed import Team, joined, team
from flashtrader.training.relaunch import Launch

_PATIENCE = timedelta(hours=2)
"""How long a process waits for another, which may be fitting plain models; one that died is noticed at once."""


@contextmanager
def join(config: TrainingConfig) -> Iterator[Team]:
    """Make the processes that torchrun started a team, and yield it; without torchrun, this process alone.

    Raises ConfigError where so many can't share what the config describes, TrainingError when one of them is lost. What
    ends one start of a launch and would end the next is raised at once where torchrun starts the processes again.
    """
    if not was_launched():
        yield team()
        return
    try:
        launch = Launch.of_torchrun()
        with launch.refusing_again(), _warning_once(), joined(_assemble(config, launch)) as together:
            yield together
    except RuntimeError as error:
        if not _is_of_a_group(error):
            raise
        raise TrainingError(
            f"the processes can't go on together: {_told(error)}; where one of them was lost, torchrun "
            "--max-restarts goes on from the last checkpoint by itself, and so does: flashtrader train --resume RUN"
        ) from error
    if dist.is_initialized():
        dist.destroy_process_group()  # not after an error, when the others can't be waited for


@contextmanager
def _warning_once() -> Iterator[None]:
    """Let the first process alone warn: the others would do so of the same."""
    before = logging.root.manager.disable
    if rank() > 0:
        logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _is_of_a_group(error: RuntimeError) -> bool:
    """Return whether an error may be one of a process group.

    gloo, within a call or a backward pass, raises RuntimeError itself, as does any operation of PyTorch that can't be
    done; of these, only those for want of memory can be told apart.
    """
    if isinstance(error, dist.DistError):
        return True
    return type(error) is RuntimeError and num_processes() > 1 and not is_out_of_memory(error)


def _told(error: RuntimeError) -> str:
    """Return what happened, without the place in gloo's sources before it and the advice behind it."""
    return re.sub(r"^\[/\S+\] ", "", first_line(error)).partition(". ")[0]


def _assemble(config: TrainingConfig, launch: Launch) -> Team:
    size = num_processes()
    if size == 1:
        return Team(launch=launch)
    _check(config, size)
    _connect(config, launch)
    context = config.context_parallel
    return Team(rank(), size, context, config.distributed == "fsdp", _neighbours(context), launch)


def _connect(config: TrainingConfig, launch: Launch) -> None:
    """Begin the process group: nccl on GPUs, and gloo for what one process tells the others."""
    on_gpu = pick_device(config).type == "cuda"
    if on_gpu:
        _take_gpu(int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=launch.store_of_start(),
        rank=rank(),
        world_size=num_processes(),
        timeout=_PATIENCE,
    )


def _check(config: TrainingConfig, size: int) -> None:
    """Raise ConfigError unless so many processes have equal shares of a batch."""
    if config.distributed == "none":
        raise ConfigError(
            f"training.distributed: none, but torchrun started {size} processes, which would train {size} times the "
            "same; set it to ddp or fsdp, or start one process"
        )
    if size % config.context_parallel:
        raise ConfigError(
            f"training.context_parallel: {size} processes can't be divided into groups of {config.context_parallel}; "
            "start another number, or change it"
        )
    groups = size // config.context_parallel
    if config.batch_size % groups:
        raise ConfigError(
            f"training.batch_size: {config.batch_size} segments can't be shared evenly by {groups} "
            f"{'processes' if config.context_parallel == 1 else f'groups of {config.context_parallel} processes'}; "
            f"make it a multiple of {groups}, or start another number"
        )


def _neighbours(context: int) -> "dist.ProcessGroup | None":
    """Return the processes that share a segment with this one, as a group: its messages don't wait for gradients'."""
    if context == 1:
        return None
    own: dist.ProcessGroup
    own, _ = dist.new_subgroups(context)  # type: ignore[no-untyped-call]
    return own


def _take_gpu(index: int, processes: int) -> None:
    """Make one of this machine's GPUs this process's own."""
    if processes > torch.cuda.device_count():
        raise ConfigError(
            f"training.device: {processes} processes on a machine with {torch.cuda.device_count()} GPUs; start one "
            "for each, or set it to cpu"
        )
    torch.cuda.set_device(index)
