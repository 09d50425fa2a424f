"""Which backend runs a call, and how each library is found and called: with stand-ins where a GPU would be needed."""

import math
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from flashtrader.attention import BACKENDS, RANKING, AttentionPattern, attend, choose, flash, sdpa, xformers
from flashtrader.errors import BackendError

LIBRARIES = ("flash_attn", "flash_attn.cute", "flash_attn_interface", "fa3_fwd_interface", "xformers", "xformers.ops")


class OnCuda(Tensor):
    """A tensor that says it is on a GPU."""

    is_cuda = True  # type: ignore[assignment]


def tensors(
    num_queries: int = 12, num_keys: int = 12, dtype: torch.dtype = torch.bfloat16, head_dim: int = 16
) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = [(2, length, 2, head_dim) for length in (num_queries, num_keys, num_keys)]
    q, k, v = (torch.randn(shape, generator=random).to(dtype).as_subclass(OnCuda) for shape in shapes)
    return q, k, v


def by_window(q: Tensor, k: Tensor, v: Tensor, left: int | None, right: int | None) -> Tensor:
    """Compute what flash-attn documents for window_size=(left, right), bottom-right aligned, without our patterns."""
    middle = torch.arange(q.shape[1])[:, None] + k.shape[1] - q.shape[1]
    key = torch.arange(k.shape[1])[None]
    seen = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool)
    if left not in (None, -1):
        seen &= key >= middle - left
    if right not in (None, -1):
        seen &= key <= middle + right
    scores = torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double()) / math.sqrt(q.shape[3])
    weights = scores.masked_fill(~seen, -math.inf).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v.double()).to(q.dtype)


class FakeFlash:
    """`flash_attn_func` of any version: records its arguments, and computes what they mean."""

    def __init__(self, with_lse: bool) -> None:
        self.with_lse = with_lse
        self.calls: list[dict[str, Any]] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool, window_size: tuple[Any, Any]) -> Any:
        self.calls.append({"causal": causal, "window_size": window_size})
        left, right = window_size
        out = by_window(q, k, v, left, 0 if causal else right)
        return (out, torch.zeros(1)) if self.with_lse else out


@pytest.fixture(autouse=True)
def clean_libraries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what is installed, before and after; say that the device is a Hopper GPU."""
    for name in LIBRARIES:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    flash.load.cache_clear()
    xformers.load.cache_clear()
    yield
    flash.load.cache_clear()
    xformers.load.cache_clear()


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that makes a module importable."""

    def install(name: str, **attributes: Any) -> None:
        module = ModuleType(name)
        vars(module).update(attributes)
        parent, _, child = name.rpartition(".")
        if parent:
            if sys.modules.get(parent) is None:
                install(parent)
            monkeypatch.setattr(sys.modules[parent], child, module, raising=False)
        module.__path__ = []
        monkeypatch.setitem(sys.modules, name, module)

    return install


def refusal(backend: str, reason: str) -> str:
    return f"attention backend {backend} can't run this call ({backend}: {reason}); take another, or auto"


VERSIONS = [
    ("flash-2", "flash_attn", (-1, -1)),
    ("flash-3", "flash_attn_interface", (-1, -1)),
    ("flash-4", "flash_attn.cute", (None, None)),
]


@pytest.mark.parametrize("with_lse", [False, True])
@pytest.mark.parametrize(("backend", "module", "no_window"), VERSIONS)
def test_each_flash_version_is_called_as_documented(
    install: Callable[..., Any], backend: str, module: str, no_window: tuple[Any, Any], with_lse: bool
) -> None:
    function = FakeFlash(with_lse)
    install(module, flash_attn_func=function)
    q, k, v = tensors(9, 12)
    for pattern in (AttentionPattern(causal=False), AttentionPattern(), AttentionPattern(window_steps=4)):
        expected = attend(q, k, v, pattern, "naive")
        torch.testing.assert_close(attend(q, k, v, pattern, backend), expected, rtol=0.03, atol=0.03)
        torch.testing.assert_close(attend(q, k, v, pattern, "flash"), expected, rtol=0.03, atol=0.03)
    assert function.calls[::2] == [
        {"causal": False, "window_size": no_window},
        {"causal": True, "window_size": no_window},
        {"causal": True, "window_size": (3, 0)},
    ]


