"""One function computes attention, `attend`; many kernels stand behind it, chosen by name or by measurement."""

import difflib
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from flashtrader.attention import flash, naive, sdpa, tiled, xformers
from flashtrader.attention.pattern import AttentionPattern
from flashtrader.errors import BackendError

__all__ = ["BACKENDS", "RANKING", "AttentionPattern", "Backend", "Choice", "attend", "choose", "unsupported"]


class Backend(Protocol):
    """What computes attention: a module or an object with these two functions."""

    def unsupported(self, q_BNHD: Tensor, k_BNHD: Tensor, pattern: AttentionPattern, /) -> str | None:
        """Return why this backend can't run the call, in one phrase, or None when it can."""

    def attend(self, q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor, pattern: AttentionPattern, /) -> Tensor:
        """Return softmax(q kᵀ / √D) v over the keys that the pattern shows, as (B, Nq, H, D)."""


BACKENDS: dict[str, Backend] = {
    "naive": naive,
    "tiled": tiled,
    **sdpa.BACKENDS,
    **flash.BACKENDS,
    "xformers": xformers,
}
"""Every backend by the name that a config or the command line gives it."""

RANKING: dict[str, tuple[str, ...]] = {
    "cuda": ("flash-4", "flash-3", "sdpa-cudnn", "flash-2", "sdpa-flash", "xformers", "sdpa-efficient", "sdpa"),
    "cpu": ("sdpa",),
}
"""Backends from fast to slow by kind of device; the last of each takes every pattern and floating dtype.

cpu: sdpa is the fastest at every length measured. On one core (causal, 4 heads of 32, 2,048 steps, forward and
backward) 74 ms, tiled 115, naive 318; with a window of 512: 37, 75, 267. cuda: after the published forward figures for
an H100 (16k tokens, head_dim 128, causal, TFLOP/s): version 3 616, cuDNN 539, version 2 335 (Shah et al. 2024,
"FlashAttention-3"); version 4 is version 3's successor, and sdpa-flash is version 2 inside PyTorch.
"""


@dataclass(frozen=True)
class Choice:
    """The backend that runs a call, and why those ranked above it do not."""

    backend: str
    passed_over: dict[str, str]


def attend(q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor, pattern: AttentionPattern, backend: str = "auto") -> Tensor:
    """Return softmax(q kᵀ / √D) v over the keys that `pattern` shows to each query, as (B, Nq, H, D).

    q_BNHD: (batch, Nq tokens, heads, head_dim). k_BNHD, v_BNHD: the same with Nk ≥ Nq tokens, of which the queries are
    the last. Differentiable in all three. `auto` runs what `choose` finds. Raises BackendError for a backend that is
    unknown or can't run this call, and for shapes that do not fit: nothing falls back silently, no mask is ignored.
    Under autocast the three are cast to its dtype first, as PyTorch's own attention does.
    """
    device_type = q_BNHD.device.type
    if torch.is_autocast_enabled(device_type):
        low = torch.get_autocast_dtype(device_type)
        with torch.autocast(device_type, enabled=False):
            return attend(q_BNHD.to(low), k_BNHD.to(low), v_BNHD.to(low), pattern, backend)
    pattern.check(q_BNHD, k_BNHD, v_BNHD)
    pattern, first_key = pattern.reduced(q_BNHD.shape[1], k_BNHD.shape[1])
    k_BNHD, v_BNHD = k_BNHD[:, first_key:], v_BNHD[:, first_key:]
    return BACKENDS[_choose(q_BNHD, k_BNHD, pattern, backend).backend].attend(q_BNHD, k_BNHD, v_BNHD, pattern)


def choose(q_BNHD: Tensor, k_BNHD: Tensor, pattern: AttentionPattern, backend: str = "auto") -> Choice:
    """Return the fastest backend that runs this call, or `backend` itself when it is named.

    Takes the call's own tensors, as a backend's limits depend on shape, dtype, device and whether a gradient is needed.
    Raises BackendError when the named one is unknown or can't run the call, with its reason.
    """
    pattern.check(q_BNHD, k_BNHD, k_BNHD)
    pattern, first_key = pattern.reduced(q_BNHD.shape[1], k_BNHD.shape[1])
    return _choose(q_BNHD, k_BNHD[:, first_key:], pattern, backend)


def unsupported(q_BNHD: Tensor, k_BNHD: Tensor, pattern: AttentionPattern, backend: str) -> str | None:
    """Return why the named backend can't run this call, or None."""
    pattern, first_key = pattern.reduced(q_BNHD.shape[1], k_BNHD.shape[1])
    return BACKENDS[backend].unsupported(q_BNHD, k_BNHD[:, first_key:], pattern)


def _choose(q_BNHD: Tensor, k_BNHD: Tensor, pattern: AttentionPattern, backend: str) -> Choice:
    if backend != "auto" and backend not in BACKENDS:
        nearest = difflib.get_close_matches(backend, BACKENDS, n=1, cutoff=0.0)[0]
        raise BackendError(
            f"attention backend {backend!r} is unknown; the nearest is {nearest}; all: auto, {', '.join(BACKENDS)}"
        )
    passed_over: dict[str, str] = {}
    for name in RANKING["cuda" if q_BNHD.is_cuda else "cpu"] if backend == "auto" else (backend,):
        reason = BACKENDS[name].unsupported(q_BNHD, k_BNHD, pattern)
        if reason is None:
            return Choice(name, passed_over)
        passed_over[name] = reason
    reasons = "; ".join(f"{name}: {reason}" for name, reason in passed_over.items())
    raise BackendError(f"attention backend {backend} can't run this call ({reasons}); take another, or auto")
