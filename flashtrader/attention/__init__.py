"""One function computes attention, `attend`; many kernels stand behind it, chosen by name or by measurement."""

import difflib
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from flashtrader.attention import naive, sdpa
from flashtrader.attention.pattern import AttentionPattern
from flashtrader.errors import BackendError

__all__ = ["BACKENDS", "AttentionPattern", "Backend", "Choice", "attend", "choose"]


class Backend(Protocol):
    """What computes attention: a module or an object with these two functions."""

    def unsupported(self, q_BNHD: Tensor, k_BNHD: Tensor, pattern: AttentionPattern, /) -> str | None:
        """Return why this backend can't run the call, in one phrase, or None when it can."""

    def attend(self, q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor, pattern: AttentionPattern, /) -> Tensor:
        """Return softmax(q kᵀ / √D) v over the keys that the pattern shows, as (B, Nq, H, D)."""


BACKENDS: dict[str, Backend] = {"naive": naive, **sdpa.BACKENDS}
"""Every backend by the name that a config or the command line gives it."""

RANKING = {"cpu": ("sdpa", "naive"), "cuda": ("sdpa", "naive")}


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
    """
    pattern.check(q_BNHD, k_BNHD, v_BNHD)
    reduced, first_key = pattern.reduced(q_BNHD.shape[1], k_BNHD.shape[1])
    k_BNHD, v_BNHD = k_BNHD[:, first_key:], v_BNHD[:, first_key:]
    chosen = choose(q_BNHD, k_BNHD, reduced, backend)
    return BACKENDS[chosen.backend].attend(q_BNHD, k_BNHD, v_BNHD, reduced)


def choose(q_BNHD: Tensor, k_BNHD: Tensor, pattern: AttentionPattern, backend: str = "auto") -> Choice:
    """Return the fastest backend that runs this call, or `backend` itself when it is named.

    Raises BackendError when the named one is unknown or can't run the call, with its reason.
    """
    if backend == "auto":
        passed_over: dict[str, str] = {}
        for name in RANKING["cuda" if q_BNHD.is_cuda else "cpu"]:
            reason = BACKENDS[name].unsupported(q_BNHD, k_BNHD, pattern)
            if reason is None:
                return Choice(name, passed_over)
            passed_over[name] = reason
        raise BackendError("no attention backend runs this call: " + "; ".join(passed_over))
    if backend not in BACKENDS:
        nearest = difflib.get_close_matches(backend, BACKENDS, n=1, cutoff=0.0)[0]
        raise BackendError(
            f"attention backend {backend!r} is unknown; the nearest is {nearest}; all: auto, {', '.join(BACKENDS)}"
        )
    reason = BACKENDS[backend].unsupported(q_BNHD, k_BNHD, pattern)
    if reason is not None:
        raise BackendError(f"attention backend {backend} can't run this call: {reason}; take another, or auto")
    return Choice(backend, {})
