"""Tables of `bench throughput` and `bench memory`."""

from collections.abc import Sequence

from flashtrader.benchmarks.memory import TrainingMemory
from flashtrader.benchmarks.throughput import AIMS, Throughput, Work
from flashtrader.cli.console import Table

_PLAIN_NAMES = {
    "forecast": "forecast a history",
    "train_labels": "learn from labels",
    "train_step": "one training step",
    "attention_window": "windowed attention",
    "attention_auto": "attention by `auto`",
    "attention_memory": "attention, peak",
    "panel_memory": "data preparation, peak",
    "backtest": "backtest",
    "fetch": "fetch",
}


def one_line(row: Work) -> str:
    """Return a row as a line of progress."""
    ours, reference = _number(row.ours, row.unit), _number(row.reference, row.unit)
    return f"{row.work}: {ours} {_shown(row.unit)}, the plain way {reference}"


def throughput_table(measured: Throughput) -> Table:
    """Return the figures."""
    body = [
        (
            _PLAIN_NAMES[row.work],
            _shown(row.unit),
            _number(row.ours, row.unit),
            _number(row.reference, row.unit),
            _times(row.ratio),
            _times(AIMS[row.work]) if row.work in AIMS else "",
        )
        for row in measured.rows
    ]
    return Table("Throughput and memory", ("work", "unit", "flashtrader", "plain way", "better by", "aim"), body)


def meanings(measured: Throughput) -> list[str]:
    """Return a line for each work: how much of it was done, and what the plain way is."""
    return [f"{_PLAIN_NAMES[row.work]}: {row.size}. Plain way: {row.reference_is}." for row in measured.rows]


def memory_table(rows: Sequence[TrainingMemory]) -> Table:
    """Return the estimates beside the measurements."""
    body = [
        (
            row.config,
            *("–" if size is None else _number(size, "bytes") for size in (row.estimated_bytes, row.measured_bytes)),
            "" if row.ratio is None else f"{100 * (row.ratio - 1):+.1f} %",
        )
        for row in rows
    ]
    return Table("Peak memory of training, MiB", ("config", "train --dry-run says", "measured", "difference"), body)


def _times(ratio: float) -> str:
    return f"{ratio:,.2f}×" if ratio < 2 else f"{ratio:,.1f}×" if ratio < 100 else f"{ratio:,.0f}×"


def _shown(unit: str) -> str:
    return "MiB" if unit == "bytes" else unit


def _number(value: float, unit: str) -> str:
    """Return a figure in the unit that is shown, in steps that a reader can take in."""
    value = value / 2**20 if unit == "bytes" else value
    for name, size in (("M", 1e6), ("k", 1e3)):
        if unit.endswith("/s") and value >= 10 * size:
            return f"{value / size:,.0f} {name}"
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"
