"""The processes that torchrun started, training one model together. All that knows of process groups is here.

Every process reads the same bars and draws the same segments; each runs its share of a batch, which is some of the
segments or, under `context_parallel`, a stretch of each of them. Then every process gathers the answers of all and
computes the objective of the whole batch. So it is what it would be in one process, whatever it is: a mean over labels
of which some processes hold few, or a Sharpe ratio, which is no mean at all.

Shapes: B segments of S bars in the batch, b segments of s bars in a share, K targets, P numbers for each.
"""

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from flashtrader.config import TrainingConfig
from flashtrader.errors import (
    BackendError,
    ConfigError,
    DataError,
    DivergedError,
    FlashtraderError,
    TrainingError,
    is_out_of_memory,
)
from flashtrader.launch import num_processes, rank, was_launched
from flashtrader.models.cache import KeyValueCache
from flashtrader.models.decoder import Decoder
from flashtrader.models.model import GridModel
from flashtrader.models.precision import pick_device
from flashtrader.panel.segments import Batch, Segments

Made = TypeVar("Made")

_PATIENCE = timedelta(hours=2)
"""How long a process waits for another, which may be fitting plain models; one that died is noticed at once."""

_LOOK_SECONDS = 0.05

_LASTING = (ConfigError, DataError, BackendError, DivergedError)
"""What a training meets again when its processes are started again."""


