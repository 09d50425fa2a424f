"""A directory with data, a config, and the commands at work in it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from command import Command
from panels import store_bars


class Place:
    """`data` with bars from files, `tiny.yaml`, and `runs` with, once it is trained, `tiny-001`."""

    def __init__(
        self,
        root: Path,
        flashtrader: Command,
        settings: Mapping[str, Any] | None = None,
        bars: Mapping[str, pd.DataFrame] | None = None,
    ) -> None:
        """Make it; without settings and bars, take it as it is."""
        self.root, self.command = root, flashtrader
        self.config = root / "tiny.yaml"
        if settings is not None:
            self.config.write_text(yaml.safe_dump(dict(settings)))
        self.run = root / "runs" / "tiny-001"
        for symbol, table in (bars or {}).items():
            store_bars(root / "data", symbol, table)

    def places(self, data: str = "data") -> tuple[object, ...]:
        return ("--data-dir", self.root / data, "--runs-dir", self.root / "runs")

    def __call__(self, *arguments: object, data: str = "data") -> Any:
        """Run a command that must succeed; return its JSON."""
        return self.command.succeeds(*arguments, *self.places(data), "--json").json

    def fails(self, exit_code: int, *arguments: object, data: str = "data") -> str:
        """Run a command that must fail; return its one line."""
        return self.command.fails(exit_code, *arguments, *self.places(data))

    def tells(self, command: str) -> tuple[int, str]:
        """Return how a command ends: its exit code and its one line, with {root} and {run} in place of paths."""
        words = command.replace("{root}", str(self.root)).split()
        for option, directory in (("--data-dir", "data"), ("--runs-dir", "runs")):
            if option not in words:
                words += [option, str(self.root / directory)]
        outcome = self.command(*words)
        assert "Traceback" not in outcome.err
        line = "".join(outcome.err.strip().splitlines()[-1:]).removeprefix("error: ")
        return outcome.exit_code, line.replace(str(self.run), "{run}").replace(str(self.root), "{root}")


Spoil = Callable[[Place], object]
"""What is done to a place before a command that then fails."""
TRAIN = "train --config {root}/tiny.yaml"
RESUME_SWEEP = "train --resume {root}/runs/s.json"
WEIGHTS = "backtest --weights {root}/w.csv --config {root}/tiny.yaml"