def test_version_4_alone_is_not_version_2(install: Callable[..., Any]) -> None:
    """Version 4 alone leaves `flash_attn` as a namespace without the function of version 2."""
    install("flash_attn.cute", flash_attn_func=FakeFlash(True))
    q, k, _ = tensors()
    assert BACKENDS["flash-4"].unsupported(q, k, AttentionPattern()) is None
    missing = "flash_attn is not installed: pip install flash-attn --no-build-isolation"
    assert BACKENDS["flash-2"].unsupported(q, k, AttentionPattern()) == missing
    assert BACKENDS["flash"].unsupported(q, k, AttentionPattern()) is None


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        ("flash-2", "flash_attn is not installed: pip install flash-attn --no-build-isolation"),
        (
            "flash-3",
            "flash_attn_interface is not installed: build it from the folder hopper of flash-attention; "
            "fa3_fwd_interface is not installed: pip install fa3-fwd",
        ),
        ("flash-4", "flash_attn.cute is not installed: pip install flash-attn-4"),
        ("xformers", "xformers is not installed: pip install xformers"),
    ],
)
def test_a_missing_library_is_told_with_how_to_install_it(backend: str, reason: str) -> None:
    with pytest.raises(BackendError) as refused:
        attend(*tensors(), AttentionPattern(), backend)
    assert str(refused.value) == refusal(backend, reason)


def test_a_broken_installation_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str) -> ModuleType:
        raise ImportError(f"{name}.so:\n undefined symbol")

    monkeypatch.setattr(flash.importlib, "import_module", import_module)
    q, k, v = tensors()
    with pytest.raises(BackendError) as refused:
        attend(q, k, v, AttentionPattern(), "flash-2")
    reason = "flash_attn is installed but can't be imported (flash_attn.so: undefined symbol)"
    assert str(refused.value) == refusal("flash-2", reason)


def test_a_missing_dependency_is_named(install: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str) -> ModuleType:
        raise ModuleNotFoundError("No module named 'cutlass'", name="cutlass")

    monkeypatch.setattr(flash.importlib, "import_module", import_module)
    q, k, v = tensors()
    with pytest.raises(BackendError) as refused:
        attend(q, k, v, AttentionPattern(), "flash-4")
    reason = "flash_attn.cute is installed but can't be imported (No module named 'cutlass')"
    assert str(refused.value) == refusal("flash-4", reason)


@pytest.mark.parametrize(
    ("pattern", "dtype", "head_dim", "gradient", "reason"),
    [
        (
            AttentionPattern(),
            torch.bfloat16,
            64,
            True,
            "fa3_fwd_interface has no backward pass, and a gradient is needed",
        ),
        (AttentionPattern(window_steps=3), torch.bfloat16, 64, False, "fa3_fwd_interface has no sliding window"),
        (AttentionPattern(), torch.float16, 64, False, "takes bfloat16, not float16"),
        (AttentionPattern(), torch.float32, 64, False, "takes bfloat16, not float32"),
        (AttentionPattern(), torch.bfloat16, 12, False, "takes a head_dim up to 256 in steps of 8, not 12"),
        (AttentionPattern(), torch.bfloat16, 512, False, "takes a head_dim up to 256 in steps of 8, not 512"),
        (
            AttentionPattern(entities_per_step=2),
            torch.bfloat16,
            64,
            False,
            "the entities of one step see each other, which takes a mask, and this kernel takes none",
        ),
        (AttentionPattern(), torch.bfloat16, 64, False, None),
    ],
)
def test_limits_of_the_forward_only_wheel(
    install: Callable[..., Any],
    pattern: AttentionPattern,
    dtype: torch.dtype,
    head_dim: int,
    gradient: bool,
    reason: str | None,
) -> None:
    install("fa3_fwd_interface", flash_attn_func=FakeFlash(False))
    q, k, v = tensors(dtype=dtype, head_dim=head_dim)
    q.requires_grad_(gradient)
    if reason is None:
        assert choose(q, k, pattern, "flash-3").backend == "flash-3"
    else:
        with pytest.raises(BackendError) as refused:
            attend(q, k, v, pattern, "flash-3")
        full = "flash_attn_interface is not installed: build it from the folder hopper of flash-attention"
        assert str(refused.value) == refusal("flash-3", f"{full}; {reason}")


