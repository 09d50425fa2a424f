"""Data flows one way: a package imports only from itself and from those above it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "flashtrader"
TOP_DOWN = [
    "arrays",
    "compiled",
    "errors",
    "files",
    "interval",
    "launch",
    "config",
    "manifest",
    "run",
    "registry",
    "market",
    "panel",
    "attention",
    "models",
    "training",
    "forecasting",
    "backtest",
    "report",
    "verification",
    "benchmarks",
    "cli",
    "__main__",
]
TORCH_FREE = {
    "arrays",
    "compiled",
    "errors",
    "files",
    "interval",
    "launch",
    "config",
    "manifest",
    "run",
    "registry",
    "market",
    "panel",
    "backtest",
    "report",
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def test_the_scan_finds_the_package() -> None:
    assert len(MODULES) > 30
    assert {layer(path) for path in MODULES} <= set(TOP_DOWN)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_upwards(path: Path) -> None:
    own = TOP_DOWN.index(layer(path))
    for name, line in imported(path):
        parts = name.split(".")
        if parts[0] == "flashtrader" and len(parts) > 1 and parts[1] != "__version__":
            assert TOP_DOWN.index(parts[1]) <= own, f"{path}:{line} imports {name}, which stands below it"
        if parts[0] == "torch":
            assert layer(path) not in TORCH_FREE, f"{path}:{line} imports torch"


def test_a_backtest_and_its_report_load_no_torch() -> None:
    """Not even through what they import from packages that do."""
    modules = "flashtrader.backtest.experiment, flashtrader.backtest.outputs, flashtrader.report.tearsheet"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
