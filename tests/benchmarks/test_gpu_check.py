"""The GPU run, rehearsed with tiny sizes on the CPU: every section runs, and a failing one stops no other."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flashtrader.benchmarks import gpu

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_check"


def test_sections_leave_json_and_a_page(tmp_path: Path) -> None:
    done = subprocess.run(
        [SCRIPT, tmp_path, "--rehearse", "--sections", "versions,training"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["versions", "training"]
    assert results["versions"]["packages"]["torch"] == results["versions"]["machine"]["torch"]
    assert results["training"]["rows"][0]["bars_per_second"] > 0
    page = (tmp_path / "results.md").read_text()
    assert "A rehearsal" in page
    assert "| parameters | bars |" in page


def test_parity_is_within_twice_the_error_of_plain_attention() -> None:
    found = gpu.parity(gpu.REHEARSAL)
    compared = {row["backend"] for row in found["rows"] if "error_against_float64" in row}
    assert {"naive", "tiled", "sdpa", "sdpa-math"} <= compared
    assert "error" not in found
    assert all(row["within_twice_plain"] for row in found["rows"] if row["backend"] in compared)


def test_the_last_queries_are_compared_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer compared than there are, the gradients of all keys still agree."""
    monkeypatch.setattr(gpu, "_COMPARED_QUERIES", 8)
    found = gpu.parity(gpu.REHEARSAL)
    errors = [error for row in found["rows"] for error in row.get("error_against_float64", {}).values()]
    assert len(errors) >= 4 * 4 * 2
    assert 0 < max(errors) < 1e-5


def test_a_section_that_fails_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(sizes: gpu.Sizes) -> dict[str, object]:
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setitem(gpu.SECTIONS, "grids", (broken, 1))
    assert gpu._run_here("grids", gpu.REHEARSAL, tmp_path) == 1
    assert json.loads((tmp_path / "grids.json").read_text())["error"].startswith("RuntimeError: CUDA error")


def test_the_others_run_after_one_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        gpu, "_run_apart", lambda name, *_: {"error": "gone"} if name == "parity" else {"rows": [{"a": 1.0}]}
    )
    monkeypatch.setattr(sys, "argv", ["gpu_check", str(tmp_path), "--rehearse", "--sections", "parity,grids"])
    assert gpu.main() == 1
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["parity"]["error"] == "gone"
    assert results["grids"]["rows"] == [{"a": 1.0}]
    assert "**Failed.**" in (tmp_path / "results.md").read_text()


def test_a_process_that_hangs_or_dies_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu.SECTIONS, "grids", (gpu.grids, 0))
    assert gpu._run_apart("grids", tmp_path, rehearse=True) == {"error": "given up after 0 s"}
    monkeypatch.setattr(sys, "executable", "/bin/false")
    monkeypatch.setitem(gpu.SECTIONS, "grids", (gpu.grids, 60))
    assert gpu._run_apart("grids", tmp_path, rehearse=True)["error"].startswith("its process ended with 1")


def test_the_grids_are_those_of_a_portfolio_and_an_order_book() -> None:
    assert [entities * steps for _, entities, steps, _ in gpu.FULL.grids] == [204_800, 100_000]
    rows = gpu.grids(gpu.REHEARSAL)["rows"]
    assert [row["length"] for row in rows] == [64, 40]
    assert all(row["milliseconds"] for row in rows)


def test_the_training_has_a_hundred_million_parameters() -> None:
    with gpu.torch.device("meta"):
        model = gpu.GridTransformer(gpu.FULL.training)
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(1e8, rel=0.02)
