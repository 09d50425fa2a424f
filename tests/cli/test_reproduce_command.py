"""`train --from`: a run made again from its manifest."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from command import Command, Outcome
from flashtrader.config import validate
from flashtrader.run import Run
from flashtrader.training.loop import train_model
from panels import random_bars, store_bars
from place import Place

SETTINGS: dict[str, Any] = {
    "data": {"source": "file", "symbols": ["AAA", "BBB"]},
    "panel": {"features": ["log_return", "rsi_3"], "target": {"horizon_bars": 2}},
    "split": {"validation": 0.2, "test": 0.2},
    "model": {"context_bars": 8, "width": 8, "layers": 1, "heads": 2, "dropout": 0.1},
    "training": {
        "segment_bars": 48,
        "batch_size": 2,
        "max_steps": 6,
        "evaluate_every": 2,
        "device": "cpu",
        "plain_models": ["ridge", "boosting"],
    },
}


def markets(first_hour: int = 100, num_bars: int = 600) -> dict[str, pd.DataFrame]:
    return {"AAA": random_bars(num_bars, 1, first_hour), "BBB": random_bars(num_bars, 2, first_hour)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("trained")
    for symbol, table in markets().items():
        store_bars(root / "data", symbol, table)
    experiment = validate({"name": "tiny", **SETTINGS}, "settings")
    return train_model(experiment, root / "data", root / "runs", lambda _metrics: None).run


@pytest.fixture
def place(tmp_path: Path, flashtrader: Command, trained: Run) -> Place:
    place = Place(tmp_path, flashtrader, SETTINGS, markets())
    shutil.copytree(trained.path, place.run)
    return place


def again(place: Place, *more: object, data: str = "data") -> Outcome:
    """Train `tiny-001` again, with its manifest taken elsewhere, away from the run."""
    manifest = place.root / "manifest.json"
    manifest.write_bytes((place.run / "manifest.json").read_bytes())
    runs = ("--runs-dir", place.root / "again", "--data-dir", place.root / data)
    return place.command("train", "--from", manifest, *runs, *more, "--json")


def edit(place: Place, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((place.run / "manifest.json").read_text())
    change(manifest)
    (place.run / "manifest.json").write_text(json.dumps(manifest))


def test_the_same_weights_come_from_the_manifest_alone_though_bars_were_fetched_since(place: Place) -> None:
    store_bars(place.root / "data", "AAA", random_bars(700, 1, 100).iloc[600:])
    store_bars(place.root / "data", "BBB", random_bars(100, 7))
    outcome = again(place)
    assert outcome.exit_code == 0, outcome.err
    identical = f"identical weights: 3 models, bit for bit those of {place.root}/manifest.json"
    assert outcome.err.splitlines()[-1] == identical
    assert "not as it was" not in outcome.err
    assert outcome.json["reproduction"]["identical"] is True
    then, now = (json.loads((run / "manifest.json").read_text()) for run in (place.run, place.root / "again/tiny-001"))
    assert now["weights"] == then["weights"]
    assert sorted(now["weights"]) == [
        "checkpoints/best.safetensors",
        "plain/boosting.safetensors",
        "plain/ridge.safetensors",
    ]
    assert now["data"] == then["data"]
    assert now["split"] == then["split"]


def test_a_plain_model_is_made_again_too(tmp_path: Path, flashtrader: Command) -> None:
    place = Place(tmp_path, flashtrader, SETTINGS | {"model": {"family": "boosting", "context_bars": 8}}, markets())
    place("train", "--config", place.config)
    *_, last = again(place).err.splitlines()
    assert last == f"identical weights: 1 model, bit for bit those of {place.root}/manifest.json"


def test_every_model_of_a_walk_forward_is_made_again(tmp_path: Path, flashtrader: Command) -> None:
    walk = {"train": 200, "validation": 100, "test": 150, "warm_start": True}
    training = SETTINGS["training"] | {"seeds": [0, 1], "plain_models": ["ridge"]}
    settings = SETTINGS | {"split": {"walk_forward": walk}, "training": training}
    place = Place(tmp_path, flashtrader, settings, markets())
    place("train", "--config", place.config)
    outcome = again(place)
    identical = f"identical weights: 6 models, bit for bit those of {place.root}/manifest.json"
    assert outcome.err.splitlines()[-1] == identical
    assert outcome.json["reproduction"]["identical"] is True

    first, second = (place.run / "members" / f"fold-{number}-seed-0" for number in ("01", "02"))
    assert "identical weights: 2 models" in place.command.succeeds("train", "--from", first, *place.places()).err
    said = place.fails(1, "train", "--from", second)
    assert said == (
        f"other weights than those of {second / 'manifest.json'} in checkpoints/best.safetensors: beginning: the "
        "weights of fold-01-seed-0 then, new ones now; make the whole run again"
    )


def test_changed_data_are_refused_symbol_by_symbol(place: Place) -> None:
    store_bars(place.root / "other", "AAA", markets()["AAA"].drop(index=[300, 301]))
    store_bars(place.root / "other", "BBB", markets()["BBB"].assign(volume=1.0))
    outcome = again(place, data="other")
    assert outcome.exit_code == 1
    assert outcome.err.replace(str(place.root), "{root}") == (
        "error: {root}/other: not the data of {root}/manifest.json (AAA: 600 rows from 1970-01-05 04:00 to 1970-01-30 "
        "03:00 then, 598 rows from 1970-01-05 04:00 to 1970-01-30 03:00 now; BBB: other values in the same 600 rows "
        "from 1970-01-05 04:00 to 1970-01-30 03:00); bring the old bars back, or train on these with "
        "--allow-changed-data\n"
    )
    assert not (place.root / "again").exists()


def test_changed_data_can_be_trained_on_all_the_same(place: Place) -> None:
    store_bars(place.root / "other", "AAA", markets()["AAA"])
    store_bars(place.root / "other", "BBB", random_bars(600, 3, 100))
    outcome = again(place, "--allow-changed-data", data="other")
    assert outcome.exit_code == 0, outcome.err
    changed = "BBB: other values in the same 600 rows from 1970-01-05 04:00 to 1970-01-30 03:00"
    first, *_, last = outcome.err.splitlines()
    assert first == f"not as it was: {changed}"
    assert last == (
        f"other weights than those of {place.root}/manifest.json in checkpoints/best.safetensors, "
        f"plain/boosting.safetensors, plain/ridge.safetensors: {changed}"
    )
    assert outcome.json["reproduction"]["identical"] is False
    assert len(outcome.json["reproduction"]["changed_data"]) == 1


def test_what_else_changed_is_told_and_other_weights_are_a_failure(place: Place) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["versions"]["torch"] = "1.0.0"
        manifest["instructions"] = "MMX"
        manifest["threads"] = 4_000
        manifest["weights"]["checkpoints/best.safetensors"] = "0" * 64

    edit(place, change)
    outcome = again(place)
    assert outcome.exit_code == 1
    changes = [
        f"torch: 1.0.0 then, {torch.__version__} now",
        f"CPU instructions: MMX then, {torch.backends.cpu.get_cpu_capability()} now",
        f"threads: 4000 then, {os.cpu_count()} cores now",
    ]
    lines = outcome.err.splitlines()
    assert lines[:3] == [f"not as it was: {change}" for change in changes]
    assert lines[-1] == (
        f"error: other weights than those of {place.root}/manifest.json in checkpoints/best.safetensors: "
        + "; ".join(changes)
    )
    assert outcome.json["reproduction"]["differing"] == ["checkpoints/best.safetensors"]


def test_other_weights_without_a_reason_are_a_failure_that_says_so(place: Place) -> None:
    edit(place, lambda manifest: manifest["weights"].update({"plain/ridge.safetensors": "0" * 64}))
    outcome = again(place)
    assert outcome.exit_code == 1
    assert outcome.err.splitlines()[-1] == (
        f"error: other weights than those of {place.root}/manifest.json in plain/ridge.safetensors: though data, "
        "versions and machine are as they were"
    )


def test_a_run_that_was_made_longer_is_told_apart(place: Place) -> None:
    place("train", "--resume", "tiny-001", "--set", "training.max_steps=8")
    outcome = again(place)
    assert outcome.err.splitlines()[0] == (
        "not as it was: length: until step 6 the run was to have 6 steps, and in one go the learning rate takes "
        "another course"
    )
    assert outcome.json["steps"] == 8


def test_an_unfinished_run_has_nothing_to_compare_with(place: Place) -> None:
    edit(place, lambda manifest: manifest["training"].update(stopped="interrupted"))
    outcome = again(place)
    assert outcome.exit_code == 0
    assert outcome.err.splitlines()[-1] == (
        f"{place.root}/manifest.json: its training did not end, so there are no weights to compare with"
    )
    assert outcome.json["reproduction"]["identical"] is None


@pytest.mark.parametrize(
    ("change", "exit_code", "message"),
    [
        (
            lambda manifest: manifest.pop("experiment"),
            1,
            "{root}/manifest.json: not the manifest of a run, which holds an experiment; restore it from a copy, or "
            "train the run again",
        ),
        (
            lambda manifest: manifest["split"].update(end_ms=10**30),
            1,
            "{root}/manifest.json: split.end_ms: input should be less than or equal to 253402300799000; restore it "
            "from a copy, or train the run again",
        ),
        (
            lambda manifest: manifest["experiment"].update(name="../../etc"),
            1,
            "{root}/manifest.json: experiment: name: use letters, digits, dots, dashes and underscores, with a letter "
            "or digit first; restore it from a copy, or train the run again",
        ),
        (
            lambda manifest: manifest["experiment"]["data"].update(symbols=["../../etc"]),
            2,
            "symbol '../../etc' can't name a directory: use letters, digits and ^ & = + : . - _",
        ),
    ],
)
def test_a_damaged_or_hostile_manifest_is_one_line(
    place: Place, change: Callable[[dict[str, Any]], object], exit_code: int, message: str
) -> None:
    edit(place, change)
    outcome = again(place)
    told = outcome.err.replace(str(place.root), "{root}")
    assert (outcome.exit_code, outcome.out, told) == (exit_code, "", f"error: {message}\n")
    assert sorted(path.name for path in place.root.iterdir()) == ["data", "manifest.json", "runs", "tiny.yaml"]
