"""`flashtrader backtest --compare`."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from flashtrader.cli.console import Table, show
from flashtrader.report.metric_names import VERDICTS_AGE

_LONGEST_NAME = 120


def compare_backtests(
    names: Sequence[str], runs_dir: Path, out: Path | None, as_json: bool, *, asked: bool, trading: Sequence[str]
) -> None:
    """Put the backtests of runs on one page, and show their verdicts and figures.

    out: the page; in `runs_dir` unless given. asked: whether --compare was there. trading: the options that were
    given and only go with a backtest that is to be made.
    """
    from flashtrader.errors import ConfigError
    from flashtrader.report.comparison import compare_runs, read_traded, write_comparison
    from flashtrader.report.formats import counted
    from flashtrader.report.origin import utc
    from flashtrader.run import find_run

    if not asked:
        raise ConfigError(f"{names[0]}: runs by name go with --compare; to trade one run's forecasts give --run")
    if trading:
        raise ConfigError(f"{trading[0]}: does not go with --compare, which trades nothing")
    comparison = compare_runs([read_traded(find_run(runs_dir, name)) for name in names])
    path = out or runs_dir / f"compare-{_joined([run.name for run in comparison.runs])}.html"
    write_comparison(comparison, path)
    columns = ("run", "total return", "largest drawdown", "Sharpe ratio", "less the first's", "95 %")
    summary = comparison.summary()
    timestamps = comparison.timestamps
    notes = [
        *(f"{run.name}: {run.told['verdict']}" for run in comparison.runs),
        VERDICTS_AGE,
        f"over the {counted(len(timestamps), 'bar')} in common, {utc(timestamps[0])} to {utc(timestamps[-1])}",
        f"page: {path}",
    ]
    show([Table("Backtests compared", columns, comparison.rows())], {"page": str(path)} | summary, as_json, notes)


def _joined(names: Sequence[str]) -> str:
    """Return the names as a part of a file's name; where that would be too long, the first and a digest of all."""
    joined = "-".join(names)
    if len(joined) <= _LONGEST_NAME:
        return joined
    return f"{names[0][:_LONGEST_NAME]}-{hashlib.sha256(joined.encode()).hexdigest()[:8]}"
