"""Every backend that runs here computes the same attention, and the same gradients, whatever the pattern."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from flashtrader.attention import BACKENDS, AttentionPattern, attend, sdpa, tiled, unsupported
from flashtrader.attention.naive import attend_with_weights

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
CPU_BACKENDS = ["tiled", "sdpa", "sdpa-flash", "sdpa-math"]
BATCH, HEADS, HEAD_DIM = 2, 2, 8

# Lengths are whole steps for 1, 2 and 3 entities, and no multiple of a block or of each other.
CASES = [
    (pattern, num_queries, num_keys)
    for pattern in (
        AttentionPattern(causal=False),
        *(AttentionPattern(True, window, entities) for window in (None, 1, 7, 40) for entities in (1, 2, 3)),
        AttentionPattern(window_steps=999),
    )
    for num_queries, num_keys in ((6, 78), (78, 78), (150, 162))
]
CASE_NAMES = [f"{pattern}-{num_queries}-{num_keys}" for pattern, num_queries, num_keys in CASES]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the short sequences of these tests into several blocks."""
    monkeypatch.setattr(sdpa, "CPU_BLOCK", 16)
    monkeypatch.setattr(sdpa, "ROWS_BLOCK", 24)
    monkeypatch.setattr(tiled, "BLOCK", 20)


def draw(num_queries: int, num_keys: int, dtype: torch.dtype, device: str, head_dim: int = HEAD_DIM) -> list[Tensor]:
    """Draw q, k, v and the gradient of the output."""
    random = torch.Generator().manual_seed(num_queries * num_keys)
    lengths = (num_queries, num_keys, num_keys, num_queries)
    return [
        torch.randn(BATCH, length, HEADS, head_dim, generator=random, dtype=torch.float64).to(device, dtype)
        for length in lengths
    ]


def run(tensors: list[Tensor], pattern: AttentionPattern, backend: str) -> Iterator[Tensor]:
    """Yield the output and the gradients of q, k and v."""
    q, k, v = (x.detach().requires_grad_() for x in tensors[:3])
    out = attend(q, k, v, pattern, backend)
    yield out.detach()
    yield from torch.autograd.grad(out, (q, k, v), tensors[3])


def assert_as_exact_as_plain(tensors: list[Tensor], pattern: AttentionPattern, backend: str) -> None:
    """Assert that the error against float64 is at most twice that of plain attention in the same dtype.

    A few units in the last place of the largest value are granted on top: plain attention can be exact by luck.
    """
    exact = list(run([x.double() for x in tensors], pattern, "naive"))
    scale = max(float(truth.abs().max()) for truth in exact)
    sums = torch.promote_types(tensors[0].dtype, torch.float32)
    units = [(tensors[0].dtype, 1), (sums, 4), (torch.float64, 16)]
    granted = scale * sum(torch.finfo(dtype).eps * number for dtype, number in units)
    outs, plains = run(tensors, pattern, backend), run(tensors, pattern, "naive")
    for name, out, plain, truth in zip(["out", "dq", "dk", "dv"], outs, plains, exact, strict=True):
        assert out.dtype == plain.dtype
        assert out.shape == plain.shape
        error, allowed = (out - truth).abs().max(), 2 * (plain - truth).abs().max() + granted
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"


@pytest.mark.parametrize(("pattern", "num_queries", "num_keys"), CASES, ids=CASE_NAMES)
@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_parity(dtype: torch.dtype, backend: str, pattern: AttentionPattern, num_queries: int, num_keys: int) -> None:
    assert_as_exact_as_plain(draw(num_queries, num_keys, dtype, "cpu"), pattern, backend)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", sorted(BACKENDS))
