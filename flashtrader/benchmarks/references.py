"""Attention as others write it, measured beside the backends: PyTorch's module, and its compiled flex_attention.

`nn.MultiheadAttention` is there as most code uses it: a causal mask, weights averaged over the heads returned. It
includes its projections, which are a part that grows with N alone. `flex_attention` is compiled, with a block mask.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flashtrader.attention.cost import AttentionShape
from flashtrader.attention.pattern import AttentionPattern

MULTIHEAD = "nn.MultiheadAttention"
FLEX = "flex_attention"
REFERENCES = (MULTIHEAD, FLEX)
# One compilation for each pattern, direction and, until PyTorch takes the length as a variable, length.
_COMPILATIONS = 64


def unsupported(name: str, device: torch.device) -> str | None:
    """Return why a reference can't be measured on a device, or None."""
    if name == FLEX and device.type != "cuda":
        return f"needs a CUDA device: on {device.type} it has no backward pass"
    return None


def forward_of(
    name: str, shape: AttentionShape, pattern: AttentionPattern, device: torch.device
) -> Callable[..., Tensor]:
    """Return what computes attention: of x (B, N, H·D) for the module, of q, k, v (B, N, H, D) for flex_attention."""
    return {MULTIHEAD: _multihead, FLEX: _flex}[name](shape, pattern, device)


def _multihead(shape: AttentionShape, pattern: AttentionPattern, device: torch.device) -> Callable[..., Tensor]:
    width = shape.heads * shape.head_dim
    module = torch.nn.MultiheadAttention(width, shape.heads, batch_first=True, device=device, dtype=shape.dtype)
    hidden = None
    if pattern.causal:
        hidden = ~pattern.mask(range(shape.num_queries), range(shape.num_keys), device)

    def forward(x_BNC: Tensor) -> Tensor:
        out: Tensor = module(x_BNC, x_BNC, x_BNC, attn_mask=hidden)[0]
        return out

    return forward


def _flex(shape: AttentionShape, pattern: AttentionPattern, device: torch.device) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import create_block_mask

    mask = None
    if pattern.causal:
        mask = create_block_mask(_seen(pattern), None, None, shape.num_queries, shape.num_keys, device=device)

    def forward(q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor) -> Tensor:
        q_BHND, k_BHND, v_BHND = (x.transpose(1, 2) for x in (q_BNHD, k_BNHD, v_BNHD))
        out: Tensor = _compiled_flex()(q_BHND, k_BHND, v_BHND, block_mask=mask)
        return out.transpose(1, 2)

    return forward


@functools.cache
def _seen(pattern: AttentionPattern) -> Callable[..., Tensor]:
    """Return the pattern as flex_attention takes it; the same function each time, so that it is compiled once."""
    entities, window = pattern.entities_per_step, pattern.window_steps

    def seen(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        steps_back = query // entities - key // entities
        return steps_back >= 0 if window is None else (steps_back >= 0) & (steps_back < window)

    return seen


@functools.cache
def _compiled_flex() -> Any:
    from torch import _dynamo
    from torch.nn.attention.flex_attention import flex_attention

    _dynamo.config.recompile_limit = _COMPILATIONS  # past it, PyTorch would quietly write the matrix out
    return torch.compile(flex_attention)
