"""The page about `attend` in anyone's model: its code runs, and prints what the page says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "attend.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_code_of_the_page_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = blocks("python"), blocks("text")
    assert len(code) >= 6
    namespace: dict[str, object] = {}
    exec(compile("\n".join(code), str(PAGE), "exec"), namespace)
    assert capsys.readouterr().out == "".join(shown)


def test_the_module_of_the_page_passes_on_the_same_gradients() -> None:
    namespace: dict[str, object] = {}
    exec(compile("\n".join(blocks("python")[:2]), str(PAGE), "exec"), namespace)
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    ours = namespace["CausalAttention"](theirs)  # type: ignore[operator]
    x = torch.randn(2, 50, 32)
    later = torch.ones(50, 50, dtype=torch.bool).triu(1)
    theirs(x, x, x, attn_mask=later, need_weights=False)[0].square().sum().backward()
    ours(x).square().sum().backward()
    torch.testing.assert_close(ours.qkv.weight.grad, theirs.in_proj_weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.out.bias.grad, theirs.out_proj.bias.grad, rtol=1e-4, atol=1e-4)


def test_attention_alone_imports_nothing_large_but_torch() -> None:
    large = ("pandas", "pydantic", "numba", "pyarrow", "sklearn", "matplotlib", "transformers")
    code = f"import sys, flashtrader.attention; print([name for name in {large} if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
