"""`flashtrader backtest --compare`: runs that were backtested, on one page."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from command import Command
from flashtrader.report.metric_names import METRIC_NAMES


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A directory of two runs with a backtest, and of one without."""
    for seed, name in enumerate(("a-001", "b-001", "c-001")):
        path = tmp_path / "runs" / name
        path.mkdir(parents=True)
        (path / "config.yaml").write_text("data: {symbols: [SIM1]}\n")
        if name == "c-001":
            continue
        time = pd.date_range("2024-01-01", periods=200, freq="h", tz="UTC", name="time").as_unit("ms")
        equity = 1e5 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.01, 200)))
        pd.DataFrame({"equity": equity}, index=time).to_parquet(path / "equity.parquet")
        told = {
            "verdict": f"Nothing is known of {name}.",
            "metrics": {metric.key: 1.0 for metric in METRIC_NAMES},
            "period": {"interval": "60", "calendar": "24/7"},
            "experiment": {"name": name},
        }
        (path / "backtest.json").write_text(json.dumps(told))
    return tmp_path / "runs"


def test_runs_stand_on_one_page(runs: Path, flashtrader: Command) -> None:
    told = flashtrader.succeeds("backtest", "--compare", "a-001", "b-001", "--runs-dir", runs, "--json").json
    assert [run["name"] for run in told["runs"]] == ["a-001", "b-001"]
    assert told["common_period"]["bars"] == 200
    assert told["runs"][1]["common"]["difference"] is not None
    page = runs / "compare-a-001-b-001.html"
    assert told["page"] == str(page)
    assert "Nothing is known of b-001." in page.read_text("utf-8")

    shown = flashtrader.succeeds(
        "backtest", "a-001", "--compare", "b-001", "--runs-dir", runs, "--out", runs / "mine.html"
    )
    assert "a-001: Nothing is known of a-001." in shown.out
    assert "later ones are not in it" in " ".join(shown.out.split())
    assert (runs / "mine.html").read_bytes() == page.read_bytes()
