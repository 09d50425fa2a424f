"""Runs the command line inside the test's process, and reads what it said."""

import json
import sys
from typing import Any, NamedTuple

import pytest

from flashtrader.cli import main


class Outcome(NamedTuple):
    exit_code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What `--json` printed: one object and nothing else."""
        return json.loads(self.out)


class Command:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capfd = monkeypatch, capfd

    def __call__(self, *arguments: object) -> Outcome:
        self._monkeypatch.setattr(sys, "argv", ["flashtrader", *map(str, arguments)])
        self._capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self._capfd.readouterr()
        return Outcome(ended.value.code or 0, out, err)

    def succeeds(self, *arguments: object) -> Outcome:
        outcome = self(*arguments)
        assert outcome.exit_code == 0, outcome.err
        return outcome

    def fails(self, exit_code: int, *arguments: object) -> str:
        """Return the one line that says why."""
        outcome = self(*arguments)
        assert outcome.exit_code == exit_code, outcome
        assert "Traceback" not in outcome.err
        *_, last = outcome.err.strip().splitlines()
        assert last.startswith("error: ")
        return last.removeprefix("error: ")
