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
    path.write_text(f"more: !!python/object/new:os.system ['touch {mark}']\n" + path.read_text())


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


NO_YAML = "{run}/config.yaml: not valid YAML (line 1: could not determine a constructor for the tag "
CALL = NO_YAML + "'tag:yaml.org,2002:python/object/apply:os.system')"
NO_WEIGHTS = (
    ".safetensors: damaged checkpoint (Error while deserializing header: header too large); restore it from a copy, or "
    "train again"
)
NO_BOOSTER = "{run}/plain/boosting.safetensors: the model can't be read here "
NO_DATE = (
    "{run}/manifest.json: created: input should be a valid datetime or date, invalid character in year; restore it "
    "from a copy, or train the run again"
)
NOT_BEGUN = (
    "{run}: nothing was trained in it; if its training was killed, begin it with: flashtrader train --resume {run}"
)
NEW = NO_YAML + "'tag:yaml.org,2002:python/object/new:os.system')"
OTHER_SEEDS = (
    "{run}: training.seeds can't change when a run goes on, only training.max_steps, training.patience, "
    "training.checkpoint_every, training.tensorboard, training.distributed, training.context_parallel; train a new run "
    "with --config"
)
NO_FILE = "{run}/manifest.json: not a file that can be replaced; give another path"
WRONG_REQUESTS = (CALL, NEW, OTHER_SEEDS, NO_FILE)
RESUME = "train --resume tiny-001"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            pickled_weights,
            {
                "predict": "{run}/checkpoints/best" + NO_WEIGHTS,
                "backtest": None,
                RESUME: "{run}/checkpoints/last" + NO_WEIGHTS,
                "runs": None,
            },
        ),
        (saved_by_torch, {"predict": "{run}/checkpoints/best" + NO_WEIGHTS}),
        (
            python_in_the_config,
            {"predict": CALL, "backtest": CALL, RESUME: CALL, "verify": CALL, "runs": None},
        ),
        (python_in_a_key, {"predict": NEW}),
        (
            skops_with_a_function,
            {"predict": NO_BOOSTER + "(Untrusted types found in the file: ['posix.system']); train the run again"},
        ),
        (
            skops_with_a_type,
            {
                "predict": NO_BOOSTER + f"(Untrusted types found in the file: ['{type(Path()).__module__}.PosixPath', "
                "'test_hostile_runs.Touch']); train the run again"
            },
        ),
        (pickle_for_skops, {"predict": NO_BOOSTER + "(File is not a zip file); train the run again"}),
        (
            a_tree_out_of_bounds,
            {"predict": NO_BOOSTER + "(a tree leads out of its nodes or its inputs); train the run again"},
        ),
        (
            pickled_forecasts,
            {
                "backtest": "{run}/forecasts.parquet: damaged, not readable as a table (Parquet magic bytes not found "
                "in footer. Either the file is corrupted or this is not a parquet file.); make it again"
            },
        ),
        (
            forecasts_of_a_pickled_type,
            {
                "backtest": "{run}/forecasts.parquet: no forecast at 1970-01-14T08:00:00Z, the first of the run's test "
                "bars; make them with `flashtrader predict --split test`"
            },
        ),
        (
            endless_forecasts,
            {
                "backtest": "{run}/forecasts.parquet: declares 30,000,000 values in {size:,} bytes, too few for a "
                "market's; save it again"
            },
        ),
        (
            words_that_steer_a_terminal,
            {"predict": NO_DATE, "backtest": NO_DATE, RESUME: NO_DATE, "runs": None},
        ),
        (
            members_elsewhere,
            {
                "predict": "{run}/manifest.json: members: '../../../tiny-001' names no model of a run; restore it from "
                "a copy, or train the run again",
                "backtest": None,
                RESUME: OTHER_SEEDS,
                "runs": None,
            },
        ),
        (
            a_width_for_no_machine,
            {
                "predict": "{run}/checkpoints/best.safetensors: the weights do not fit the run's config.yaml; restore "
                "both from a copy, or train again"
            },
        ),
        (
            pipes,
            {
                "predict": NOT_BEGUN,
                "backtest": NOT_BEGUN,
                RESUME: NO_FILE,
                "runs": None,
            },
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_strangers_run_runs_nothing_and_ends_in_one_line(
    copy_of_finished: Callable[[], Place],
    spoil: Callable[[Path, Path], None],
    said: dict[str, str | None],
) -> None:
    """What does not read what was spoiled goes on."""
    place = copy_of_finished()
    mark = place.root / "mark"
    spoil(place.run, mark)
    size = (place.run / "forecasts.parquet").stat().st_size
    for command, message in said.items():
        places = ("--runs-dir", place.root / "runs") if command == "runs" else place.places()
        outcome = place.command(*command.split(), *places)
        assert "Traceback" not in outcome.err
        assert all(sign.isprintable() or sign == "\n" for sign in outcome.out + outcome.err)
        if message is None:
            assert outcome.exit_code == 0, outcome.err
        else:
            assert outcome.exit_code == (2 if message in WRONG_REQUESTS else 1)
            assert outcome.err.strip().splitlines()[-1] == "error: " + message.format(run=place.run, size=size)
        assert not mark.exists(), command


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
