"""The memory-efficient attention of xformers, which picks a kernel of its own.

Causality and windows are bias objects that the kernels read without a matrix, aligned to the bottom right.
https://facebookresearch.github.io/xformers/components/ops.html
"""

import functools
from typing import Any

import torch
from torch import Tensor

from flashtrader.attention.pattern import AttentionPattern

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def unsupported(q_BNHD: Tensor, k_BNHD: Tensor, pattern: AttentionPattern) -> str | None:
    """Return why xformers can't run the call, or None."""
    if not q_BNHD.is_cuda:
        return f"needs a CUDA device, and the tensors are on {q_BNHD.device.type}"
    if isinstance(problem := load(), str):
        return problem
    if q_BNHD.dtype not in DTYPES:
        return f"takes float16, bfloat16 and float32, not {str(q_BNHD.dtype).removeprefix('torch.')}"
    if q_BNHD.shape[3] % 8:
        return f"its kernels want a head_dim in steps of 8, not {q_BNHD.shape[3]}"
    if pattern.causal and pattern.entities_per_step > 1:
        return "the entities of one step see each other, which none of its biases says without a matrix"
    needs_gradient = torch.is_grad_enabled() and (q_BNHD.requires_grad or k_BNHD.requires_grad)
    if pattern.window_steps is not None and q_BNHD.dtype == torch.float32 and needs_gradient:
        return "its float32 kernel has no backward pass for a window"
    return None


def attend(q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor, pattern: AttentionPattern) -> Tensor:
    """Return softmax(q kᵀ / √D) v over the keys that `pattern` shows, as (B, Nq, H, D)."""
    ops = load()
    assert not isinstance(ops, str)
    biases = ops.fmha.attn_bias
    bias = None
    if pattern.window_steps is not None:
        bias = biases.LowerTriangularFromBottomRightLocalAttentionMask(_window_size=pattern.window_steps)
    elif pattern.causal:
        bias = biases.LowerTriangularFromBottomRightMask()
    out: Tensor = ops.memory_efficient_attention(q_BNHD, k_BNHD, v_BNHD, attn_bias=bias)
    return out


@functools.cache
def load() -> Any:
    """Return xformers.ops, or why it is not there."""
    try:
        import xformers.ops
    except ModuleNotFoundError:
        return "xformers is not installed: pip install xformers"
    except Exception as error:  # a build for another torch or CUDA fails in ways of its own
        return f"xformers is installed but can't be imported ({' '.join(str(error).split())})"
    return xformers.ops
