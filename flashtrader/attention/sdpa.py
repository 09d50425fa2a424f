"""PyTorch's scaled_dot_product_attention: whichever kernel it picks, or one of them by name.

Its kernels know two shapes: everything, and causal from the top left corner. Any other takes a mask, and a mask for all
N queries is as large as the matrix that these kernels exist to avoid. So every other pattern is cut into blocks of
queries, each against the keys that some of them see, and all blocks share one small mask. A sliding window takes time
and memory in proportion to N·W that way, not N².

On a CPU the blocks run one after another inside one autograd function (`_CpuBlocks`): the kernel reads views of the
keys, its own backward is called block by block, and the gradients are added where they belong. Left to autograd, each
slice of the keys would get a gradient of the keys' full length: N² again. Elsewhere a window's blocks become a batch
(`_banded`), so that a GPU gets few large calls; sdpa-flash on CUDA needs no blocks, as PyTorch's flash kernel takes a
window through `varlen_attn`.

Sources: torch.nn.functional.scaled_dot_product_attention, torch.nn.attention.varlen (PyTorch 2.13 documentation).
"""

import functools
import inspect
import math
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.backends import cuda
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from flashtrader.attention.pattern import AttentionPattern

PLAIN_CAUSAL = AttentionPattern(causal=True)

CPU_BLOCK = 128
"""Queries of one block on a CPU."""
ROWS_BLOCK = 512
"""Queries of one block elsewhere, where calls that follow each other should be few."""


@dataclass(frozen=True)
class Sdpa:
    """SDPA with one kernel, or with the one that PyTorch prefers."""

    kernel: SDPBackend | None

    def unsupported(self, q_BNHD: Tensor, k_BNHD: Tensor, pattern: AttentionPattern) -> str | None:
        """Return why this kernel can't run the call, or None."""
        if self.kernel in (None, SDPBackend.MATH):
            return None
        if not q_BNHD.is_cuda:
            on_cpu = q_BNHD.device.type == "cpu" and self.kernel == SDPBackend.FLASH_ATTENTION
            return None if on_cpu else f"needs a CUDA device, and the tensors are on {q_BNHD.device.type}"
        masked = needs_mask(pattern, q_BNHD.shape[1], k_BNHD.shape[1])
        if masked and self.kernel == SDPBackend.CUDNN_ATTENTION:
            return "takes all keys, or causal with as many queries as keys; the pattern here is another"
        if masked and self.kernel == SDPBackend.FLASH_ATTENTION:
            if pattern.entities_per_step > 1:
                return "the entities of one step see each other, which takes a mask, and the flash kernel takes none"
            if _varlen_attn() is None:
                return "a window or cached keys need torch.nn.attention.varlen with window_size, of a newer PyTorch"
            if q_BNHD.shape[3] % 8:
                return f"a window or cached keys need a head_dim in steps of 8, not {q_BNHD.shape[3]}"
        return _refusal(self.kernel, q_BNHD, k_BNHD, masked, is_causal=pattern.causal and not masked)

    def attend(self, q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor, pattern: AttentionPattern) -> Tensor:
        """Return softmax(q kᵀ / √D) v over the keys that `pattern` shows, as (B, Nq, H, D)."""
        with nullcontext() if self.kernel is None else sdpa_kernel(self.kernel):
            if not needs_mask(pattern, q_BNHD.shape[1], k_BNHD.shape[1]):
                return _call(q_BNHD, k_BNHD, v_BNHD, is_causal=pattern.causal)
            if q_BNHD.device.type == "cpu" and self.kernel != SDPBackend.MATH:
                out_BHND: Tensor = _CpuBlocks.apply(*map(_BHND, (q_BNHD, k_BNHD, v_BNHD)), pattern)  # type: ignore[no-untyped-call]
                return out_BHND.transpose(1, 2)
            if self.kernel == SDPBackend.FLASH_ATTENTION:
                return _varlen(q_BNHD, k_BNHD, v_BNHD, pattern)
            if pattern.window_steps is not None:
                return _banded(q_BNHD, k_BNHD, v_BNHD, pattern)
            return _by_rows(q_BNHD, k_BNHD, v_BNHD, pattern)


def needs_mask(pattern: AttentionPattern, num_queries: int, num_keys: int) -> bool:
    """Tell whether the pattern is neither everything nor causal from the top left corner."""
    return pattern.causal and (pattern != PLAIN_CAUSAL or num_queries != num_keys)


