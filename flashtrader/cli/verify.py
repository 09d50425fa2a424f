"""`flashtrader verify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flashtrader.cli.console import AsJson, DataDir, RunName, RunsDir, say

if TYPE_CHECKING:
    from flashtrader.verification.checks import Check


def verify(
    context: typer.Context,
    run: RunName = None,
    full: Annotated[
        bool, typer.Option("--full", help="More cuts and longer trainings: minutes instead of seconds.")
    ] = False,
    data_dir: DataDir = Path("data"),
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Try to catch a run cheating, and say what was tried.

    Other futures, other pasts and an open bar are put under the run, through
    the functions that train, predict and backtest call: nothing that was
    decided before may change by a bit. Its forecasts are acted on late. It is
    trained again, smaller, on targets of other times, on noise, and on a rule
    that is known. Then leaks are built into the pipeline on purpose: each must
    be caught. Neither the run nor its data are changed,
    but for the run's verify.json.

    Exit 0: every check passed. 1: one failed.
    """
    import json

    from flashtrader.files import finite
    from flashtrader.run import find_run
    from flashtrader.verification.suite import verify_run

    chosen = find_run(runs_dir, run)
    context.with_resource(chosen.alone())
    tell = say if as_json else typer.echo

    def show(check: "Check") -> None:
        for line in describe(check):
            tell(line)

    verification = verify_run(chosen, data_dir, full=full, watch=show)
    counts = {outcome: sum(check.outcome == outcome for check in verification.checks) for outcome in _OUTCOMES}
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    tell(f"{chosen.path}: {told}, in {verification.seconds:.0f} s: {chosen.path / 'verify.json'}")
    if as_json:
        typer.echo(json.dumps(finite(verification.describe()), indent=2, allow_nan=False))
    if verification.failed:
        raise typer.Exit(1)


_OUTCOMES = ("passed", "failed", "skipped")


def describe(check: "Check") -> list[str]:
    """Return the lines that tell of a check."""
    figures = ", ".join(f"{name.replace('_', ' ')} {_figure(value)}" for name, value in check.figures.items())
    lines = (f"{check.outcome:<8}{check.name}  ({check.seconds:.1f} s)", check.tried, figures, check.reason)
    return [lines[0], *(f"        {line}" for line in lines[1:] if line)]


def _figure(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