def test_an_old_gpu_is_refused(install: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    install("flash_attn", flash_attn_func=FakeFlash(False))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    q, k, v = tensors()
    with pytest.raises(BackendError) as refused:
        attend(q, k, v, AttentionPattern(), "flash-2")
    reason = "needs compute capability 8.x, 9.x, 10.x, 11.x, 12.x, and this device has 7.5"
    assert str(refused.value) == refusal("flash-2", reason)


def test_xformers_is_called_as_documented(install: Callable[..., Any]) -> None:
    def memory_efficient_attention(q: Tensor, k: Tensor, v: Tensor, attn_bias: Any) -> Tensor:
        return by_window(q, k, v, *attn_bias or (-1, -1))

    biases = SimpleNamespace(
        LowerTriangularFromBottomRightMask=lambda: (-1, 0),
        LowerTriangularFromBottomRightLocalAttentionMask=lambda _window_size: (_window_size - 1, 0),
    )
    install(
        "xformers.ops",
        memory_efficient_attention=memory_efficient_attention,
        fmha=SimpleNamespace(attn_bias=biases),
    )
    q, k, v = tensors(9, 12)
    for pattern in (AttentionPattern(causal=False), AttentionPattern(), AttentionPattern(window_steps=4)):
        expected = attend(q, k, v, pattern, "naive")
        torch.testing.assert_close(attend(q, k, v, pattern, "xformers"), expected, rtol=0.03, atol=0.03)
    with pytest.raises(BackendError) as refused:
        attend(q, k, v, AttentionPattern(entities_per_step=3), "xformers")
    reason = "the entities of one step see each other, which none of its biases says without a matrix"
    assert str(refused.value) == refusal("xformers", reason)


def test_sdpa_flash_packs_the_batch_for_a_window_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    def varlen_attn(
        q: Tensor, k: Tensor, v: Tensor, ends_q: Tensor, ends_k: Tensor, max_q: int, max_k: int, *, window_size: Any
    ) -> Tensor:
        assert (ends_q.tolist(), ends_k.tolist(), max_q, max_k) == ([0, 9, 18], [0, 12, 24], 9, 12)
        assert ends_q.dtype == torch.int32
        return by_window(q.unflatten(0, (2, 9)), *(x.unflatten(0, (2, 12)) for x in (k, v)), *window_size).flatten(0, 1)

    monkeypatch.setattr(sdpa, "_varlen_attn", lambda: varlen_attn)
    q, k, v = tensors(9, 12)
    for pattern in (AttentionPattern(), AttentionPattern(window_steps=4)):
        expected = attend(q, k, v, pattern, "naive")
        torch.testing.assert_close(sdpa._varlen(q, k, v, pattern), expected, rtol=0.03, atol=0.03)


def test_pytorch_knows_windows_by_the_name_we_use() -> None:
    assert sdpa._varlen_attn() is not None


def test_a_refusal_carries_pytorchs_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def can_use(parameters: Any, debug: bool = False) -> bool:
        if debug:
            warnings.warn("Flash attention requires fp16. (Triggered internally at sdp_utils.cpp)", stacklevel=1)
        return False

    monkeypatch.setattr(sdpa.cuda, "can_use_flash_attention", can_use)
    q, k, v = tensors()
    for pattern, reason in (
        (AttentionPattern(), "Flash attention requires fp16."),
        (
            AttentionPattern(entities_per_step=2),
            "the entities of one step see each other, which takes a mask, and the flash kernel takes none",
        ),
    ):
        with pytest.raises(BackendError) as refused:
            attend(q, k, v, pattern, "sdpa-flash")
        assert str(refused.value) == refusal("sdpa-flash", reason)


def test_auto_takes_the_first_that_can(install: Callable[..., Any]) -> None:
    install("flash_attn", flash_attn_func=FakeFlash(False))
    q, k, _ = tensors()
    choice = choose(q, k, AttentionPattern(window_steps=3))
    assert choice.backend == "flash-2"
    assert list(choice.passed_over) == ["flash-4", "flash-3", "sdpa-cudnn"]
    assert "flash_attn.cute is not installed" in choice.passed_over["flash-4"]
    assert choose(*tensors(dtype=torch.float64)[:2], AttentionPattern(entities_per_step=2)).backend == "sdpa"


def test_auto_on_a_cpu() -> None:
    q = torch.ones(1, 4, 2, 8)
    choice = choose(q, q, AttentionPattern())
    assert (choice.backend, choice.passed_over) == ("sdpa", {})


def test_rankings_name_backends() -> None:
    assert {name for ranking in RANKING.values() for name in ranking} <= BACKENDS.keys()


ON_CPU = "needs a CUDA device, and the tensors are on cpu"


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        (
            "flsh-2",
            "attention backend 'flsh-2' is unknown; the nearest is flash-2; all: auto, naive, tiled, sdpa, sdpa-flash, "
            "sdpa-efficient, sdpa-cudnn, sdpa-math, flash, flash-4, flash-3, flash-2, xformers",
        ),
        *((backend, refusal(backend, ON_CPU)) for backend in ("sdpa-cudnn", "sdpa-efficient", "flash", "xformers")),
    ],
)
def test_a_named_backend_never_falls_back(backend: str, message: str) -> None:
    q = torch.ones(1, 4, 2, 8)
    for call in (partial(attend, q, q, q), partial(choose, q, q)):
        with pytest.raises(BackendError) as refused:
            call(AttentionPattern(), backend)
        assert str(refused.value) == message
