import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flashtrader.config import DataConfig, Experiment
from flashtrader.errors import ConfigError, DataError, TrainingError
from flashtrader.run import Run, create_run, find_run

EXPERIMENT = Experiment(name="hourly", data=DataConfig(symbols=("BTCUSDT",)))


def trained(runs_dir: Path) -> Run:
    run = create_run(runs_dir, EXPERIMENT)
    run.write_manifest({"seed": 0})
    return run


def test_runs_are_numbered_and_remember_their_experiment(tmp_path: Path) -> None:
    runs = [create_run(tmp_path / "runs", EXPERIMENT) for _ in range(3)]
    assert [run.name for run in runs] == ["hourly-001", "hourly-002", "hourly-003"]
    assert runs[1].experiment == EXPERIMENT


def test_another_experiment_has_its_own_numbers(tmp_path: Path) -> None:
    create_run(tmp_path, EXPERIMENT)
    create_run(tmp_path, EXPERIMENT.model_copy(update={"name": "hourly-btc"}))
    assert create_run(tmp_path, EXPERIMENT).name == "hourly-002"


def test_the_newest_trained_run_is_the_default(tmp_path: Path) -> None:
    first, second = trained(tmp_path), trained(tmp_path)
    create_run(tmp_path, EXPERIMENT)
    assert find_run(tmp_path) == second
    os.utime(second.path / "manifest.json", ns=(0, 0))
    assert find_run(tmp_path) == first


def test_a_run_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    run = trained(tmp_path)
    assert find_run(tmp_path, run.name) == run
    assert find_run(tmp_path / "elsewhere", str(run.path)) == run


def test_a_run_that_is_a_link_is_followed_where_it_is_named(tmp_path: Path) -> None:
    run, runs_dir = trained(tmp_path / "other disk"), tmp_path / "runs"
    runs_dir.mkdir()
    (runs_dir / run.name).symlink_to(run.path)
    assert find_run(runs_dir, run.name).path == runs_dir / run.name
    with pytest.raises(ConfigError) as refused:
        find_run(runs_dir)
    assert str(refused.value) == (
        f"{runs_dir / run.name}: a link, which is followed only where you name the run itself; name it, or move it here"
    )


def test_a_manifest_that_is_no_object_is_named(tmp_path: Path) -> None:
    run = trained(tmp_path)
    (run.path / "manifest.json").write_text("[]")
    with pytest.raises(DataError) as refused:
        _ = run.manifest
    assert str(refused.value) == (
        f"{run.path}/manifest.json: not the manifest of a run, which holds an experiment; restore it from a copy, or "
        "train the run again"
    )


def test_a_missing_run_is_an_error_that_names_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        find_run(tmp_path)
    assert str(refused.value) == (
        f"no trained run in {tmp_path}; make one with `flashtrader train --config …`, or give --run"
    )
    trained(tmp_path)
    with pytest.raises(ConfigError) as refused:
        find_run(tmp_path, "huorly")
    assert str(refused.value) == f"no run 'huorly' here or in {tmp_path}; the newest are hourly-001"


@pytest.mark.parametrize("name", ["../x", "", "a/b", "A"])
def test_a_member_stays_in_its_run(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError) as refused:
        Run(tmp_path).member(name)
    assert str(refused.value) == (
        f"{tmp_path}/manifest.json: members: {name!r} names no model of a run; restore it from a copy, or train the "
        "run again"
    )


@pytest.mark.parametrize("line", ['{"loss": 1.0}', '{"step": 1.5}', '{"step": 2, "loss": "low"}'])
def test_metrics_that_are_none_name_their_line(tmp_path: Path, line: str) -> None:
    run = Run(tmp_path)
    run.metrics.write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(DataError) as refused:
        run.read_metrics()
    assert str(refused.value) == f"{run.metrics}: line 2: not the numbers of a step; take the line out"


def test_the_default_is_a_whole_run_and_never_one_of_its_members(tmp_path: Path) -> None:
    run = trained(tmp_path)
    member = run.member("fold-01-seed-0")
    member.path.mkdir(parents=True)
    member.write_config(EXPERIMENT)
    member.write_manifest({"seed": 0})
    os.utime(run.path / "manifest.json", ns=(0, 0))
    assert find_run(tmp_path) == run
    assert create_run(tmp_path, EXPERIMENT).name == "hourly-002"


def test_one_process_at_a_time_is_in_a_run_and_a_dead_one_is_in_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(tmp_path)
    program = (
        "import sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); print(); input()"
    )
    command = [sys.executable, "-c", program, str(run.path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with monkeypatch.context() as patch:
            patch.setattr("flashtrader.run._PATIENCE_SECONDS", 0.1)
            with pytest.raises(TrainingError) as refused, run.alone():
                pass
        assert str(refused.value) == (
            f"{run.path}: another process trains this run or writes results into it; wait for its end, or stop it, and "
            "give the command again"
        )
        with run.member("seed-1").alone():  # is a run of its own
            pass
        threading.Timer(0.2, other.kill).start()
        with run.alone():
            assert other.wait() != 0


def test_a_run_in_which_nothing_can_be_written_needs_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    run = trained(tmp_path)
    monkeypatch.setattr(os, "open", refuse)
    with run.alone():
        pass


def test_results_of_other_weights_go_and_what_training_wrote_stays(tmp_path: Path) -> None:
    run = trained(tmp_path)
    kept = ["checkpoints/best.safetensors", "metrics.jsonl", "plain/ridge.safetensors", "notes.md"]
    stale = ["forecasts.parquet", "latest.parquet", "latest_candles.parquet", "plain/ridge.parquet", "candles.parquet"]
    stale += ["directions.parquet", "direction_scores.json", "rollout.parquet", "attention/head.png", "equity.png"]
    stale += ["backtest.json", "equity.parquet", "trades.parquet", "weights.parquet", "report.html", "verify.json"]
    for name in kept + stale:
        (run.path / name).parent.mkdir(exist_ok=True)
        (run.path / name).touch()
    run.drop_results()
    left = {path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file()}
    assert left == {*kept, "config.yaml", "manifest.json"}
