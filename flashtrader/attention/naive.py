"""Attention as the formula is written: the whole matrix of weights in memory, which can be looked at."""

import math

import torch
from torch import Tensor

from flashtrader.attention.pattern import AttentionPattern


def unsupported(_q_BNHD: Tensor, _k_BNHD: Tensor, _pattern: AttentionPattern) -> str | None:
    """Return None: it runs whatever the pattern, dtype and device."""
    return None


def attend(q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor, pattern: AttentionPattern) -> Tensor:
    """Return softmax(q kᵀ / √D) v over the keys that `pattern` shows, as (B, Nq, H, D)."""
    return attend_with_weights(q_BNHD, k_BNHD, v_BNHD, pattern)[0]


def attend_with_weights(
    q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor, pattern: AttentionPattern
) -> tuple[Tensor, Tensor]:
    """Return the output (B, Nq, H, D) and the weights (B, H, Nq, Nk); each row of weights sums to one.

    Everything is computed in the dtype of the input. Takes memory for several matrices of B·H·Nq·Nk entries.
    """
    num_queries, num_keys = q_BNHD.shape[1], k_BNHD.shape[1]
    weights_BHNN = weights(q_BNHD, k_BNHD, pattern, range(num_keys - num_queries, num_keys), range(num_keys))
    return (weights_BHNN @ v_BNHD.transpose(1, 2)).transpose(1, 2), weights_BHNN


def weights(q_BNHD: Tensor, k_BNHD: Tensor, pattern: AttentionPattern, positions: range, keys: range) -> Tensor:
    """Return the weights (B, H, Nq, Nk) of the queries at some positions, over those keys of which they see any.

    Each row sums to one: `keys` hold all that the pattern shows to each of the queries (`pattern.seen_by_any`).
    """
    scores_BHNN = (q_BNHD / math.sqrt(q_BNHD.shape[3])).transpose(1, 2) @ k_BNHD.permute(0, 2, 3, 1)
    if pattern.causal:
        scores_BHNN = scores_BHNN.masked_fill(~pattern.mask(positions, keys, q_BNHD.device), -math.inf)
    return torch.softmax(scores_BHNN, dim=-1)
