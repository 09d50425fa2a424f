"""The worked examples run in order, and print what their page shows."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from flashtrader.run import find_run

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
NAMES = ["01_data", "02_architecture", "03_training", "04_prediction", "05_backtest"]
PRINTED = re.findall(r"## \[(\w+)\.py\].*?```text\n(.*?)```", (EXAMPLES / "README.md").read_text("utf-8"), re.DOTALL)


def shape(printed: str) -> str:
    """Return text without the digits that another machine computes differently, and without their columns."""
    return re.sub(r"\s+", " ", re.sub(r"[-+]?\d[\d,.]*(e-\d+)?", "#", printed))


def test_the_page_shows_every_example() -> None:
    assert [name for name, _ in PRINTED] == NAMES == sorted(path.stem for path in EXAMPLES.glob("*.py"))


def test_the_examples_run_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, shown in PRINTED:
        monkeypatch.setattr(sys, "argv", [name, str(tmp_path)])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        assert shape(capsys.readouterr().out) == shape(shown), name
    run = find_run(tmp_path / "runs")
    for file in ("config.yaml", "manifest.json", "forecasts.parquet", "backtest.json", "report.html"):
        assert (run.path / file).stat().st_size > 0, file
