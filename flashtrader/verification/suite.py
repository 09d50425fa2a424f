"""Every attack, and what a run's verification comes to."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flashtrader import __version__
from flashtrader.errors import ConfigError
from flashtrader.files import write_json
from flashtrader.forecasting.forecast import forecast_run
from flashtrader.run import Run
from flashtrader.verification.checks import Attack, Check, Subject, carry_out
from flashtrader.verification.late import one_bar_late
from flashtrader.verification.leaks import fill_noise, future_noise, past_noise
from flashtrader.verification.mutants import mutants
from flashtrader.verification.open_bar import open_bar
from flashtrader.verification.trained import noise_only_market, planted_signal, shuffled_targets
from flashtrader.verification.training_leaks import training_noise, walk_forward_noise

ATTACKS: tuple[Attack, ...] = (
    future_noise,
    past_noise,
    fill_noise,
    training_noise,
    walk_forward_noise,
    open_bar,
    one_bar_late,
    shuffled_targets,
    noise_only_market,
    planted_signal,
    mutants,
)
"""In the order in which they are carried out."""


@dataclass(frozen=True)
class Verification:
    """What came of all attacks on a run."""

    run: Run
    full: bool
    checks: tuple[Check, ...]
    seconds: float

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that caught the run, or were worth nothing."""
        return tuple(check for check in self.checks if check.failed)

    def describe(self) -> dict[str, Any]:
        """Return what verify.json holds."""
        return {
            "run": str(self.run.path),
            "passed": not self.failed,
            "mode": "full" if self.full else "quick",
            "version": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": self.seconds,
            "checks": [asdict(check) for check in self.checks],
        }


def verify_run(run: Run, data_dir: Path, *, full: bool, watch: Callable[[Check], None]) -> Verification:
    """Attack a trained run; `watch` gets each check as soon as it is known. Writes verify.json into the run.

    Raises ConfigError for a run without a manifest, and what forecasting its test bars raises: each attack would say
    the same, as if it had caught the run.
    """
    if not (run.path / "manifest.json").is_file():
        raise ConfigError(f"{run.path}: not trained, so there is nothing to verify; train it, or give another --run")
    forecast_run(run, data_dir)
    (run.path / "verify.json").unlink(missing_ok=True)  # what an earlier one came to, if this one is cut short
    began = time.perf_counter()
    checks = []
    with tempfile.TemporaryDirectory(prefix="flashtrader-verify-") as scratch:
        for check in carry_out(ATTACKS, Subject(run, data_dir, Path(scratch), full)):
            watch(check)
            checks.append(check)
    verification = Verification(run, full, tuple(checks), time.perf_counter() - began)
    write_json(run.path / "verify.json", verification.describe())
    return verification
