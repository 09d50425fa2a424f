"""Context parallelism: processes that each hold a stretch of every segment, and see the end of the stretch before.

A layer's window reaches a few bars back into it. So that is what crosses the border between two stretches, and no more.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from flashtrader.models.cache import KeyValueCache
from flashtrader.models.decoder import Decoder
from flashtrader.training.distributed import Team


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
        before, after = _ranks_beside(team)
        seen_2BNHD = torch.empty_like(end_2BNHD) if before is not None else end_2BNHD[:, :, :0].clone()
        _pass_on(end_2BNHD, after, seen_2BNHD, before, team.neighbours)
        return seen_2BNHD

    @staticmethod
    def backward(ctx: Any, gradient_2BNHD: Tensor) -> tuple[Tensor, None]:
        before, after = _ranks_beside(ctx.team)
        end_gradient = gradient_2BNHD.new_zeros(ctx.end_shape)
        _pass_on(gradient_2BNHD, before, end_gradient, after, ctx.team.neighbours)
        return end_gradient, None


def _ranks_beside(team: Team) -> tuple[int | None, int | None]:
    """Return who holds the stretches before and after this process's; None is an end of the segment."""
    place = team.rank % team.context
    return (team.rank - 1 if place > 0 else None), (team.rank + 1 if place < team.context - 1 else None)


def _pass_on(
    given: Tensor, receiver: int | None, taken: Tensor, giver: int | None, group: dist.ProcessGroup | None
) -> None:
    """Send a tensor to one neighbour, if there is one, and fill another from the other."""
    transfers = []
    if receiver is not None:
        transfers.append(dist.P2POp(dist.isend, given.contiguous(), receiver, group))
    if giver is not None:
        transfers.append(dist.P2POp(dist.irecv, taken, giver, group))
    for transfer in dist.batch_isend_irecv(transfers):
        transfer.wait()
