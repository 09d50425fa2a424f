"""Costs against the conventions, and against what calls really compute and keep."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from flashtrader.attention import AttentionPattern, attend
from flashtrader.attention.cost import AttentionCost, AttentionShape, attention_cost

SHAPE = AttentionShape(batch=2, num_queries=600, num_keys=600, heads=2, head_dim=16)
PATTERNS = [
    AttentionPattern(causal=False),
    AttentionPattern(),
    AttentionPattern(window_steps=100),
    AttentionPattern(window_steps=50, entities_per_step=2),
    AttentionPattern(entities_per_step=3),
]


def tensors(shape: AttentionShape) -> list[Tensor]:
    return [
        torch.randn(shape.batch, length, shape.heads, shape.head_dim, dtype=shape.dtype, requires_grad=True)
        for length in (shape.num_queries, shape.num_keys, shape.num_keys)
    ]


def saved_bytes(backend: str, pattern: AttentionPattern) -> int:
    """Return the bytes of distinct storages that autograd holds after a forward pass, inputs included, masks not."""
    q, k, v = tensors(SHAPE)
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in (q, k, v)}

    def pack(x: Tensor) -> Tensor:
        if x.dim() > 2:
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = attend(q, k, v, pattern, backend)
    assert out.requires_grad
    return sum(storages.values())


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("backend", ["sdpa", "tiled"])
def test_saved_bytes_are_those_that_autograd_holds(backend: str, pattern: AttentionPattern) -> None:
    assert attention_cost(backend, SHAPE, pattern).saved_bytes == saved_bytes(backend, pattern)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_naive_keeps_the_matrix(pattern: AttentionPattern) -> None:
    mask_bytes = 600 * 600 if pattern.causal else 0
    expected = attention_cost("naive", SHAPE, pattern).saved_bytes - mask_bytes
    assert saved_bytes("naive", pattern) == pytest.approx(expected, rel=0.1)
    assert expected > 2 * 2 * 600 * 600 * 4


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_naive_flops_are_those_counted(pattern: AttentionPattern) -> None:
    with FlopCounterMode(display=False) as counter:
        out = attend(*tensors(SHAPE), pattern, "naive")
        assert counter.get_total_flops() == attention_cost("naive", SHAPE, pattern).forward_flops
        out.sum().backward()
    cost = attention_cost("naive", SHAPE, pattern)
    assert counter.get_total_flops() == cost.forward_flops + cost.backward_flops


def test_conventions() -> None:
    """4·B·H·N²·D, half if causal, N·W in a window, 2.5 times that backward."""
    shape = AttentionShape(batch=2, num_queries=100_000, num_keys=100_000, heads=4, head_dim=64, dtype=torch.bfloat16)
    full = 4 * 2 * 4 * 100_000**2 * 64
    assert attention_cost("flash", shape, AttentionPattern(causal=False), "cuda").useful_flops == full
    causal = attention_cost("flash", shape, AttentionPattern(), "cuda")
    assert causal.useful_flops == pytest.approx(full / 2, rel=1e-4)
    assert causal.backward_flops == pytest.approx(2.5 * causal.forward_flops)
    window = attention_cost("flash", shape, AttentionPattern(window_steps=1000), "cuda")
    assert window.useful_flops == pytest.approx(full / 100, rel=0.01)


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
@pytest.mark.parametrize("backend", ["sdpa", "sdpa-efficient", "sdpa-math", "tiled", "flash", "xformers", "naive"])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_no_backend_does_less_than_is_useful(pattern: AttentionPattern, backend: str, device_type: str) -> None:
    cost = attention_cost(backend, SHAPE, pattern, device_type)
    assert cost.useful_flops <= cost.forward_flops <= 4 * 2 * 2 * 600 * 600 * 16
    assert cost.forward_peak_bytes <= cost.training_peak_bytes
    assert cost.saved_bytes >= 4 * SHAPE.query_bytes


def test_a_window_is_linear_and_a_matrix_is_not() -> None:
    def training_bytes(backend: str, length: int) -> int:
        shape = AttentionShape(batch=1, num_queries=length, num_keys=length, heads=8, head_dim=32)
        cost: AttentionCost = attention_cost(backend, shape, AttentionPattern(window_steps=256))
        return cost.training_peak_bytes

    assert training_bytes("sdpa", 1 << 17) < 2.01 * training_bytes("sdpa", 1 << 16)
    assert training_bytes("naive", 1 << 17) > 3.9 * training_bytes("naive", 1 << 16)
