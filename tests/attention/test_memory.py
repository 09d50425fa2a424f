"""What is allocated and which kernels run: linear for a window, and nothing N by N anywhere but where it must be."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flashtrader.attention import AttentionPattern, attend, sdpa


class Recorder(TorchDispatchMode):
    """Records the kernels that run and the entries of the largest and of all tensors that they return."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: set[str] = set()
        self.largest = 0
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **kwargs or {})
        self.kernels.add(func.overloadpacket.__name__)
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().size() // tensor.element_size())
                self.total += 0 if func.is_view else tensor.numel()
        return out


def record(length: int, pattern: AttentionPattern, backend: str, num_queries: int | None = None) -> Recorder:
    q, k, v = (torch.randn(1, length, 2, 8) for _ in range(3))
    q = q[:, -(num_queries or length) :]
    sdpa._mask.cache_clear()
    with Recorder() as recorder:
        q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
        attend(q, k, v, pattern, backend).sum().backward()
    return recorder


@pytest.mark.parametrize(
    "pattern", [AttentionPattern(window_steps=64), AttentionPattern(window_steps=16, entities_per_step=4)], ids=str
)
@pytest.mark.parametrize("backend", ["sdpa", "sdpa-flash", "tiled"])
def test_a_window_costs_in_proportion_to_the_length(backend: str, pattern: AttentionPattern) -> None:
    once, twice, four_times = (record(length, pattern, backend) for length in (1024, 2048, 4096))
    assert (four_times.total - twice.total) == pytest.approx(2 * (twice.total - once.total), rel=0.02)
    assert four_times.largest == max(4096 * 2 * 8, twice.largest)
    assert twice.largest <= 2 * 256 * 256


@pytest.mark.parametrize("backend", ["sdpa", "sdpa-flash", "tiled"])
@pytest.mark.parametrize(
    ("pattern", "num_queries"),
    [(AttentionPattern(), 2048), (AttentionPattern(), 1024), (AttentionPattern(entities_per_step=4), 2048)],
    ids=str,
)
def test_nothing_is_as_large_as_the_matrix(backend: str, pattern: AttentionPattern, num_queries: int) -> None:
    assert record(2048, pattern, backend, num_queries).largest <= 2048 * 2 * 128


def test_naive_is() -> None:
    assert record(256, AttentionPattern(), "naive").largest == 2 * 256 * 256


@pytest.mark.parametrize(
    "pattern",
    [
        AttentionPattern(causal=False),
        AttentionPattern(),
        AttentionPattern(window_steps=50),
        AttentionPattern(entities_per_step=2),
        AttentionPattern(window_steps=50, entities_per_step=2),
    ],
    ids=str,
)
@pytest.mark.parametrize("num_queries", [400, 300])
def test_the_fused_kernel_runs_on_a_cpu(pattern: AttentionPattern, num_queries: int) -> None:
    kernels = record(400, pattern, "auto", num_queries).kernels
    assert "_scaled_dot_product_flash_attention_for_cpu" in kernels
    assert "_scaled_dot_product_flash_attention_for_cpu_backward" in kernels
    assert not {name for name in kernels if "softmax" in name or "bmm" in name or "math" in name}


def test_a_step_of_many_entities_needs_no_mask() -> None:
    kernels = record(1024, AttentionPattern(window_steps=3, entities_per_step=128), "sdpa").kernels
    assert "masked_fill_" not in kernels
    assert "_scaled_dot_product_flash_attention_for_cpu" in kernels
