"""The processes that train one model together: what they say to each other, and how they divide a batch and a model.

Every process reads the same bars and draws the same segments; each runs its share of a batch, which is some of the
segments or, under `context_parallel`, a stretch of each of them. Then every process gathers the answers of all and
computes the objective of the whole batch. So it is what it would be in one process, whatever it is: a mean over labels
of which some processes hold few, or a Sharpe ratio, which is no mean at all.

Shapes: B segments of S bars in the batch, b segments of s bars in a share, K targets, P numbers for each.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from flashtrader.errors import DataError, FlashtraderError
from flashtrader.models.model import GridModel
from flashtrader.panel.segments import Batch, Segments
from flashtrader.training.relaunch import Launch

Made = TypeVar("Made")


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
    launch: Launch = field(default_factory=Launch)
    """What outlives the processes, which may have been started again."""

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
        return self.from_writer(self.launch.begun)

    # Shares of a batch -------------------------------------------------------------------------------------------

    def share(self, segments: Segments, starts_B: NDArray[np.int64]) -> Batch:
        """Return this process's share of a batch (b, s, …), with the targets of all of it (B, S, K)."""
        own = starts_B[_part(len(starts_B), self.rank // self.context, self.size // self.context)]
        bars = _part(segments.segment_bars, self.rank % self.context, self.context)
        return Batch(segments.values[own, bars], segments.mask[own, bars], segments.labels(starts_B))

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
    """Return the processes that train with this one: this one alone, except within `joined`."""
    return _joined.get()


@contextmanager
def joined(together: Team) -> Iterator[Team]:
    """Make a team this process's own within."""
    token = _joined.set(together)
    try:
        yield together
    finally:
        _joined.reset(token)


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
