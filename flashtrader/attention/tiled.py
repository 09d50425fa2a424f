"""FlashAttention in plain PyTorch: exact attention in tiles, without the matrix of weights.

Dao, Fu, Ermon, Rudra, Ré (2022), "FlashAttention", algorithms 1 and 4; Dao (2023), "FlashAttention-2", algorithms 1
and 2. Each block of queries walks over the blocks of keys with three running values per query: the largest score m,
the sum l of exp(score - m), and the *unnormalised* output. A larger m rescales both sums by exp(m_old - m_new); the
division by l comes once, at the end. What is kept for the backward pass is the log-sum-exp m + log l, from which the
weights of each tile are computed again. Memory is O(N·D) in place of O(N²), and a tile that the pattern wholly hides
is never touched.

It runs everywhere, to be read and to check the kernels by; those are faster.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from flashtrader.attention.pattern import AttentionPattern

BLOCK = 256
"""Queries, and keys, of one tile.

On one core (float32, B 1, H 4, N 2,048, D 64, causal, forward and backward) tiles of 64, 128, 256, 512 take 250, 178,
158, 191 ms; the formula as written takes 408, PyTorch's kernel 125.
"""


def unsupported(_q_BNHD: Tensor, _k_BNHD: Tensor, _pattern: AttentionPattern) -> str | None:
    """Return None: it runs whatever the pattern, dtype and device."""
    return None


def attend(q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor, pattern: AttentionPattern) -> Tensor:
    """Return softmax(q kᵀ / √D) v over the keys that `pattern` shows, as (B, Nq, H, D).

    Sums are kept in float32 at least. Differentiable once.
    """
    q_BHND, k_BHND, v_BHND = (x.transpose(1, 2) for x in (q_BNHD, k_BNHD, v_BNHD))
    out_BHND: Tensor = _Tiled.apply(q_BHND, k_BHND, v_BHND, pattern)  # type: ignore[no-untyped-call]
    return out_BHND.transpose(1, 2)


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor, pattern: AttentionPattern) -> Tensor:
        sum_dtype = torch.promote_types(q_BHND.dtype, torch.float32)
        out_BHND = torch.empty_like(q_BHND)
        lse_BHN1 = q_BHND.new_empty((*q_BHND.shape[:3], 1), dtype=sum_dtype)
        for rows, tiles in _tiles(q_BHND, k_BHND, pattern):
            q = q_BHND[:, :, rows].to(sum_dtype) / math.sqrt(q_BHND.shape[3])
            largest = q.new_full((*q.shape[:3], 1), torch.finfo(sum_dtype).min)  # finite: a row may see nothing yet
            total = torch.zeros_like(largest)
            unnormalised = torch.zeros_like(q)
            for columns, hidden in tiles:
                scores = _scores(q, k_BHND[:, :, columns].to(sum_dtype), hidden)
                new_largest = torch.maximum(largest, scores.amax(dim=-1, keepdim=True))
                weights = torch.exp(scores - new_largest)
                rescale = torch.exp(largest - new_largest)
                total = rescale * total + weights.sum(dim=-1, keepdim=True)
                unnormalised = rescale * unnormalised + weights @ v_BHND[:, :, columns].to(sum_dtype)
                largest = new_largest
            out_BHND[:, :, rows] = (unnormalised / total).to(out_BHND.dtype)
            lse_BHN1[:, :, rows] = largest + torch.log(total)
        ctx.save_for_backward(q_BHND, k_BHND, v_BHND, out_BHND, lse_BHN1)
        ctx.pattern = pattern
        return out_BHND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_BHND: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q_BHND, k_BHND, v_BHND, out_BHND, lse_BHN1 = ctx.saved_tensors
        sum_dtype, scale = lse_BHN1.dtype, 1 / math.sqrt(q_BHND.shape[3])
        dq_BHND, dk_BHND, dv_BHND = (torch.zeros_like(x, dtype=sum_dtype) for x in (q_BHND, k_BHND, v_BHND))
        for rows, tiles in _tiles(q_BHND, k_BHND, ctx.pattern):
            q = q_BHND[:, :, rows].to(sum_dtype) * scale
            dout = dout_BHND[:, :, rows].to(sum_dtype)
            delta = (dout * out_BHND[:, :, rows]).sum(dim=-1, keepdim=True)
            for columns, hidden in tiles:
                k = k_BHND[:, :, columns].to(sum_dtype)
                weights = torch.exp(_scores(q, k, hidden) - lse_BHN1[:, :, rows])
                dv_BHND[:, :, columns] += weights.mT @ dout
                dscores = weights * (dout @ v_BHND[:, :, columns].to(sum_dtype).mT - delta)
                dq_BHND[:, :, rows] += dscores @ k * scale
                dk_BHND[:, :, columns] += dscores.mT @ q
        return dq_BHND.to(q_BHND.dtype), dk_BHND.to(k_BHND.dtype), dv_BHND.to(v_BHND.dtype), None


def _tiles(
    q_BHND: Tensor, k_BHND: Tensor, pattern: AttentionPattern
) -> Iterator[tuple[slice, Iterator[tuple[slice, Tensor | None]]]]:
    """Yield each block of queries with the blocks of keys that it sees some of, and what is hidden in them, or None."""
    num_queries, num_keys = q_BHND.shape[2], k_BHND.shape[2]

    def visible(start: int, stop: int) -> Iterator[tuple[slice, Tensor | None]]:
        first, end = pattern.seen_by_any(start, stop, num_keys)
        whole_first, whole_end = pattern.seen_by_all(start, stop, num_keys)
        for left in range(first, end, BLOCK):
            right = min(left + BLOCK, end)
            whole = whole_first <= left and right <= whole_end
            hidden = None if whole else ~pattern.mask(range(start, stop), range(left, right), q_BHND.device)
            yield slice(left, right), hidden

    cached = num_keys - num_queries
    for row in range(0, num_queries, BLOCK):
        end_row = min(row + BLOCK, num_queries)
        yield slice(row, end_row), visible(cached + row, cached + end_row)


def _scores(q: Tensor, k: Tensor, hidden: Tensor | None) -> Tensor:
    scores = q @ k.mT
    return scores if hidden is None else scores.masked_fill_(hidden, -math.inf)
