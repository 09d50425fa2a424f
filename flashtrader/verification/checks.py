"""What an attack on a run is, and what came of it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from flashtrader.config import Experiment
from flashtrader.errors import FlashtraderError, printable
from flashtrader.run import Run

Outcome = Literal["passed", "failed", "skipped"]
Figure = float | int | str | bool | None


@dataclass(frozen=True)
class Check:
    """What came of one attack."""

    name: str
    """A few words: `future noise: forecasts`."""
    tried: str
    """What was done to the run, one sentence."""
    outcome: Outcome
    reason: str = ""
    """Why it failed or was skipped; empty where it passed."""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    """What was measured, in the order to show it; ends up in verify.json as it is."""
    seconds: float = 0.0
    """How long it took; `carry_out` fills it in."""

    @property
    def failed(self) -> bool:
        """Whether the run was caught."""
        return self.outcome == "failed"

    @property
    def void(self) -> bool:
        """Whether it failed because nothing was attacked: such a reason ends in that word."""
        return self.failed and self.reason.endswith("void")


@dataclass(frozen=True)
class Subject:
    """The run under attack. An attack writes into `scratch` alone: neither the run nor its data are touched."""

    run: Run
    data_dir: Path
    """Of the bars, or books, that the run forecasts."""
    scratch: Path
    """An empty directory for everything that the attacks of one `verify` write, deleted afterwards."""
    full: bool = False
    """More cuts, longer trainings; else everything together stays below two minutes on two CPU cores."""

    @property
    def experiment(self) -> Experiment:
        """The run's resolved experiment."""
        return self.run.experiment

    def directory(self, name: str) -> Path:
        """Return a new empty directory in `scratch`."""
        number = sum(path.name.startswith(f"{name}-") for path in self.scratch.iterdir())
        path = self.scratch / f"{name}-{number}"
        path.mkdir()
        return path


Attack = Callable[[Subject], Iterator[Check]]
"""Yields a check as soon as it is known, one or several. All attacks are listed in `verification.suite.ATTACKS`."""


def carry_out(attacks: Sequence[Attack], subject: Subject) -> Iterator[Check]:
    """Yield each attack's checks as they come, with the seconds that each took.

    An attack that breaks off, whatever the error, is a failed check: it has shown nothing, and must not pass for one
    that did.
    """
    for attack in attacks:
        began = time.perf_counter()
        try:
            for check in attack(subject):
                now = time.perf_counter()
                yield replace(check, seconds=now - began)
                began = now
        except Exception as error:
            name = attack.__name__.replace("_", " ")
            tried = "began, and could not go on"
            yield Check(name, tried, "failed", told(error), seconds=time.perf_counter() - began)


def told(error: Exception) -> str:
    """Return what an error says, in a line; with its type unless it was written for users."""
    return str(error) if isinstance(error, FlashtraderError) else printable(f"{type(error).__name__}: {error}")
