"""`flashtrader fetch --check`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashtrader.cli.console import Table, say, show

if TYPE_CHECKING:
    from flashtrader.market.audit import Audit, History
    from flashtrader.market.repair import Repair

OPTIONS = frozenset(
    {"symbols", "source", "kind", "interval", "path", "base_url", "check", "repair", "data_dir", "runs_dir", "as_json"}
)
"""The options of `fetch` that go with `--check`."""


@dataclass(frozen=True)
class Wanted:
    """Which of the stored histories; None, and no symbols, are all."""

    symbols: Sequence[str]
    source: str | None
    kind: str | None
    interval: str | None

    def holds(self, history: "History") -> bool:
        """Tell whether a history is one of them."""
        return (
            (not self.symbols or history.symbol in self.symbols)
            and self.source in (None, history.source.partition("-")[0])
            and self.kind in (None, history.kind)
            and (self.interval is None or (history.kind == "bars" and history.interval.code == self.interval))
        )


def check_histories(
    data_dir: Path, wanted: Wanted, mend: bool, path: Path | None, base_url: str | None, as_json: bool
) -> None:
    """Audit what is stored, and repair it if asked to; exit with 1 when something is left that is wrong."""
    from flashtrader.errors import ConfigError, DataError
    from flashtrader.market.audit import audit, stored_histories
    from flashtrader.market.repair import repair

    if not mend and (path or base_url):
        raise ConfigError(f"{'--path' if path else '--base-url'} goes with --repair: a check asks no source")
    histories = [history for history in stored_histories(data_dir) if wanted.holds(history)]
    if not histories:
        raise DataError(f"{data_dir}: nothing of this is stored; `flashtrader fetch` without --check gets it")
    audits = [audit(data_dir, history) for history in histories]
    repairs = {
        str(found.history): repair(data_dir, found.history, path, base_url)
        for found in audits
        if mend and found.findings
    }
    _show(audits, repairs, data_dir, as_json)
    for found in audits:
        for finding in found.findings:
            say(f"{'found' if mend else 'error'}: {finding.problem}")
    for mended in repairs.values():
        for place in mended.set_aside:
            say(f"set aside: {place}")
        for line in mended.left:
            say(f"error: {line}")
    if any(mended.left for mended in repairs.values()) or (not mend and any(found.findings for found in audits)):
        sys.exit(1)


def _show(audits: "Sequence[Audit]", repairs: "dict[str, Repair]", data_dir: Path, as_json: bool) -> None:
    def state(found: "Audit") -> str:
        mended = repairs.get(str(found.history))
        if not found.findings:
            return "whole"
        if mended is None:
            return f"{len(found.findings)} wrong"
        return f"{len(mended.left)} left" if mended.left else f"repaired, {mended.fetched:,} rows fetched again"

    def told(found: "Audit") -> dict[str, Any]:
        mended = repairs.get(str(found.history))
        return {
            "parts": found.parts,
            "rows": found.rows,
            "findings": [
                {"path": str(finding.path), "problem": finding.problem, "remedy": finding.remedy}
                for finding in found.findings
            ],
            "repair": None
            if mended is None
            else {
                "set_aside": [str(place) for place in mended.set_aside],
                "fetched": mended.fetched,
                "left": list(mended.left),
            },
        }

    def held(found: "Audit") -> int:
        mended = repairs.get(str(found.history))
        return found.rows + (mended.fetched if mended else 0)

    rows = [(str(found.history), f"{found.parts:,}", f"{held(found):,}", state(found)) for found in audits]
    payload = {"data_dir": str(data_dir), "histories": {str(found.history): told(found) for found in audits}}
    show([Table(f"Stored in {data_dir}", ("history", "parts", "rows", "state"), rows)], payload, as_json)
