"""What is read of a manifest, and in what words a damaged one is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import BOOKKEEPING, manifest_of, tiny
from flashtrader.errors import DataError
from flashtrader.manifest import read_manifest
from flashtrader.run import create_run

WHOLE = manifest_of(tiny())
SPLIT = BOOKKEEPING["split"]


def member(fold: int, seed: int = 0, **changes: Any) -> dict[str, Any]:
    return {"name": f"fold-{fold:02}-seed-{seed}", "fold": fold, "seed": seed, "status": "completed", **changes}


def without(part: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name != key}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "{",
            "damaged, not readable as JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char "
            "1))",
        ),
        ("[]", "not the manifest of a run, which holds an experiment"),
        ("{}", "not the manifest of a run, which holds an experiment"),
    ],
)
def test_a_file_that_is_none_says_so(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(DataError) as refused:
        read_manifest(path)
    assert str(refused.value) == f"{path}: {told}; restore it from a copy, or train the run again"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"experiment": {}}, "experiment: data: missing; it has no default"),
        ({"split": None}, "split: input should be a valid dictionary"),
        ({"split": without(SPLIT, "test_start_ms")}, "split.test_start_ms: field required"),
        (
            {"split": SPLIT | {"test_start_ms": "soon"}},
            "split.test_start_ms: input should be a valid integer, unable to parse string as an integer",
        ),
        (
            {"split": SPLIT | {"end_ms": 10**15}},
            "split.end_ms: input should be less than or equal to 253402300799000",
        ),
        ({"split": SPLIT | {"reach_bars": -1}}, "split.reach_bars: input should be greater than or equal to 0"),
        ({"folds": 1}, "folds: input should be a valid tuple"),
        ({"members": [1]}, "members.0: input should be a valid dictionary"),
        ({"folds": [SPLIT], "members": [without(member(1), "name")]}, "members.0.name: field required"),
        ({"members": [member(1)]}, "members: not one of each seed in each of the folds"),
        (
            {"folds": [SPLIT, SPLIT], "members": [member(1), member(1, 1), member(2)]},
            "members: not one of each seed in each of the folds",
        ),
        ({"training": {"steps": 9}}, "training.best_step: field required"),
        ({"device": "\x1b[2J CPU"}, "device: holds characters that can't be printed"),
    ],
)
def test_a_damaged_one_names_what_is_wrong(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(WHOLE | changes))
    with pytest.raises(DataError) as refused:
        read_manifest(path)
    assert str(refused.value) == f"{path}: {told}; restore it from a copy, or train the run again"


def test_a_run_that_has_not_begun_says_how_to_begin(tmp_path: Path) -> None:
    run = create_run(tmp_path, tiny())
    with pytest.raises(DataError) as refused:
        run.read_manifest()
    assert str(refused.value) == (
        f"{run.path}: nothing was trained in it; if its training was killed, begin it with: "
        f"flashtrader train --resume {run.path}"
    )
    run.write_manifest(WHOLE)
    assert run.read_manifest().experiment == run.experiment


def test_times_before_1970_are_told(tmp_path: Path) -> None:
    """Indices are older than the epoch; a time may be any that a calendar can tell."""
    run = create_run(tmp_path, tiny())
    run.write_manifest(WHOLE | {"split": SPLIT | {"end_ms": -62_135_596_800_000}})
    assert run.read_manifest().period["end"].year == 1
