"""The measurement of long histories, in small: what it counts is there to be counted."""

from pathlib import Path

from long_history import TIMES, measure


def test_two_parts_are_read_however_many_there_are(tmp_path: Path) -> None:
    figures = measure(100_000, tmp_path)
    assert figures["parts"] >= 5
    assert 1 <= figures["parts_read_by_all_extensions"] <= 2
    assert len(figures["extension_seconds"]) == TIMES