def _refusal(kernel: SDPBackend, q_BNHD: Tensor, k_BNHD: Tensor, masked: bool, is_causal: bool) -> str | None:
    """Return PyTorch's own reason why a CUDA kernel can't run the call, or None."""
    q_BHND, k_BHND = q_BNHD.transpose(1, 2), k_BNHD.transpose(1, 2)
    mask = None
    if masked and kernel != SDPBackend.FLASH_ATTENTION:
        mask = q_BNHD.new_zeros(()).expand(q_BNHD.shape[1], k_BNHD.shape[1])
    can_use = {
        SDPBackend.FLASH_ATTENTION: cuda.can_use_flash_attention,
        SDPBackend.EFFICIENT_ATTENTION: cuda.can_use_efficient_attention,
        SDPBackend.CUDNN_ATTENTION: cuda.can_use_cudnn_attention,
    }[kernel]
    parameters = cuda.SDPAParams(q_BHND, k_BHND, k_BHND, mask, 0.0, is_causal, False)
    if can_use(parameters):
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        can_use(parameters, debug=True)
    return "; ".join(str(warning.message).split(" (Triggered")[0] for warning in caught) or "PyTorch refuses the call"


# Blocks of queries --------------------------------------------------------------------------------------------------


def blocks_of(pattern: AttentionPattern, num_queries: int, num_keys: int, block: int) -> Iterator[tuple[slice, slice]]:
    """Yield blocks of queries and the keys that some of them see."""
    cached = num_keys - num_queries
    for start in range(0, num_queries, block):
        stop = min(start + block, num_queries)
        yield slice(start, stop), slice(*pattern.seen_by_any(cached + start, cached + stop, num_keys))


def block_tokens(pattern: AttentionPattern, tokens: int) -> int:
    """Return about `tokens` as whole steps, at least one: a block of one step needs no mask."""
    return max(1, tokens // pattern.entities_per_step) * pattern.entities_per_step


@functools.lru_cache(maxsize=4)
def _mask(
    pattern: AttentionPattern, num_queries: int, num_keys: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return the additive mask of the last `num_queries` of `num_keys` positions.

    What a query sees depends on how many steps back a key lies, so the last rows and columns of a mask are the mask of
    a smaller block: one serves all blocks of a call, and every call like it.
    """
    seen = pattern.mask(range(num_keys - num_queries, num_keys), range(num_keys), device)
    with torch.inference_mode(False):  # kept for later calls, of which some need gradients
        return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, -math.inf)


def _masks(pattern: AttentionPattern, blocks: list[tuple[slice, slice]], like: Tensor) -> Iterator[Tensor | None]:
    """Yield each block's mask, a view of one that they share, or None where a block is one step."""
    rows = max(queries.stop - queries.start for queries, _ in blocks)
    columns = max(keys.stop - keys.start for _, keys in blocks)
    for queries, keys in blocks:
        num_rows, num_columns = queries.stop - queries.start, keys.stop - keys.start
        if num_rows <= pattern.entities_per_step:
            yield None
        else:
            yield _mask(pattern, rows, columns, like.dtype, like.device)[-num_rows:, -num_columns:]


class _CpuBlocks(torch.autograd.Function):
    """The fused CPU kernel and its backward, block after block, on views of the keys.

    Measured with window 512 of 2,048 queries (B 2, H 8, float32, one core), microseconds a query and head, forward and
    backward together, for blocks of 64, 128, 192, 256, 384 queries: 4.8, 5.2, 5.4, 6.0, 6.7 with D 8; 9.3, 9.2, 9.9,
    10.2, 11.8 with D 64. With window 1,024 of 16,384 and D 8: 8.9, 9.1, 9.1, 9.8, 10.3. So blocks of 128: half the
    calls of 64 at the same speed. As a batch of copied windows (`_banded`) D 64 takes 9.7 where this takes 9.2, and
    keeps (W + 128) / 128 copies of the keys and values for the backward pass where this keeps none.
    """

    @staticmethod
    def forward(ctx: Any, q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor, pattern: AttentionPattern) -> Tensor:
        num_keys = k_BHND.shape[2]
        blocks = list(blocks_of(pattern, q_BHND.shape[2], num_keys, block_tokens(pattern, CPU_BLOCK)))
        out_BHND = torch.empty_like(q_BHND)
        lses = []
        for (rows, columns), mask in zip(blocks, _masks(pattern, blocks, q_BHND), strict=True):
            out_BHND[:, :, rows], lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                q_BHND[:, :, rows], k_BHND[:, :, columns], v_BHND[:, :, columns], attn_mask=mask
            )
            lses.append(lse)
        ctx.save_for_backward(q_BHND, k_BHND, v_BHND, out_BHND, *lses)
        ctx.pattern, ctx.blocks = pattern, blocks
        return out_BHND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_BHND: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q_BHND, k_BHND, v_BHND, out_BHND, *lses = ctx.saved_tensors
        dq_BHND = torch.empty_like(q_BHND)
        sum_dtype = torch.promote_types(k_BHND.dtype, torch.float32)
        dk_BHND, dv_BHND = (torch.zeros_like(x, dtype=sum_dtype) for x in (k_BHND, v_BHND))
        masks = _masks(ctx.pattern, ctx.blocks, q_BHND)
        for (rows, columns), mask, lse in zip(ctx.blocks, masks, lses, strict=True):
            dq_BHND[:, :, rows], dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                dout_BHND[:, :, rows],
                q_BHND[:, :, rows],
                k_BHND[:, :, columns],
                v_BHND[:, :, columns],
                out_BHND[:, :, rows],
                lse,
                dropout_p=0.0,
                is_causal=False,
                attn_mask=mask,
            )
            dk_BHND[:, :, columns] += dk
            dv_BHND[:, :, columns] += dv
        return dq_BHND, dk_BHND.to(k_BHND.dtype), dv_BHND.to(v_BHND.dtype), None