@pytest.mark.parametrize(
    ("dtype", "head_dim"),
    [(torch.float32, 64), (torch.float16, 64), (torch.bfloat16, 8), (torch.bfloat16, 64), (torch.bfloat16, 128)],
    ids=str,
)
@pytest.mark.parametrize(("num_queries", "num_keys"), [(1026, 1026), (771, 1200), (3, 600)])
def test_parity_on_a_gpu(
    num_queries: int, num_keys: int, dtype: torch.dtype, head_dim: int, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    tensors = draw(num_queries, num_keys, dtype, "cuda", head_dim)
    q, k = (x.detach().requires_grad_() for x in tensors[:2])
    reasons = []
    for causal, window, entities in [
        (False, None, 1),
        *((True, window, 1) for window in (None, 1, 300, 9999)),
        *((True, window, 3) for window in (None, 50)),
    ]:
        pattern = AttentionPattern(causal, window, entities)
        reasons.append(unsupported(q, k, pattern, backend))
        if reasons[-1] is None:
            assert_as_exact_as_plain(tensors, pattern, backend)
    if all(reasons):
        pytest.skip("; ".join(dict.fromkeys(filter(None, reasons))))


@pytest.mark.parametrize("backend", ["naive", *CPU_BACKENDS])
@pytest.mark.parametrize(
    "pattern",
    [AttentionPattern(True, window, entities) for window in (None, 5) for entities in (1, 3)],
    ids=str,
)
@pytest.mark.parametrize("device", DEVICES)
def test_no_query_sees_a_later_step(device: str, pattern: AttentionPattern, backend: str) -> None:
    """Keys and values after a step are replaced; outputs up to it stay the same bit for bit, and later ones move."""
    q, k, v, _ = draw(60, 72, torch.float32, device)
    before = attend(q, k, v, pattern, backend)
    for step in (0, 4, 13):
        known_queries = (step + 1) * pattern.entities_per_step
        known_keys = known_queries + 12
        new_k, new_v = k.clone(), v.clone()
        new_k[:, known_keys:] = torch.randn_like(k[:, known_keys:])
        new_v[:, known_keys:] = 1e6
        after = attend(q, new_k, new_v, pattern, backend)
        assert torch.equal(after[:, :known_queries], before[:, :known_queries])
        assert not torch.isclose(after[:, known_queries:], before[:, known_queries:]).any()


@pytest.mark.parametrize("backend", ["naive", *CPU_BACKENDS])
def test_keys_before_the_window_do_not_matter(backend: str) -> None:
    q, k, v, _ = draw(60, 72, torch.float32, "cpu")
    pattern = AttentionPattern(window_steps=6, entities_per_step=2)
    before = attend(q, k, v, pattern, backend)
    new_k, new_v = k.clone(), v.clone()
    new_k[:, :40], new_v[:, :40] = 3.0, 1e6
    after = attend(q, new_k, new_v, pattern, backend)
    first_untouched = (40 // 2 + 5) * 2 - 12
    assert torch.equal(after[:, first_untouched:], before[:, first_untouched:])
    assert not torch.isclose(after[:, :first_untouched], before[:, :first_untouched]).any()


@pytest.mark.parametrize("backend", ["naive", *CPU_BACKENDS])
def test_a_cache_of_keys_changes_nothing(backend: str) -> None:
    """The last queries alone get what they get among all."""
    q, k, v, _ = draw(60, 60, torch.float64, "cpu")
    for window, entities in itertools.product((None, 4, 11), (1, 3)):
        pattern = AttentionPattern(True, window, entities)
        whole = attend(q, k, v, pattern, backend)
        for num_queries in (3, 12, 51):
            part = attend(q[:, -num_queries:], k, v, pattern, backend)
            torch.testing.assert_close(part, whole[:, -num_queries:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["tiled", "sdpa"])
@pytest.mark.parametrize(
    "pattern", [AttentionPattern(causal=False), AttentionPattern(), AttentionPattern(True, 4, 2)], ids=str
)
def test_gradients_against_differences(pattern: AttentionPattern, backend: str) -> None:
    tensors = [torch.randn(1, length, 1, 3, dtype=torch.float64, requires_grad=True) for length in (28, 30, 30)]
    assert torch.autograd.gradcheck(lambda q, k, v: attend(q, k, v, pattern, backend), tensors)


@pytest.mark.parametrize("backend", ["naive", *CPU_BACKENDS])
def test_scores_far_from_zero(backend: str) -> None:
    """Softmax survives scores in the thousands, where exp alone would overflow."""
    q, k, v, dout = draw(78, 78, torch.float32, "cpu")
    for scale in (1e3, -1e3):
        for out in run([q * scale, k, v, dout], AttentionPattern(window_steps=30), backend):
            assert out.isfinite().all()


@pytest.mark.parametrize("backend", ["naive", *CPU_BACKENDS])
def test_strided_views(backend: str) -> None:
    """One packed projection, and a layout whose last dimension is not the contiguous one."""
    q, k, v = torch.randn(BATCH, 40, HEADS, 3 * HEAD_DIM).chunk(3, dim=-1)
    expected = attend(q.contiguous(), k.contiguous(), v.contiguous(), AttentionPattern(window_steps=9), "naive")
    torch.testing.assert_close(attend(q, k, v, AttentionPattern(window_steps=9), backend), expected)
    q, k, v = (x.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0) for x in (q, k, v))
    torch.testing.assert_close(attend(q, k, v, AttentionPattern(window_steps=9), backend), expected)


def test_naive_weights() -> None:
    """Each row sums to one, hidden keys get exactly nothing, and the output is the weighted sum."""
    q, k, v, _ = draw(12, 18, torch.float64, "cpu")
    pattern = AttentionPattern(window_steps=2, entities_per_step=3)
    out, weights_BHNN = attend_with_weights(q, k, v, pattern)
    seen = pattern.mask(range(6, 18), range(18), q.device)
    assert (weights_BHNN[..., ~seen] == 0).all()
    assert (weights_BHNN[..., seen] > 0).all()
    torch.testing.assert_close(weights_BHNN.sum(-1), torch.ones(BATCH, HEADS, 12, dtype=torch.float64))
    torch.testing.assert_close(out, torch.einsum("bhqk,bkhd->bqhd", weights_BHNN, v))


@pytest.mark.parametrize("backend", ["naive", *CPU_BACKENDS])
def test_autocast_computes_in_its_dtype(backend: str) -> None:
    """Mixed inputs are cast as PyTorch's attention casts them, and nothing inside is cast again."""
    q, k, v, dout = draw(78, 78, torch.float32, "cpu")
    pattern = AttentionPattern(window_steps=30)
    low = list(run([x.bfloat16() for x in (q, k, v, dout)], pattern, backend))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = [x.requires_grad_() for x in (q, k.bfloat16(), v)]
        out = attend(*mixed, pattern, backend)
    gradients = torch.autograd.grad(out, mixed, dout.bfloat16())
    for result, expected in zip((out, *gradients), low, strict=True):
        assert torch.equal(result.bfloat16(), expected)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_training_after_inference(backend: str) -> None:
    """What inference mode leaves in a cache serves a call with gradients."""
    sdpa._mask.cache_clear()
    tensors = draw(78, 78, torch.float32, "cpu")
    pattern = AttentionPattern(window_steps=30)
    with torch.inference_mode():
        before = attend(*tensors[:3], pattern, backend)
    assert torch.equal(next(run(tensors, pattern, backend)), before)
