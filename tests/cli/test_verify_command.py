"""`flashtrader verify`: what it prints and writes, and with which exit code it ends."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from command import Command
from flashtrader.verification.checks import Check, Subject
from flashtrader.verification.leaks import past_noise
from flashtrader.verification.open_bar import open_bar
from panels import random_bars
from place import Place

SETTINGS = {
    "data": {"source": "file", "symbols": ["AAA", "BBB"], "interval": "60"},
    "panel": {"features": ["log_return"], "target": {"kind": "log_return", "horizon_bars": 3}},
    "model": {"family": "ridge", "context_bars": 8},
}


def leaky(_subject: Subject) -> Iterator[Check]:
    yield Check("peeking", "looked", "failed", "it peeked", {"share_seen": 0.12345, "bars": 1_200})


@pytest.fixture
def trained(tmp_path: Path, flashtrader: Command, monkeypatch: pytest.MonkeyPatch) -> Place:
    place = Place(tmp_path, flashtrader, SETTINGS, {"AAA": random_bars(400, 1), "BBB": random_bars(400, 2)})
    place("train", "--config", place.config)
    monkeypatch.setattr("flashtrader.verification.suite.ATTACKS", (past_noise, open_bar))
    return place


def test_a_run_that_passes(trained: Place) -> None:
    outcome = trained.command.succeeds("verify", "--run", "tiny-001", *trained.places())
    assert "passed  past noise: fills" in outcome.out
    assert "2 passed, 0 failed, 0 skipped" in outcome.out
    written = json.loads((trained.run / "verify.json").read_text())
    assert written["passed"] is True
    assert written["mode"] == "quick"
    assert [check["name"] for check in written["checks"]] == ["past noise: fills", "open bar"]
    for check in written["checks"]:
        assert set(check) == {"name", "tried", "outcome", "reason", "figures", "seconds"}


def test_json_is_what_is_written(trained: Place) -> None:
    said = trained("verify", "--full")
    assert said == json.loads((trained.run / "verify.json").read_text())
    assert said["mode"] == "full"


def test_a_failed_check_is_told_and_ends_in_1(trained: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashtrader.verification.suite.ATTACKS", (leaky,))
    outcome = trained.command("verify", *trained.places())
    assert outcome.exit_code == 1
    assert re.sub(r"\d+\.\d s", "0.0 s", outcome.out).splitlines() == [
        "failed  peeking  (0.0 s)",
        "        looked",
        "        share seen 0.123, bars 1,200",
        "        it peeked",
        f"{trained.run}: 0 passed, 1 failed, 0 skipped, in 0 s: {trained.run}/verify.json",
    ]
    assert outcome.err == ""
    assert json.loads((trained.run / "verify.json").read_text())["passed"] is False


def test_a_verification_cut_short_leaves_no_earlier_one_in_its_place(
    trained: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained("verify")

    def interrupted(_subject: Subject) -> Iterator[Check]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("flashtrader.verification.suite.ATTACKS", (interrupted,))
    assert trained.command("verify", *trained.places()).exit_code != 0
    assert not (trained.run / "verify.json").exists()


def test_missing_bars_are_told_once(trained: Place) -> None:
    assert trained.tells("verify --data-dir {root}/elsewhere") == (
        1,
        "{root}/elsewhere/file/AAA/60: no bars of AAA 60 from file; get them with `flashtrader fetch --source file "
        "--path FILES --symbols AAA --interval 60`",
    )
    assert not (trained.run / "verify.json").exists()


def test_a_run_that_was_never_trained_is_not_verified(trained: Place) -> None:
    (trained.run / "manifest.json").unlink()
    trained.fails(2, "verify", "--run", "tiny-001")
    assert not (trained.run / "verify.json").exists()
