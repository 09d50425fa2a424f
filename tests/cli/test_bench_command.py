import json
from pathlib import Path

from command import Command


def test_attention_is_measured_and_what_is_not_says_why(flashtrader: Command, tmp_path: Path) -> None:
    found = flashtrader.succeeds(
        "bench", "attention", "--lengths", "64,32", "--window", 16, "--max-seconds", 0.2, "--out", tmp_path, "--json"
    ).json
    assert found == json.loads((tmp_path / "attention.json").read_text())
    measured = {row["backend"] for row in found["rows"] if row["milliseconds"] is not None}
    assert {"naive", "tiled", "sdpa", "nn.MultiheadAttention"} <= measured
    assert {row["length"] for row in found["rows"]} == {32, 64}
    assert all(row["milliseconds"] or row["no_number"] for row in found["rows"])
    for name in ("attention_time.png", "attention_memory.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
