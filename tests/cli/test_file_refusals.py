"""Files of weights and of a run that are refused: the exact message and exit code at a command.

{root} stands for the directory of the test, {run} for its run. What `spoil` does, the row's command has to name.
"""

import json
import shutil
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from place import RESUME_SWEEP, TRAIN, WEIGHTS, Place, Spoil

RESUME = "train --resume tiny-001 --set training.max_steps=3"


def hours(first: int, count: int, ms: int = 3_600_000) -> list[int]:
    return [ms * (first + number) for number in range(count)]


def weights(times: object, **columns: object) -> Spoil:
    def spoil(place: Place) -> None:
        pd.DataFrame({"time": times} | columns).to_csv(place.root / "w.csv", index=False)

    return spoil


def into(name: str, content: str | bytes) -> Spoil:
    """Write a file, named from the place's directory."""
    return lambda place: (place.root / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def cut(*names: str) -> Spoil:
    """Take the end off files of the run."""

    def spoil(place: Place) -> None:
        for name in names:
            path = place.run / name
            path.write_bytes(path.read_bytes()[:-9])

    return spoil


def without(*names: str) -> Spoil:
    def spoil(place: Place) -> None:
        for name in names:
            (place.run / name).unlink()

    return spoil


def another_byte(place: Place) -> None:
    path = place.run / "checkpoints/best.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def wider(place: Place) -> None:
    path = place.run / "config.yaml"
    path.write_text(path.read_text().replace("width: 8", "width: 16"))


def weights_as_checkpoint(place: Place) -> None:
    checkpoints = place.run / "checkpoints"
    shutil.copy(checkpoints / "best.safetensors", checkpoints / "last.safetensors")


def manifest(**entries: object) -> Spoil:
    """Put entries into the manifest; None takes one out."""

    def spoil(place: Place) -> None:
        path = place.run / "manifest.json"
        changed = json.loads(path.read_text()) | entries
        path.write_text(json.dumps({key: value for key, value in changed.items() if value is not None}))

    return spoil


NO_JSON = "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
FILES = [
    (
        weights(hours(1, 3), AAA=[0.1, np.nan, 0.1], BB=0.1),
        WEIGHTS,
        1,
        "{root}/w.csv: column BB: not a symbol of the data (AAA, BBB); the nearest is BBB",
    ),
    (
        weights(hours(1, 3), AAA=[0.1, "buy", 0.1]),
        WEIGHTS,
        1,
        (
            "{root}/w.csv: column AAA, time 1970-01-01T02:00:00Z: buy is not a finite number; leave a"
            " cell empty for none"
        ),
    ),
    (weights(hours(1, 3), AAA=[np.nan] * 3), WEIGHTS, 1, "{root}/w.csv: no number in any column; every cell is empty"),
    (
        weights(hours(398, 3), AAA=0.1),
        WEIGHTS,
        1,
        (
            "{root}/w.csv: time 1970-01-17T16:00:00Z is not the opening time of a bar of the data: "
            "these look like closing times; label a row with its bar's opening time"
        ),
    ),
    (
        weights([3_600_000 * number - 1 for number in (2, 3, 4)], AAA=0.1),
        WEIGHTS,
        1,
        (
            "{root}/w.csv: time 1970-01-01T01:59:59Z is not the opening time of a bar of the data: "
            "these look like closing times; label a row with its bar's opening time"
        ),
    ),
    (
        weights(hours(1, 6, 900_000), AAA=0.1),
        WEIGHTS,
        1,
        (
            "{root}/w.csv: time 1970-01-01T00:15:00Z is not the opening time of a bar of the data: "
            "rows are 15 minutes apart, the data's interval is 60"
        ),
    ),
    (
        weights([7_200_000, 3_600_000], AAA=0.1),
        WEIGHTS,
        1,
        ("{root}/w.csv: time 1970-01-01T01:00:00Z comes after 1970-01-01T02:00:00Z; sort the rows, one a bar"),
    ),
    (
        cut("checkpoints/best.safetensors"),
        "predict",
        1,
        (
            "{run}/checkpoints/best.safetensors: damaged checkpoint (Error while deserializing "
            "header: incomplete metadata, file not fully covered); restore it from a copy, or train "
            "again"
        ),
    ),
    (
        without("checkpoints/best.safetensors"),
        "predict",
        1,
        (
            "{run}/checkpoints/best.safetensors: no such checkpoint; if the training was stopped before its "
            "first one, go on with `train --resume`, else restore a copy"
        ),
    ),
    (
        cut("plain/boosting.safetensors"),
        "predict",
        1,
        (
            "{run}/plain/boosting.safetensors: damaged checkpoint (Error while deserializing header: "
            "incomplete metadata, file not fully covered); restore it from a copy, or train again"
        ),
    ),
    (
        cut("forecasts.parquet"),
        "backtest",
        1,
        (
            "{run}/forecasts.parquet: damaged, not readable as a table (Parquet magic bytes not found"
            " in footer. Either the file is corrupted or this is not a parquet file.); make it again"
        ),
    ),
    (
        cut("plain/boosting.parquet"),
        "backtest",
        1,
        (
            "{run}/plain/boosting.parquet: damaged, not readable as a table (Parquet magic bytes not "
            "found in footer. Either the file is corrupted or this is not a parquet file.); make it "
            "again"
        ),
    ),
    (
        without("plain/boosting.parquet"),
        "backtest",
        1,
        ("{run}/plain/boosting.parquet: missing; make it, beside the run's own, with `flashtrader predict`"),
    ),
    (
        into("runs/tiny-001/manifest.json", "{"),
        "predict",
        1,
        "{run}/manifest.json: damaged, not readable as JSON (Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1)); restore it from a copy, or train the run again",
    ),
    (
        without("manifest.json"),
        "predict --run tiny-001",
        1,
        (
            "{run}: nothing was trained in it; if its training was killed, begin it with: flashtrader"
            " train --resume {run}"
        ),
    ),
    (
        without("manifest.json"),
        "verify --run tiny-001",
        2,
        "{run}: not trained, so there is nothing to verify; train it, or give another --run",
    ),
    (
        without("manifest.json"),
        "runs best",
        2,
        "no run in {root}/runs has the figure sharpe; make one with `flashtrader backtest`",
    ),
    (
        cut("checkpoints/last.safetensors", "checkpoints/previous.safetensors"),
        RESUME,
        1,
        "{run}/checkpoints/last.safetensors: damaged checkpoint (Error while deserializing header: incomplete "
        "metadata, file not fully covered); restore it from a copy, or train again",
    ),
    (
        another_byte,
        "predict",
        1,
        "{run}/checkpoints/best.safetensors: damaged checkpoint (its digest is wrong); restore it from a copy, or "
        "train again",
    ),
    (
        weights_as_checkpoint,
        "train --resume tiny-001 --set training.max_steps=9",
        1,
        "{run}/checkpoints/last.safetensors: the checkpoint does not fit the run's config.yaml; restore both from a "
        "copy, or train again",
    ),
    (
        wider,
        "predict",
        1,
        "{run}/checkpoints/best.safetensors: the weights do not fit the run's config.yaml; restore both from a "
        "copy, or train again",
    ),
    (
        into("runs/tiny-001/manifest.json", "[]"),
        "predict",
        1,
        "{run}/manifest.json: not the manifest of a run, which holds an experiment; restore it from a copy, or train "
        "the run again",
    ),
    (
        manifest(split=None),
        "train --from tiny-001",
        1,
        "{run}/manifest.json: split: field required; restore it from a copy, or train the run again",
    ),
    (
        manifest(experiment={}),
        "train --from tiny-001",
        1,
        "{run}/manifest.json: experiment: data: missing; it has no default; restore it from a copy, or train the run "
        "again",
    ),
    (
        manifest(experiment=None),
        "train --from tiny-001",
        1,
        "{run}/manifest.json: not the manifest of a run, which holds an experiment; restore it from a copy, or train "
        "the run again",
    ),
    (
        into("runs/tiny-001/metrics.jsonl", "{\n{}\n"),
        RESUME,
        1,
        "{run}/metrics.jsonl: damaged, not readable as lines of JSON (line 1, column 2: Expecting property name "
        "enclosed in double quotes); restore it from a copy, or delete it",
    ),
    (into("tiny.yaml", b"\xff\xfe\xff"), TRAIN, 2, "{root}/tiny.yaml: not UTF-8 text; give the path of a YAML file"),
    (into("tiny.yaml", "[]"), TRAIN, 2, "{root}/tiny.yaml: expected sections such as `data:` and `model:`, found list"),
    (
        into("w.txt", "time,AAA\n"),
        WEIGHTS.replace("w.csv", "w.txt"),
        2,
        "{root}/w.txt: forecasts and weights are read from .csv or .parquet files",
    ),
    (into("w.csv", ""), WEIGHTS, 1, "{root}/w.csv: empty; expected a column `time` and a column per symbol"),
    (
        into("w.csv", "time,AAA\n"),
        WEIGHTS,
        1,
        "{root}/w.csv: empty; expected a row per decision bar and a column per symbol",
    ),
    (
        into("w.csv", "AAA,BBB\n1,1\n"),
        WEIGHTS,
        1,
        "{root}/w.csv: no column `time`, found AAA, BBB; it holds the bars' opening times",
    ),
    (
        into("w.csv", "time,AAA\n1970-01-01T01:00,1\n,1\n"),
        WEIGHTS,
        1,
        "{root}/w.csv: row 2: no time; give each row its bar's opening time",
    ),
    (
        into("w.csv", "time,AAA\n1970-01-17T15:00,1\n"),
        WEIGHTS,
        1,
        "{root}/w.csv: the first decision, 1970-01-17T15:00:00Z, is the newest bar's, and no bar follows to fill it; "
        "begin earlier, or fetch more bars",
    ),
    (
        into("w.csv", "time,AAA\n1970-01-17T15:00,1\n"),
        WEIGHTS.replace("--weights", "--forecasts"),
        1,
        "weights from {root}/w.csv: the first decision, 1970-01-17T15:00:00Z, is the newest bar's, and no bar follows "
        "to fill it; begin earlier, or fetch more bars",
    ),
    (
        into("runs/s.json", "{"),
        RESUME_SWEEP,
        1,
        "{root}/runs/s.json: damaged, not readable as JSON (" + NO_JSON + "); restore it from a copy, or go on with "
        "its runs one by one",
    ),
    (
        into("runs/s.json", "{}"),
        RESUME_SWEEP,
        1,
        "{root}/runs/s.json: trials: field required; give the file of a sweep, or a run",
    ),
    (
        into("runs/s.json", '{"trials":[]}'),
        RESUME_SWEEP,
        1,
        "{root}/runs/s.json: trials: tuple should have at least 1 item after validation, not 0; give the file of a "
        "sweep, or a run",
    ),
    (
        into("runs/s.json", '{"trials":[{"run":"../x","values":{}}]}'),
        RESUME_SWEEP,
        1,
        "{root}/runs/s.json: trials.0.run: string should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]*$'; give the file "
        "of a sweep, or a run",
    ),
]


@pytest.mark.parametrize(("spoil", "command", "exit_code", "message"), FILES)
def test_what_can_t_be_read(
    tells_of_spoiled: Callable[[Spoil, str], tuple[int, str]], spoil: Spoil, command: str, exit_code: int, message: str
) -> None:
    assert tells_of_spoiled(spoil, command) == (exit_code, message)
