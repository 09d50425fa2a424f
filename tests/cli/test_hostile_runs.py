"""A stranger's run directory: no command runs what lies in it, follows it out of the run, or waits for it."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skops.io
import torch
import yaml
from sklearn.preprocessing import FunctionTransformer

from flashtrader.models.weights import load_tensors, save_tensors
from place import Place

EVERY = (("predict",), ("backtest",), ("train", "--resume", "tiny-001"), ("runs",))


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def pickled_weights(run: Path, mark: Path) -> None:
    for path in (run / "checkpoints").glob("*.safetensors"):
        path.write_bytes(pickle.dumps(Touch(mark)))


def saved_by_torch(run: Path, mark: Path) -> None:
    for path in (run / "checkpoints").glob("*.safetensors"):
        torch.save({"weights": Touch(mark)}, path)


def python_in_the_config(run: Path, mark: Path) -> None:
    (run / "config.yaml").write_text(f"!!python/object/apply:os.system ['touch {mark}']")


def python_in_a_key(run: Path, mark: Path) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text() + f"more: !!python/object/new:os.system ['touch {mark}']\n")


def boosting_with(run: Path, content: bytes) -> None:
    path = run / "plain" / "boosting.safetensors"
    tensors, facts = load_tensors(path)
    save_tensors(path, tensors | {"booster": torch.from_numpy(np.frombuffer(content, np.uint8).copy())}, facts)


def skops_with_a_function(run: Path, mark: Path) -> None:
    boosting_with(run, skops.io.dumps(FunctionTransformer(os.system, kw_args={"command": f"touch {mark}"})))


def skops_with_a_type(run: Path, mark: Path) -> None:
    boosting_with(run, skops.io.dumps({"model": Touch(mark)}))


def pickle_for_skops(run: Path, mark: Path) -> None:
    boosting_with(run, pickle.dumps(Touch(mark)))


def a_tree_out_of_bounds(run: Path, mark: Path) -> None:
    tensors, _ = load_tensors(run / "plain" / "boosting.safetensors")
    trusted = ["sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"]
    booster = skops.io.loads(tensors["booster"].numpy().tobytes(), trusted=trusted)
    nodes = booster._predictors[0][0].nodes
    nodes["is_leaf"][0], nodes["left"][0], nodes["right"][0] = 0, 0, 0
    nodes["feature_idx"][0] = 2**40
    boosting_with(run, skops.io.dumps(booster))


def pickled_forecasts(run: Path, mark: Path) -> None:
    for path in (run / "forecasts.parquet", run / "plain" / "boosting.parquet"):
        path.write_bytes(pickle.dumps(Touch(mark)))


def forecasts_of_a_pickled_type(run: Path, mark: Path) -> None:
    """As pyarrow once unpickled on reading: CVE-2023-47248."""
    path = run / "forecasts.parquet"
    told = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Touch(mark)),
    }
    schema = pa.schema([pa.field("time", pa.int64(), metadata=told), pa.field("AAA", pa.float64(), metadata=told)])
    pq.write_table(pa.table([[0], [0.0]], schema=schema), path)


def endless_forecasts(run: Path, mark: Path) -> None:
    table = pa.table({"time": pa.nulls(30_000_000, pa.int64())})
    pq.write_table(table, run / "forecasts.parquet")


def words_that_steer_a_terminal(run: Path, mark: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"created": "\x1b]0;owned\x07\n\n", "split": None}))


def members_elsewhere(run: Path, mark: Path) -> None:
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["training"] |= {"seeds": [0, 1]}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    manifest = json.loads((run / "manifest.json").read_text())
    member = {"name": "../../../tiny-001", "fold": 1, "seed": 0, "status": "completed"}
    (run / "manifest.json").write_text(json.dumps(manifest | {"members": [member], "folds": [manifest["split"]]}))


def a_width_for_no_machine(run: Path, mark: Path) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("width: 8", "width: 65536").replace("layers: 1", "layers: 64"))


def pipes(run: Path, mark: Path) -> None:
    for path in (run / "manifest.json", run / "checkpoints" / "best.safetensors", run / "metrics.jsonl"):
        path.unlink()
        os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "commands"),
    [
        (pickled_weights, EVERY),
        (saved_by_torch, EVERY[:1]),
        (python_in_the_config, (*EVERY, ("verify",))),
        (python_in_a_key, EVERY[:2]),
        (skops_with_a_function, EVERY[:1]),
        (skops_with_a_type, EVERY[:1]),
        (pickle_for_skops, EVERY[:1]),
        (a_tree_out_of_bounds, EVERY[:1]),
        (pickled_forecasts, EVERY[1:2]),
        (forecasts_of_a_pickled_type, EVERY[1:2]),
        (endless_forecasts, EVERY[1:2]),
        (words_that_steer_a_terminal, EVERY),
        (members_elsewhere, EVERY),
        (a_width_for_no_machine, EVERY[:1]),
        (pipes, EVERY),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_strangers_run_runs_nothing_and_ends_in_one_line(
    copy_of_finished: Callable[[], Place],
    spoil: Callable[[Path, Path], None],
    commands: tuple[tuple[str, ...], ...],
) -> None:
    place = copy_of_finished()
    mark = place.root / "mark"
    spoil(place.run, mark)
    for arguments in commands:
        outcome = place.command(*arguments, *place.places())
        assert "Traceback" not in outcome.err
        assert "unexpected" not in outcome.err, outcome.err
        assert all(sign.isprintable() or sign == "\n" for sign in outcome.out + outcome.err)
        # What does not read what was spoiled goes on.
        assert arguments != commands[0] or outcome.exit_code in (1, 2), outcome
        if outcome.exit_code:
            assert outcome.err.strip().splitlines()[-1].startswith("error: ")
        assert not mark.exists(), arguments


def test_a_link_out_of_a_run_is_not_followed(copy_of_finished: Callable[[], Place]) -> None:
    place = copy_of_finished()
    mine = place.root / "mine"
    (place.run / "plain").rename(mine)
    (place.run / "plain").symlink_to(mine)
    before = {path: path.read_bytes() for path in mine.iterdir()}
    for arguments in (("train", "--resume", "tiny-001", "--set", "training.max_steps=3"), ("predict",)):
        message = place.fails(2, *arguments)
        assert message == f"{place.run / 'plain'}: a link, which can lead out of the run; put a copy in its place"
    assert {path: path.read_bytes() for path in mine.iterdir()} == before
