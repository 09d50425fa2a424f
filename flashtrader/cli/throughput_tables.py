"""Tables of `bench throughput` and `bench memory`."""

from collections.abc import Sequence

from flashtrader.benchmarks.memory import TrainingMemory
from flashtrader.benchmarks.throughput import AIMS, Throughput, Work
from flashtrader.cli.console import Table

_PLAIN_NAMES = {
    "forecast": "forecast a history",
    "train_labels": "learn from labels",
    "train_step": "one training step",
    "attention_window": "attention in a window",
    "attention_auto": "attention, auto's choice",
    "attention_memory": "attention, peak memory",
    "panel_memory": "prepare data, peak memory",
    "backtest": "backtest",
    "fetch": "fetch bars",
}

_BYTES = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


def one_line(row: Work) -> str:
    """Return a row as a line of progress."""
    return f"{row.work}: {_amount(row.ours, row.unit)}, plainly {_amount(row.reference, row.unit)}"


def throughput_tables(measured: Throughput) -> list[Table]:
    """Return the figures, and what they are figures of."""
    figures = [
        (
            _PLAIN_NAMES[row.work],
            _amount(row.ours, row.unit),
            _amount(row.reference, row.unit),
            _times(row.ratio),
            _times(AIMS[row.work]) if row.work in AIMS else "",
        )
        for row in measured.rows
    ]
    meanings = [(_PLAIN_NAMES[row.work], row.size, row.reference_is) for row in measured.rows]
    return [
        Table("Throughput and memory", ("work", "flashtrader", "plain way", "better by", "aim"), figures),
        Table("What was measured", ("work", "size", "the plain way"), meanings),
    ]


def memory_table(rows: Sequence[TrainingMemory]) -> Table:
    """Return the estimates beside the measurements."""
    body = [
        (
            row.config,
            _amount(row.estimated_bytes, "bytes"),
            "not measurable here" if row.measured_bytes is None else _amount(row.measured_bytes, "bytes"),
            "" if row.ratio is None else f"{100 * (row.ratio - 1):+.1f} %",
        )
        for row in rows
    ]
    return Table("Peak memory of training", ("config", "estimated by --dry-run", "measured", "difference"), body)


def _times(ratio: float) -> str:
    return f"{ratio:,.2f}×" if ratio < 2 else f"{ratio:,.1f}×" if ratio < 100 else f"{ratio:,.0f}×"


def _amount(value: float, unit: str) -> str:
    """Return a figure with its unit, in steps that a reader can take in."""
    if unit == "bytes":
        name, size = next((step for step in _BYTES if value >= step[1]), _BYTES[-1])
        return f"{value / size:,.1f} {name}"
    if unit.endswith("/s") and value >= 1e4:
        return f"{value / 1e6:,.0f} M {unit}" if value >= 1e7 else f"{value / 1e3:,.0f} k {unit}"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:,.1f} {unit}"