@dataclass(frozen=True)
class Team:
    """The processes that train one model. A process alone is a team, too, for which all of this is nothing to do."""

    rank: int = 0
    size: int = 1
    context: int = 1
    """Processes that share a segment: those with ranks in a row."""
    shards: bool = False
    """FSDP in place of DDP."""
    neighbours: "dist.ProcessGroup | None" = None
    """Those that share a segment with this one."""
    launch: Store | None = None
    """torchrun's own memory: it lives as long as the launch, through every restart of its processes."""

    @property
    def is_writer(self) -> bool:
        """Whether this process writes what there is to write."""
        return self.rank == 0

    # What one process says or all agree on -----------------------------------------------------------------------

    def from_writer(self, make: Callable[[], Made]) -> Made:
        """Return what `make` returns in the writer; the others wait for it and don't call theirs.

        What the writer is refused is refused to all: each raises the same FlashtraderError.
        """
        if self.size == 1:
            return make()
        said: list[Any] = [None]
        if self.is_writer:
            try:
                said = [(make(), None)]
            except FlashtraderError as refusal:
                said = [(None, refusal)]
        dist.broadcast_object_list(said, src=0, device=torch.device("cpu"))
        made, refused = said[0]
        if refused is not None:
            raise refused
        return made  # type: ignore[no-any-return]

    def largest(self, number: int) -> int:
        """Return the largest of the processes' numbers."""
        if self.size == 1:
            return number
        numbers = torch.tensor(number)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return int(numbers.item())

    def check_same_bars(self, fingerprints: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise DataError unless every process sees the bars that the writer sees."""
        if self.largest(self.from_writer(lambda: fingerprints) != fingerprints):
            raise DataError(
                "the stored bars are not the same in all processes; give a --data-dir that all machines share, or copy "
                "the first one's to the others"
            )

    def begun(self) -> Path | None:
        """Return the run that this launch began before its processes were started again, if it did."""
        return self.from_writer(self._recall)

    def _recall(self) -> Path | None:
        return Path(self.launch.get("run").decode()) if self.launch and self.launch.check(["run"]) else None

    def remember(self, path: Path) -> None:
        """Keep in the launch's memory, as the writer, which run it began."""
        if self.launch is not None:
            self.launch.set("run", str(path))

    # Shares of a batch -------------------------------------------------------------------------------------------

    def share(self, segments: Segments, starts_B: NDArray[np.int64]) -> Batch:
        """Return this process's share of a batch (b, s, …), with the targets of all of it (B, S, K)."""
        own = starts_B[_part(len(starts_B), self.rank // self.context, self.size // self.context)]
        bars = _part(segments.segment_bars, self.rank % self.context, self.context)
        return Batch(segments.values[own, bars], segments.mask[own, bars], segments.labels(starts_B))

    def past(self, decoder: Decoder, bars: int) -> KeyValueCache | None:
        """Return what this process's stretch of so many bars continues; None where each process has whole segments."""
        return None if self.context == 1 else Border(self, decoder, bars)

    @property
    def before(self) -> int | None:
        """The rank that holds the stretch before this one's."""
        return self.rank - 1 if self.rank % self.context > 0 else None

    @property
    def after(self) -> int | None:
        """The rank that holds the stretch after this one's."""
        return self.rank + 1 if (self.rank + 1) % self.context > 0 else None

    def pass_on(self, given: Tensor, receiver: int | None, taken: Tensor, giver: int | None) -> None:
        """Send a tensor to one neighbour, and fill another from the other; None is the end of a segment."""
        transfers = []
        if receiver is not None:
            transfers.append(dist.P2POp(dist.isend, given.contiguous(), receiver, self.neighbours))
        if giver is not None:
            transfers.append(dist.P2POp(dist.irecv, taken, giver, self.neighbours))
        for transfer in dist.batch_isend_irecv(transfers):
            transfer.wait()

    def gather(self, outputs_btKP: Tensor) -> Tensor:
        """Return the answers to the whole batch (B, S, K, P), of which each process has given its share.

        Its backward pass hands each process its own answers' part of the gradient, times `size`: DDP and FSDP average
        the processes' gradients, and it is their sum that is the gradient of the batch.
        """
        if self.size == 1:
            return outputs_btKP
        b, s, targets, numbers = outputs_btKP.shape
        shares: Tensor = _Gather.apply(outputs_btKP, self)  # type: ignore[no-untyped-call]
        shares_DCbsKP = shares.view(self.size // self.context, self.context, b, s, targets, numbers)
        return shares_DCbsKP.transpose(1, 2).reshape(-1, self.context * s, targets, numbers)

    def seed_step(self, seed: int, step: int) -> None:
        """Begin this process's own stream of random numbers, for dropout, so that a step can be made again."""
        if self.size > 1:
            torch.manual_seed(int(np.random.SeedSequence([seed, step, self.rank]).generate_state(1, np.uint64)[0]))

    # The model ---------------------------------------------------------------------------------------------------

    def wrap(self, model: GridModel) -> nn.Module:
        """Return the model as training calls it, whose gradients are the average over the processes.

        Under FSDP the model itself changes: of every weight each process keeps a part, and each block has its own
        weights whole only while it computes (`torch.distributed.fsdp.fully_shard`).
        """
        if self.size == 1:
            return model
        if not self.shards:
            return DistributedDataParallel(model, gradient_as_bucket_view=True)
        for stack in list(model.decoder.modules()):
            if isinstance(stack, nn.ModuleList):
                for block in stack:
                    fully_shard(block)
        fully_shard(model)
        # What in-place operations on answers would do: there are none.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        return model

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a model or an optimiser whole, in the writer; the others take part, and get none."""
        found = {}
        for name, tensor in tensors.items():
            full = whole(tensor)
            if self.is_writer:
                found[name] = full.cpu()
        return found

    def accumulating(self, network: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Return the context of a batch of a step: DDP averages with the last one, FSDP, to keep little, with each."""
        if isinstance(network, DistributedDataParallel) and not last:
            return network.no_sync()
        return nullcontext()


_joined: ContextVar[Team] = ContextVar("team", default=Team())  # noqa: B039 (it is frozen)


def team() -> Team:
    """Return the processes that train with this one: this one alone, except within `join`."""
    return _joined.get()


def _part(length: int, index: int, parts: int) -> slice:
    """Return one of so many equal parts."""
    return slice(index * length // parts, (index + 1) * length // parts)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor of which each process may hold a part; all of them must call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def divided_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return of a whole tensor, which every process has, what this one keeps if it keeps a part of the parameter."""
    if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
        return tensor
    on_device = tensor.to(parameter.device)
    return distribute_tensor(on_device, parameter.device_mesh, parameter.placements, src_data_rank=None)


class _Gather(torch.autograd.Function):
    """Every process's answers, in order of rank."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, team: Team) -> Tensor:
        ctx.team = team
        gathered = outputs.new_empty((team.size, *outputs.shape))
        dist.all_gather(list(gathered), outputs.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.team.size * gradient[ctx.team.rank], None


class Border(KeyValueCache):
    """What a stretch of a segment sees of the one before it, which the process before this one holds.

    That is, in each layer, the last keys and values of that stretch; they cross as soon as the layer has them, and
    their gradients cross back. The first stretch sees nothing before it. None may be shorter than what is seen of it.
    """

    def __init__(self, team: Team, decoder: Decoder, bars: int) -> None:
        shape = decoder.shape
        super().__init__(shape.layers, (shape.context_bars - 1) * decoder.tokens_per_step)
        self._team = team
        self.position = team.rank % team.context * bars

    def extend(self, layer: int, k_BNHD: Tensor, v_BNHD: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return the keys and values with which the stretch before ends, followed by this stretch's own."""
        if self.memory_tokens == 0:
            return k_BNHD, v_BNHD
        end = torch.stack((k_BNHD[:, -self.memory_tokens :], v_BNHD[:, -self.memory_tokens :]))
        seen: Tensor = _Crossing.apply(end, self._team)  # type: ignore[no-untyped-call]
        return torch.cat((seen[0], k_BNHD), dim=1), torch.cat((seen[1], v_BNHD), dim=1)


class _Crossing(torch.autograd.Function):
    """Hands the end of a stretch to the next process, and returns the one before's: without a token in the first."""

    @staticmethod
    def forward(ctx: Any, end_2BNHD: Tensor, team: Team) -> Tensor:
        ctx.team = team
        ctx.end_shape = end_2BNHD.shape
        seen_2BNHD = torch.empty_like(end_2BNHD) if team.before is not None else end_2BNHD[:, :, :0].clone()
        team.pass_on(end_2BNHD, team.after, seen_2BNHD, team.before)
        return seen_2BNHD

    @staticmethod
    def backward(ctx: Any, gradient_2BNHD: Tensor) -> tuple[Tensor, None]:
        team = ctx.team
        end_gradient = gradient_2BNHD.new_zeros(ctx.end_shape)
        team.pass_on(gradient_2BNHD, team.before, end_gradient, team.after)
        return end_gradient, None


# torchrun -------------------------------------------------------------------------------------------------------------


@contextmanager
def join(config: TrainingConfig) -> Iterator[Team]:
    """Make the processes that torchrun started a team, and yield it; without torchrun, this process alone.

    Raises ConfigError where so many can't share what the config describes, TrainingError when one of them is lost. What
    ends one start of a launch and would end the next is raised at once where torchrun starts the processes again.
    """
    if not was_launched():
        yield team()
        return
    launch: Store | None = None
    try:
        launch = _launch()
        _refuse_again(launch)
        token = _joined.set(_assemble(config, launch))
        try:
            yield team()
        finally:
            _joined.reset(token)
    except _LASTING as refusal:
        if launch is not None:
            kind = next(index for index, each in enumerate(_LASTING) if isinstance(refusal, each))
            launch.set("refused", f"{kind} {refusal}")
        raise
    except RuntimeError as error:
        if not _is_of_a_group(error):
            raise
        raise TrainingError(
            f"the processes can't go on together: {str(error).splitlines()[0]}; where one of them was lost, torchrun "
            "--max-restarts goes on from the last checkpoint by itself, and so does: flashtrader train --resume RUN"
        ) from error
    if dist.is_initialized():
        dist.destroy_process_group()  # not after an error, when the others can't be waited for


def _refuse_again(launch: Store | None) -> None:
    """Raise what ended this launch's processes before they were started again, if that would end them again."""
    if launch is not None and launch.check(["refused"]):
        kind, _, words = launch.get("refused").decode().partition(" ")
        raise _LASTING[int(kind)](words)


def _is_of_a_group(error: RuntimeError) -> bool:
    """Return whether an error may be one of a process group.

    gloo, within a call or a backward pass, raises RuntimeError itself, as does any operation of PyTorch that can't be
    done; of these, only those for want of memory can be told apart.
    """
    if isinstance(error, dist.DistError):
        return True
    return type(error) is RuntimeError and num_processes() > 1 and not is_out_of_memory(error)


def _assemble(config: TrainingConfig, launch: Store | None) -> Team:
    size = num_processes()
    if size == 1:
        return Team(launch=launch)
    if rank() > 0:
        logging.disable(logging.WARNING)  # the first process gives the same warnings
    _check(config, size)
    _connect(config, launch)
    context = config.context_parallel
    return Team(rank(), size, context, config.distributed == "fsdp", _neighbours(context), launch)


def _connect(config: TrainingConfig, launch: Store | None) -> None:
    """Begin the process group: nccl on GPUs, and gloo for what one process tells the others."""
    on_gpu = pick_device(config).type == "cuda"
    if on_gpu:
        _take_gpu(int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=None if launch is None else PrefixStore(_agree_on_start(launch), launch),
        rank=rank(),
        world_size=num_processes(),
        timeout=_PATIENCE,
    )


def _agree_on_start(launch: Store) -> str:
    """Return a name that all processes of this start, and of no earlier one, have for it.

    torchrun's store outlives a restart, and so do the addresses in it of processes that are no more (PyTorch 2.13), nor
    do the machines count restarts alike. So each process leaves a sign of its own, and the first one answers every sign
    that it finds until all have taken note; signs of the dead are answered in vain.
    """
    own = uuid4().hex
    if rank() > 0:
        launch.set(f"sign of {rank()}", own)
        start = launch.get(f"answer to {own}").decode()
        launch.set(f"{start} noted by {rank()}", "")
        return start
    missing = set(range(1, num_processes()))
    while missing:
        for other in missing:
            if launch.check([f"sign of {other}"]):
                launch.set(f"answer to {launch.get(f'sign of {other}').decode()}", own)
        time.sleep(_LOOK_SECONDS)
        missing = {other for other in missing if not launch.check([f"{own} noted by {other}"])}
    return own


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


def _launch() -> Store | None:
    """Return torchrun's own memory; None where its processes keep the store, and it ends with them."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return PrefixStore("flashtrader", TCPStore(address, port, is_master=False))
