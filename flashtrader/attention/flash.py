"""The flash-attn library, by Dao and others: versions 2, 3 and 4, whichever are installed.

A version is detected by importing the very function that is called: version 4 alone makes `import flash_attn` succeed
and `from flash_attn import flash_attn_func` fail. All take (B, N, H, D) and align causality to the bottom right (since
2.1), so cached keys need nothing more; a window of W positions is window_size=(W - 1, 0). Dropout stays 0.

| name    | function                                    | takes                                                     |
| ------- | ------------------------------------------- | --------------------------------------------------------- |
| flash-2 | flash_attn.flash_attn_func                  | head_dim up to 256, Ampere and later                      |
| flash-3 | flash_attn_interface.flash_attn_func        | head_dim up to 256 in eights, Hopper                      |
|         | fa3_fwd_interface.flash_attn_func (fa3-fwd) | the same, bfloat16, forward only, no window               |
| flash-4 | flash_attn.cute.flash_attn_func             | head_dim up to 128 in eights, Hopper and later            |
| flash   | the newest of these that runs the call      |                                                           |
"""

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flashtrader.attention.pattern import AttentionPattern


@dataclass(frozen=True)
class Build:
    """A module that holds `flash_attn_func`, and what that one takes."""

    module: str
    install: str
    """What pip is to be told."""
    compute_capabilities: tuple[int, ...]
    """Major versions of CUDA's compute capability."""
    max_head_dim: int
    head_dim_multiple: int
    dtypes: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16)
    no_window: tuple[int | None, int | None] = (-1, -1)
    """How this function writes that there is no window."""
    has_backward: bool = True
    has_window: bool = True

    def unsupported(self, q_BNHD: Tensor, k_BNHD: Tensor, pattern: AttentionPattern) -> str | None:
        """Return why this build can't run the call, or None."""
        if not q_BNHD.is_cuda:
            return f"needs a CUDA device, and the tensors are on {q_BNHD.device.type}"
        if isinstance(problem := load(self), str):
            return problem
        if q_BNHD.dtype not in self.dtypes:
            return f"takes {_names(self.dtypes)}, not {_names((q_BNHD.dtype,))}"
        head_dim = q_BNHD.shape[3]
        if head_dim > self.max_head_dim or head_dim % self.head_dim_multiple:
            return f"takes a head_dim up to {self.max_head_dim} in steps of {self.head_dim_multiple}, not {head_dim}"
        capability = torch.cuda.get_device_capability(q_BNHD.device)
        if capability[0] not in self.compute_capabilities:
            known = ", ".join(f"{major}.x" for major in self.compute_capabilities)
            return f"needs compute capability {known}, and this device has {capability[0]}.{capability[1]}"
        if pattern.causal and pattern.entities_per_step > 1:
            return "the entities of one step see each other, which takes a mask, and this kernel takes none"
        if pattern.window_steps is not None and not self.has_window:
            return f"{self.module} has no sliding window"
        if not self.has_backward and torch.is_grad_enabled() and (q_BNHD.requires_grad or k_BNHD.requires_grad):
            return f"{self.module} has no backward pass, and a gradient is needed"
        return None

    def attend(self, q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor, pattern: AttentionPattern) -> Tensor:
        """Return softmax(q kᵀ / √D) v over the keys that `pattern` shows, as (B, Nq, H, D)."""
        function = load(self)
        assert not isinstance(function, str)
        window = self.no_window if pattern.window_steps is None else (pattern.window_steps - 1, 0)
        result = function(q_BNHD, k_BNHD, v_BNHD, causal=pattern.causal, window_size=window)
        out: Tensor = result[0] if isinstance(result, tuple) else result  # versions 3 (once) and 4 add the log-sum-exp
        return out


@dataclass(frozen=True)
class FlashAttention:
    """One version of the library, or several, in order of preference."""

    builds: tuple[Build, ...]

    def unsupported(self, q_BNHD: Tensor, k_BNHD: Tensor, pattern: AttentionPattern) -> str | None:
        """Return why none of the builds can run the call, or None."""
        reasons = []
        for build in self.builds:
            reason = build.unsupported(q_BNHD, k_BNHD, pattern)
            if reason is None:
                return None
            reasons.append(reason)
        return "; ".join(dict.fromkeys(reasons))

    def attend(self, q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor, pattern: AttentionPattern) -> Tensor:
        """Return the attention output (B, Nq, H, D) of the first build that runs the call."""
        build = next(build for build in self.builds if build.unsupported(q_BNHD, k_BNHD, pattern) is None)
        return build.attend(q_BNHD, k_BNHD, v_BNHD, pattern)


@functools.cache
def load(build: Build) -> Callable[..., Any] | str:
    """Return the build's `flash_attn_func`, or why there is none."""
    try:
        function: Callable[..., Any] = importlib.import_module(build.module).flash_attn_func
    except AttributeError:
        return f"{build.module} is not installed: {build.install}"
    except Exception as error:  # a build for another torch, CUDA or CUTLASS fails in ways of its own
        if isinstance(error, ModuleNotFoundError) and f"{build.module}.".startswith(f"{error.name}."):
            return f"{build.module} is not installed: {build.install}"
        return f"{build.module} is installed but can't be imported ({' '.join(str(error).split())})"
    return function


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return " and ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


VERSION_2 = Build(
    module="flash_attn",
    install="pip install flash-attn --no-build-isolation",
    compute_capabilities=(8, 9, 10, 11, 12),
    max_head_dim=256,
    head_dim_multiple=1,
)
VERSION_3 = Build(
    module="flash_attn_interface",
    install="build it from the folder hopper of flash-attention",
    compute_capabilities=(9,),
    max_head_dim=256,
    head_dim_multiple=8,
)
VERSION_3_FORWARD = Build(
    module="fa3_fwd_interface",
    install="pip install fa3-fwd",
    compute_capabilities=(9,),
    max_head_dim=256,
    head_dim_multiple=8,
    dtypes=(torch.bfloat16,),
    has_backward=False,
    has_window=False,
)
VERSION_4 = Build(
    module="flash_attn.cute",
    install="pip install flash-attn-4",
    compute_capabilities=(9, 10, 11),
    max_head_dim=128,
    head_dim_multiple=8,
    no_window=(None, None),
)

BACKENDS = {
    "flash": FlashAttention((VERSION_4, VERSION_3, VERSION_3_FORWARD, VERSION_2)),
    "flash-4": FlashAttention((VERSION_4,)),
    "flash-3": FlashAttention((VERSION_3, VERSION_3_FORWARD)),
    "flash-2": FlashAttention((VERSION_2,)),
}
