"""`flashtrader runs`: what every run of a directory came to."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from command import Command
from experiments import BOOKKEEPING, manifest_of
from flashtrader.config import DataConfig, Experiment
from flashtrader.run import create_run


def add(runs_dir: Path, seed: int = 0, skill: float = 0.1, **changes: Any) -> Path:
    """Write the manifest of a trained run, as far as it is read."""
    experiment = Experiment(name="hourly", data=DataConfig(symbols=("BTCUSDT",)), training={"seed": seed})
    run = create_run(runs_dir, experiment)
    outcome = {
        "steps": 9,
        "best_step": 9,
        "stopped": "completed",
        "seconds": 1.0,
        "validation_loss": 0.5,
        "skill": "ic",
    }
    training = {"training": outcome | {"validation_skill": skill}}
    run.write_manifest(manifest_of(experiment, **(training | changes)))
    return run.path


def backtested(path: Path, sharpe: float | None, finding: str = "like_cash", trials: int = 3) -> None:
    """Write the backtest of a run, as far as it is read."""
    (path / "forecasts.parquet").touch()
    backtest = {
        "verdict": f"Not distinguishable from cash: Sharpe {sharpe}.",
        "finding": finding,
        "metrics": {"sharpe": sharpe, "total_return": 0.25},
        "significance": {"deflated_sharpe": 0.42, "trials": trials},
        "forecast": {"ic": {"value": 0.03, "error": 0.01}},
        "period": {"start": "2025-01-01T00:00:00+00:00", "end": "2025-02-01T00:00:00+00:00", "bars": 744},
        "experiment": {"data": {"symbols": ["BTCUSDT"]}},
    }
    (path / "backtest.json").write_text(json.dumps(backtest))


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    runs_dir = tmp_path / "runs"
    backtested(add(runs_dir, skill=0.3), sharpe=-1.0, finding="loses")
    backtested(add(runs_dir, seed=1), sharpe=1.5)
    add(runs_dir)
    return runs_dir


def test_the_list_tells_how_far_each_run_is_and_what_it_came_to(runs_dir: Path, flashtrader: Command) -> None:
    (add(runs_dir) / "forecasts.parquet").touch()
    add(runs_dir, training=None)
    interrupted = add(runs_dir)
    manifest = json.loads((interrupted / "manifest.json").read_text())
    manifest["training"]["stopped"] = "interrupted"
    (interrupted / "manifest.json").write_text(json.dumps(manifest))
    listed = flashtrader.succeeds("runs", "--runs-dir", runs_dir, "--json").json["runs"]
    assert [run["run"] for run in listed] == [f"hourly-00{number}" for number in range(1, 7)]
    statuses = ["backtested", "backtested", "trained", "forecast", "unfinished", "interrupted"]
    assert [run["status"] for run in listed] == statuses
    assert listed[1]["metrics"]["sharpe"] == 1.5
    assert listed[1]["verdict"] == "Not distinguishable from cash: Sharpe 1.5."
    shown = flashtrader.succeeds("runs", "--runs-dir", runs_dir).out
    assert "loses" in shown
    assert "like cash" in shown


def test_members_of_a_run_and_other_directories_are_no_runs(runs_dir: Path, flashtrader: Command) -> None:
    shutil.copytree(runs_dir / "hourly-003", runs_dir / "hourly-001" / "members" / "seed-0")
    (runs_dir / "trials").mkdir()
    listed = flashtrader.succeeds("runs", "--runs-dir", runs_dir, "--json").json["runs"]
    assert len(listed) == 3


def test_a_backtest_of_anybodys_weights_is_listed_though_nothing_was_trained(
    runs_dir: Path, flashtrader: Command
) -> None:
    (runs_dir / "hourly-002" / "manifest.json").unlink()
    listed = flashtrader.succeeds("runs", "--runs-dir", runs_dir, "--json").json["runs"]
    (found,) = [run for run in listed if run["run"] == "hourly-002"]
    assert found["status"] == "backtested"
    assert found["training"] is None
    assert found["symbols"] == ["BTCUSDT"]


@pytest.mark.parametrize(
    ("file", "text", "damage"),
    [
        (
            "manifest.json",
            "{",
            "damaged, not readable as JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char "
            "1)); restore it from a copy, or train the run again",
        ),
        (
            "manifest.json",
            "[" * 100_000,
            "damaged, not readable as JSON (maximum recursion depth exceeded while decoding a JSON array from a "
            "unicode string); restore it from a copy, or train the run again",
        ),
        (
            "manifest.json",
            '{"experiment": {"data": {}}}',
            "experiment: data.symbols: missing; it has no default; restore it from a copy, or train the run again",
        ),
        (
            "backtest.json",
            "{",
            "damaged, not readable as JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char "
            "1)); make it again with `flashtrader backtest`",
        ),
        (
            "backtest.json",
            "[]",
            "all of it: input should be a valid dictionary; make it again with `flashtrader backtest`",
        ),
        (
            "backtest.json",
            '{"verdict": "\\u001b[2J"}',
            "verdict: holds characters that can't be printed; make it again with `flashtrader backtest`",
        ),
        (
            "verify.json",
            '{"passed": true}',
            "mode: field required; make it again with `flashtrader verify`",
        ),
    ],
)
def test_a_damaged_run_is_listed_as_one(
    runs_dir: Path, flashtrader: Command, file: str, text: str, damage: str
) -> None:
    path = runs_dir / "hourly-001" / file
    path.write_text(text)
    assert f"damaged: {path}: {damage}" in flashtrader.succeeds("runs", "--runs-dir", runs_dir).out
    listed = flashtrader.succeeds("runs", "--runs-dir", runs_dir, "--json").json["runs"]
    assert [run["status"] for run in listed] == ["damaged", "backtested", "trained"]
    assert "damaged" in flashtrader.succeeds("runs", "show", "hourly-001", "--runs-dir", runs_dir).out
    names = ("hourly-001", "hourly-002")
    assert flashtrader.fails(1, "runs", "compare", *names, "--runs-dir", runs_dir) == f"{path}: {damage}"


def test_the_best_comes_with_its_verdict_and_a_warning(runs_dir: Path, flashtrader: Command) -> None:
    best = flashtrader.succeeds("runs", "best", "--runs-dir", runs_dir, "--json").json
    assert best["run"] == "hourly-002"
    assert best["chosen_from"] == 2
    assert best["deflated_sharpe"] == 0.42
    outcome = flashtrader.succeeds("runs", "best", "--runs-dir", runs_dir).out
    assert "hourly-002: Not distinguishable from cash: Sharpe 1.5." in outcome
    assert outcome.splitlines()[-2:] == [
        "beware: this is the highest sharpe of 2 runs. The choice itself makes it higher than what is to be expected "
        "of it; only bars that no run has seen can tell",
        "deflated Sharpe ratio 42.0%: how probable it is, counting 3 trials until its backtest, that the true ratio is "
        "above what chance shows in the best of them",
    ]
    by_skill = flashtrader.succeeds("runs", "best", "--by", "skill", "--runs-dir", runs_dir, "--json").json
    assert by_skill["run"] == "hourly-001"
    assert by_skill["chosen_from"] == 3


def test_a_choice_from_several_markets_is_told_as_one(runs_dir: Path, flashtrader: Command) -> None:
    for name in ("manifest.json", "config.yaml"):
        path = runs_dir / "hourly-001" / name
        path.write_text(path.read_text().replace("BTCUSDT", "ETHUSDT"))
    _, mixed, _ = flashtrader.succeeds("runs", "best", "--runs-dir", runs_dir, "--json").json["warnings"]
    assert mixed == "beware: the runs are of different markets or intervals, and so of different times"


def test_a_verdict_comes_with_what_it_does_not_count(runs_dir: Path, flashtrader: Command) -> None:
    for command in (["runs"], ["runs", "show", "hourly-002"], ["runs", "compare", "hourly-001", "hourly-002"]):
        told = " ".join(flashtrader.succeeds(*command, "--runs-dir", runs_dir).out.split())
        assert "later ones are not in it" in told
    assert "later ones" not in flashtrader.succeeds("runs", "show", "hourly-003", "--runs-dir", runs_dir).out


def test_a_run_that_failed_its_verification_is_told(runs_dir: Path, flashtrader: Command) -> None:
    (runs_dir / "hourly-002" / "verify.json").write_text('{"passed": false, "mode": "quick", "checks": []}')
    best = flashtrader.succeeds("runs", "best", "--runs-dir", runs_dir, "--json").json
    assert best["verified"] is False
    failed = f"hourly-002: failed `flashtrader verify`; {runs_dir}/hourly-002/verify.json says in what"
    assert failed in flashtrader.succeeds("runs", "best", "--runs-dir", runs_dir).out.splitlines()
    assert "not yet" in flashtrader.succeeds("runs", "show", "hourly-001", "--runs-dir", runs_dir).out


def test_a_figure_that_is_not_defined_is_never_the_best(runs_dir: Path, flashtrader: Command) -> None:
    backtested(runs_dir / "hourly-003", sharpe=None, finding="never_traded")
    best = flashtrader.succeeds("runs", "best", "--runs-dir", runs_dir, "--json").json
    assert (best["run"], best["chosen_from"]) == ("hourly-002", 2)


def test_compare_shows_what_differs_and_what_came_of_it(runs_dir: Path, flashtrader: Command) -> None:
    changed = {"BTCUSDT": BOOKKEEPING["data"]["BTCUSDT"] | {"rows": 8}}
    versions = {"flashtrader": "0.1.0", "torch": "2.14.0"}
    add(runs_dir, data=changed, versions=versions)
    names = ("hourly-002", "hourly-004")
    compared = flashtrader.succeeds("runs", "compare", *names, "--runs-dir", runs_dir, "--json").json
    differences = compared["differences"]
    assert differences["config"] == {"training.seed": [1, 0]}
    assert differences["machine"] == {"torch": ["2.13.0", "2.14.0"]}
    (extents,) = differences["data"].values()
    assert [extent.split(" rows")[0] for extent in extents] == ["9", "8"]
    assert [run["status"] for run in compared["runs"]] == ["backtested", "trained"]
    shown = flashtrader.succeeds("runs", "compare", *names, "--runs-dir", runs_dir).out
    assert "training.seed" in shown
    assert "Sharpe ratio" in shown


def test_requests_that_make_no_sense(runs_dir: Path, tmp_path: Path, flashtrader: Command) -> None:
    assert flashtrader.fails(2, "runs", "--runs-dir", runs_dir, "best") == (
        "write options after the word: flashtrader runs best …"
    )
    assert "no run in" in flashtrader.succeeds("runs", "--runs-dir", tmp_path / "none").out


def test_two_hundred_runs_are_listed_at_once_and_without_torch(tmp_path: Path) -> None:
    first = add(tmp_path / "runs")
    backtested(first, sharpe=1.0)
    for number in range(2, 201):
        shutil.copytree(first, tmp_path / "runs" / f"hourly-{number:03d}")
    program = (
        "import sys; from flashtrader.cli.commands import app; "
        f"app(['runs', '--json', '--runs-dir', {str(tmp_path / 'runs')!r}], standalone_mode=False); "
        "assert not {'torch', 'pandas', 'matplotlib'} & sys.modules.keys()"
    )
    began = time.perf_counter()
    listed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert listed.returncode == 0, listed.stderr
    assert len(json.loads(listed.stdout)["runs"]) == 200
    assert time.perf_counter() - began < 5  # about 0.6 s alone on a core
