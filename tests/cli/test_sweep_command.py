"""`train --sweep`, and several models trained at once."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from command import Command
from flashtrader.models.weights import load_tensors
from flashtrader.registry import list_runs
from flashtrader.training.sweep import begin_sweep
from panels import random_bars
from place import Place

SETTINGS: dict[str, Any] = {
    "data": {"source": "file", "symbols": ["AAA"]},
    "panel": {"features": ["log_return"], "target": {"kind": "log_return", "horizon_bars": 2}},
    "model": {"family": "returns", "context_bars": 8, "width": 8, "layers": 1, "heads": 2},
    "training": {
        "segment_bars": 32,
        "batch_size": 2,
        "max_steps": 4,
        "evaluate_every": 2,
        "plain_models": [],
        "device": "cpu",
    },
}


@pytest.fixture
def place(tmp_path: Path, flashtrader: Command) -> Place:
    return Place(tmp_path, flashtrader, SETTINGS, {"AAA": random_bars(300)})


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_tensors(run / "checkpoints" / "last.safetensors")[0]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_sweep_trains_each_combination_ranks_them_and_goes_on_with_what_is_left(place: Place) -> None:
    grid = ("--sweep", "model.width=8,16", "--sweep", "training.seed=0,1")
    swept = place("train", "--config", place.config, *grid, "--workers", 2)
    runs = place.root / "runs"
    recorded = json.loads((runs / "tiny-sweep-001.json").read_text())["trials"]
    assert [(trial["run"], trial["values"]) for trial in recorded] == [
        ("tiny-001", {"model.width": "8", "training.seed": "0"}),
        ("tiny-002", {"model.width": "8", "training.seed": "1"}),
        ("tiny-003", {"model.width": "16", "training.seed": "0"}),
        ("tiny-004", {"model.width": "16", "training.seed": "1"}),
    ]
    assert {run["status"] for run in swept["runs"]} == {"trained"}
    skills = [run["validation_skill"] for run in swept["runs"]]
    assert skills == sorted(skills, reverse=True)
    assert swept["warnings"] == [
        "beware: this is the highest skill of 4 runs. The choice itself makes it higher than what is to be expected of "
        "it; only bars that no run has seen can tell"
    ]

    place.command.succeeds(
        "train", "--config", place.config, "--set", "model.width=16", *place.places()[:2], "--runs-dir", runs / "alone"
    )
    assert same(weights(runs / "tiny-003"), weights(runs / "alone" / "tiny-001"))

    then = weights(runs / "tiny-001")
    kept = (runs / "tiny-002" / "manifest.json").stat().st_mtime_ns
    (runs / "tiny-001" / "manifest.json").unlink()  # as if it had been killed as it was made
    manifest = json.loads((runs / "tiny-004" / "manifest.json").read_text())
    (runs / "tiny-004" / "manifest.json").write_text(json.dumps(manifest | {"training": None}))
    for path in (runs / "tiny-004" / "checkpoints").glob("*.safetensors"):
        path.write_bytes(b"nothing")
    assert place.tells("train --resume tiny-sweep-001.json") == (
        1,
        "{root}/runs/tiny-sweep-001.json: not trained: tiny-004: {root}/runs/tiny-004/checkpoints/last.safetensors: "
        "damaged checkpoint (Error while deserializing header: header too small); restore it from a copy, or train "
        "again; go on with: flashtrader train --resume {root}/runs/tiny-sweep-001.json",
    )
    assert same(weights(runs / "tiny-001"), then)
    assert (runs / "tiny-002" / "manifest.json").stat().st_mtime_ns == kept


@pytest.mark.parametrize("values", ["model.width=8,9", "model.widht=8", "model.width=8 --dry-run"])
def test_what_can_t_be_swept_is_refused_before_anything_is_made(place: Place, values: str) -> None:
    exit_code, _ = place.tells(f"train --config {{root}}/tiny.yaml --sweep {values}")
    assert exit_code == 2
    assert not (place.root / "runs").exists()


def test_a_sweep_file_leads_through_no_link(place: Place, tmp_path: Path) -> None:
    sweep = begin_sweep(place.config, [], ["model.width=8,16"], tmp_path / "runs")
    first, second = (sweep.run(trial).path for trial in sweep.trials)
    (second / "checkpoints").symlink_to(tmp_path)
    line = place.fails(2, "train", "--resume", sweep.path)
    assert line == f"{second / 'checkpoints'}: a link, which can lead out of the run; put a copy in its place"
    first.rename(tmp_path / "mine")
    first.symlink_to(tmp_path / "mine")
    line = place.fails(2, "train", "--resume", sweep.path)
    assert line == f"{first}: a link, which is followed only where you name the run itself; name it, or move it here"
    assert place("train", "--resume", first)["steps"] == 4


def test_a_sweep_that_is_killed_as_it_is_made_leaves_no_run_or_all(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin() -> None:
        begin_sweep(place.config, [], ["model.width=8,16"], tmp_path / "runs")

    def kill(*_: object) -> None:
        raise ZeroDivisionError

    for killed_in in ("flashtrader.training.sweep.write_json", "flashtrader.run.Run.write_config"):
        with monkeypatch.context() as patch:
            patch.setattr(killed_in, kill)
            with pytest.raises(ZeroDivisionError):
                begin()
        assert list_runs(tmp_path / "runs") == []
    (file,) = (tmp_path / "runs").glob("*.json")
    resumed = place("train", "--resume", file)["runs"]
    assert sorted((run["values"]["model.width"], run["status"]) for run in resumed) == [
        ("16", "trained"),
        ("8", "trained"),
    ]


@pytest.mark.parametrize(
    ("trial", "problem"),
    [
        ({"run": "tiny-001"}, "a run is listed twice"),
        ({"values": {"model.layers": "2"}}, "not all have values of the same keys"),
        ({"values": {}}, "not all have values of the same keys"),
    ],
)
def test_a_sweep_of_trials_that_do_not_fit_together_is_refused(
    place: Place, trial: dict[str, Any], problem: str
) -> None:
    sweep = begin_sweep(place.config, [], ["model.width=8,16"], place.root / "runs")
    first, second = json.loads(sweep.path.read_text())["trials"]
    sweep.path.write_text(json.dumps({"trials": [first, second | trial]}))
    assert place.tells("train --resume tiny-sweep-001.json") == (
        1,
        f"{{root}}/runs/tiny-sweep-001.json: trials: {problem}; give the file of a sweep, or a run",
    )


def test_a_trial_of_which_the_config_was_edited_is_not_trained_for_another(place: Place) -> None:
    sweep = begin_sweep(place.config, [], ["model.width=8,16"], place.root / "runs")
    config = sweep.run(sweep.trials[1]).path / "config.yaml"
    config.write_text(config.read_text().replace("width: 16", "width: 24"))
    assert place.tells("train --resume tiny-sweep-001.json") == (
        1,
        "{root}/runs/tiny-sweep-001.json: not trained: tiny-002: {root}/runs/tiny-002: model.width can't change when a "
        "run goes on, only training.max_steps, training.patience, training.checkpoint_every, training.tensorboard, "
        "training.distributed, training.context_parallel; train a new run with --config; go on with: flashtrader train "
        "--resume {root}/runs/tiny-sweep-001.json",
    )


def test_lists_are_values_too(place: Place, tmp_path: Path) -> None:
    sweep = begin_sweep(place.config, [], ["panel.features=[log_return, rsi_3],[log_return]"], tmp_path)
    features = [sweep.run(trial).experiment.panel.features for trial in sweep.trials]
    assert features == [("log_return", "rsi_3"), ("log_return",)]
