"""What `flashtrader train --from` says before and after it trains a run again."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashtrader.cli.console import say

if TYPE_CHECKING:
    from flashtrader.training.reproduce import Reproduction
    from flashtrader.training.summary import TrainingSummary


def plan(origin: str, data_dir: Path, runs_dir: Path, *, allow_changed_data: bool) -> "Reproduction":
    """Return what is to be trained, after saying what has changed since.

    Raises ConfigError when there is no such run, DataError when the stored data have changed and that is not allowed.
    """
    from flashtrader.errors import DataError
    from flashtrader.training.reproduce import plan_reproduction

    planned = plan_reproduction(_manifest_of(origin, runs_dir), data_dir)
    for change in planned.changed_machine:
        say(f"not as it was: {change}")
    if planned.changed_data:
        changes = "; ".join(planned.changed_data)
        if not allow_changed_data:
            raise DataError(
                f"{data_dir}: not the data of {planned.origin} ({changes}); bring the old bars back, or train on these "
                "with --allow-changed-data"
            )
        say(f"not as it was: {changes}")
    return planned


def outcome(planned: "Reproduction", summary: "TrainingSummary") -> dict[str, Any]:
    """Return what came of it, for `--json`: `identical` is null where there is nothing to compare with."""
    from flashtrader.training.stopping import FINISHED

    compared = planned.has_weights and summary.stopped in FINISHED
    differing = planned.differing_weights(summary) if compared else []
    return {
        "of": str(planned.origin),
        "identical": not differing if compared else None,
        "models": len(planned.manifest.weights),
        "differing": differing,
        "changed_data": planned.changed_data,
        "changed_machine": planned.changed_machine,
    }


def conclude(planned: "Reproduction", came: dict[str, Any]) -> None:
    """Say whether the weights are identical. Raises TrainingError when they should be and are not."""
    from flashtrader.errors import TrainingError
    from flashtrader.report.formats import counted

    if came["identical"] is None:
        return say(f"{planned.origin}: its training did not end, so there are no weights to compare with")
    if came["identical"]:
        return say(f"identical weights: {counted(came['models'], 'model')}, bit for bit those of {planned.origin}")
    changed = (*planned.changed_data, *planned.changed_machine)
    why = "; ".join(changed) if changed else "though data, versions and machine are as they were"
    message = f"other weights than those of {planned.origin} in {', '.join(came['differing'])}: {why}"
    if planned.changed_data:
        return say(message)
    raise TrainingError(message)


def _manifest_of(origin: str, runs_dir: Path) -> Path:
    from flashtrader.errors import ConfigError

    for path in (Path(origin), Path(origin, "manifest.json"), runs_dir / origin / "manifest.json"):
        if path.is_file():
            return path
    raise ConfigError(f"--from {origin}: no manifest and no run here or in {runs_dir}; give runs/NAME/manifest.json")