def _banded(q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor, pattern: AttentionPattern) -> Tensor:
    """Return windowed attention as one batch of equal blocks, after the first queries, whose window is cut short.

    A block of half a window computes half as many scores again as the pattern holds, and copies each key three times.
    """
    assert pattern.window_tokens is not None
    (batch, num_queries, heads, head_dim), num_keys = q_BNHD.shape, k_BNHD.shape[1]
    earlier = pattern.window_tokens - pattern.entities_per_step
    block = block_tokens(pattern, pattern.window_tokens // 2)
    cut_short = max(0, earlier - (num_keys - num_queries))
    num_blocks = (num_queries - cut_short) // block
    head, head_keys = num_queries - num_blocks * block, num_keys - num_blocks * block
    outs = []
    if head:
        outs.append(_by_rows(q_BNHD[:, :head], k_BNHD[:, :head_keys], v_BNHD[:, :head_keys], pattern))
    if num_blocks:
        q = q_BNHD[:, head:].reshape(batch * num_blocks, block, heads, head_dim)
        k, v = (
            x[:, head_keys - earlier :]
            .unfold(1, earlier + block, block)
            .permute(0, 1, 4, 2, 3)
            .reshape(batch * num_blocks, earlier + block, heads, head_dim)
            for x in (k_BNHD, v_BNHD)
        )
        mask = None
        if block > pattern.entities_per_step:
            mask = _mask(pattern, block, earlier + block, q.dtype, q.device)
        outs.append(_call(q, k, v, mask).reshape(batch, num_blocks * block, heads, head_dim))
    return torch.cat(outs, dim=1)


def _by_rows(q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor, pattern: AttentionPattern) -> Tensor:
    """Return attention block after block."""
    num_queries, num_keys = q_BNHD.shape[1], k_BNHD.shape[1]
    blocks = list(blocks_of(pattern, num_queries, num_keys, block_tokens(pattern, ROWS_BLOCK)))
    outs = [
        _call(q_BNHD[:, rows], k_BNHD[:, columns], v_BNHD[:, columns], mask)
        for (rows, columns), mask in zip(blocks, _masks(pattern, blocks, q_BNHD), strict=True)
    ]
    return torch.cat(outs, dim=1)


# Calls --------------------------------------------------------------------------------------------------------------


def _call(
    q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    # A GPU kernel wants a mask whose rows begin at aligned addresses; PyTorch sees to that if it is not a slice.
    mask = None if mask is None else mask.contiguous()
    return scaled_dot_product_attention(
        _BHND(q_BNHD), _BHND(k_BNHD), _BHND(v_BNHD), attn_mask=mask, is_causal=is_causal
    ).transpose(1, 2)


def _BHND(x_BNHD: Tensor) -> Tensor:  # noqa: N802
    """Return the layout of SDPA; a fused kernel needs the last dimension without gaps."""
    x_BHND = x_BNHD.transpose(1, 2)
    return x_BHND if x_BHND.stride(-1) == 1 else x_BHND.contiguous()


@functools.cache
def _varlen_attn() -> Any:
    """Return PyTorch's flash attention over packed sequences, or None where it does not know windows (before 2.11)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if "window_size" in inspect.signature(varlen_attn).parameters else None


def _varlen(q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor, pattern: AttentionPattern) -> Tensor:
    """Return causal attention, windowed or not, of the last Nq of Nk positions by PyTorch's flash kernel.

    It packs sequences of any length: here the batch, all of one length. Its causality is aligned bottom right.
    """
    (batch, num_queries, _, _), num_keys = q_BNHD.shape, k_BNHD.shape[1]
    ends_q, ends_k = (
        torch.arange(0, (batch + 1) * length, length, dtype=torch.int32, device=q_BNHD.device)
        for length in (num_queries, num_keys)
    )
    earlier = -1 if pattern.window_steps is None else pattern.window_steps - 1
    out: Tensor = _varlen_attn()(
        *(x.flatten(0, 1) for x in (q_BNHD, k_BNHD, v_BNHD)),
        ends_q,
        ends_k,
        num_queries,
        num_keys,
        window_size=(earlier, 0),
    )
    return out.view_as(q_BNHD)


BACKENDS = {
    "sdpa": Sdpa(None),
    "sdpa-flash": Sdpa(SDPBackend.FLASH_ATTENTION),
    "sdpa-efficient": Sdpa(SDPBackend.EFFICIENT_ATTENTION),
    "sdpa-cudnn": Sdpa(SDPBackend.CUDNN_ATTENTION),
    "sdpa-math": Sdpa(SDPBackend.MATH),
}
