import json
import math
from pathlib import Path

import pytest

from flashtrader.errors import DataError
from flashtrader.files import read_json, read_json_lines, replacing, write_json, write_text


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError), replacing(path) as temporary:
        temporary.write_text("half of the new" + "\ud800", encoding="utf-8")
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"a": math.nan, "b": [math.inf, 1.5], "c": (2,), "d": {"e": -math.inf}})
    assert json.loads(path.read_text()) == {"a": None, "b": [None, 1.5], "c": [2], "d": {"e": None}}


def test_damaged_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    with pytest.raises(DataError) as refused:
        read_json(path)
    assert str(refused.value) == f"{path}: missing, or not a file"
    path.write_text('{"a": ')
    with pytest.raises(DataError) as refused:
        read_json(path)
    assert str(refused.value) == (f"{path}: damaged, not readable as JSON (Expecting value: line 1 column 7 (char 6))")


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_json_lines(path) == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_json_lines(path) == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize(
    ("line", "damage"),
    [
        ("nonsense", "line 2, column 1: Expecting value"),
        ("[2]", "line 2: no object"),
    ],
)
def test_a_line_in_the_middle_that_is_none_is_damage(tmp_path: Path, line: str, damage: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(DataError) as refused:
        read_json_lines(path)
    assert str(refused.value) == (
        f"{path}: damaged, not readable as lines of JSON ({damage}); restore it from a copy, or delete it"
    )
