"""PyTorch's scaled_dot_product_attention: whichever kernel it picks, or one of them by name.

Its kernels know two shapes, everything and causal from the top left corner; any other takes a mask. So a pattern is cut
into blocks of queries, each with the keys that it can see, and no mask is larger than one block:

- everything, or causal with as many keys as queries: one call, no mask;
- a sliding window: blocks of queries, each against its window's keys, all in one call as a batch, which share one mask.
  Time and memory grow with N·W, not with N²;
- the rest (cached keys, several entities per step): block after block, each against the keys up to its end.
"""

import functools
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from flashtrader.attention.pattern import AttentionPattern

MASK_ENTRIES = 1 << 22
"""Largest mask of one call."""


@dataclass(frozen=True)
class Sdpa:
    """SDPA with one kernel, or with the one that PyTorch prefers."""

    kernel: SDPBackend | None

    def unsupported(self, q_BNHD: Tensor, k_BNHD: Tensor, pattern: AttentionPattern) -> str | None:
        """Return why this kernel can't run the call, or None."""
        return None

    def attend(self, q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor, pattern: AttentionPattern) -> Tensor:
        """Return the attention output (B, Nq, H, D)."""
        with nullcontext() if self.kernel is None else sdpa_kernel(self.kernel):
            return _attend(q_BNHD, k_BNHD, v_BNHD, pattern)


def _attend(q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor, pattern: AttentionPattern) -> Tensor:
    num_queries, num_keys = q_BNHD.shape[1], k_BNHD.shape[1]
    if not pattern.causal:
        return _call(q_BNHD, k_BNHD, v_BNHD)
    if pattern == AttentionPattern(causal=True) and num_queries == num_keys:
        return _call(q_BNHD, k_BNHD, v_BNHD, is_causal=True)
    if pattern.window_tokens is None:
        return _by_rows(q_BNHD, k_BNHD, v_BNHD, pattern)
    return _banded(q_BNHD, k_BNHD, v_BNHD, pattern)


def _banded(q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor, pattern: AttentionPattern) -> Tensor:
    assert pattern.window_tokens is not None
    num_queries, num_keys = q_BNHD.shape[1], k_BNHD.shape[1]
    earlier = pattern.window_tokens - pattern.entities_per_step
    block = _block_tokens(pattern)
    without_full_window = max(0, earlier - (num_keys - num_queries))
    num_blocks = (num_queries - without_full_window) // block
    head = num_queries - num_blocks * block
    parts = []
    if head:
        head_keys = num_keys - num_blocks * block
        first = max(0, head_keys - head - earlier)
        parts.append(_by_rows(q_BNHD[:, :head], k_BNHD[:, first:head_keys], v_BNHD[:, first:head_keys], pattern))
    if num_blocks:
        first_key = num_keys - num_blocks * block - earlier
        batch, _, heads, head_dim = q_BNHD.shape
        q = q_BNHD[:, head:].reshape(batch * num_blocks, block, heads, head_dim)
        k, v = (
            x[:, first_key:]
            .unfold(1, earlier + block, block)
            .permute(0, 1, 4, 2, 3)
            .reshape(batch * num_blocks, earlier + block, heads, head_dim)
            for x in (k_BNHD, v_BNHD)
        )
        mask = _mask(pattern, block, earlier + block, q.device)
        parts.append(_call(q, k, v, mask).reshape(batch, num_blocks * block, heads, head_dim))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _block_tokens(pattern: AttentionPattern) -> int:
    """Return how many queries of a window share a call's row of the batch."""
    assert pattern.window_steps is not None
    return max(1, pattern.window_steps // 2) * pattern.entities_per_step


def _by_rows(q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor, pattern: AttentionPattern) -> Tensor:
    num_queries, num_keys = q_BNHD.shape[1], k_BNHD.shape[1]
    cached = num_keys - num_queries
    entities = pattern.entities_per_step
    block = max(1, MASK_ENTRIES // num_keys // entities) * entities
    outs = []
    for start in range(0, num_queries, block):
        stop = min(start + block, num_queries)
        first_key, end_key = pattern.seen_by_any(cached + start, cached + stop, num_keys)
        k_block, v_block = k_BNHD[:, first_key:end_key], v_BNHD[:, first_key:end_key]
        inner, _ = pattern.reduced(stop - start, end_key - first_key)
        if not inner.causal:
            mask, is_causal = None, False
        elif inner == AttentionPattern(causal=True) and stop - start == end_key - first_key:
            mask, is_causal = None, True
        else:
            mask, is_causal = _mask(inner, stop - start, end_key - first_key, q_BNHD.device), False
        outs.append(_call(q_BNHD[:, start:stop], k_block, v_block, mask, is_causal))
    return outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)


@functools.lru_cache(maxsize=32)
def _mask(pattern: AttentionPattern, num_queries: int, num_keys: int, device: torch.device) -> Tensor:
    return pattern.mask(range(num_keys - num_queries, num_keys), range(num_keys), device)


def _call(
    q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    q_BHND, k_BHND, v_BHND = (x.transpose(1, 2) for x in (q_BNHD, k_BNHD, v_BNHD))
    return scaled_dot_product_attention(q_BHND, k_BHND, v_BHND, attn_mask=mask, is_causal=is_causal).transpose(1, 2)


BACKENDS = {
    "sdpa": Sdpa(None),
    "sdpa-flash": Sdpa(SDPBackend.FLASH_ATTENTION),
    "sdpa-efficient": Sdpa(SDPBackend.EFFICIENT_ATTENTION),
    "sdpa-cudnn": Sdpa(SDPBackend.CUDNN_ATTENTION),
    "sdpa-math": Sdpa(SDPBackend.MATH),
}
