"""What `flashtrader bench context` prints."""

from flashtrader.benchmarks.context import Context, ContextBenchmark, Difference, Training
from flashtrader.cli.console import Table


def training_line(training: Training) -> str:
    """Return what is said of a training as soon as it is done."""
    return (
        f"context {training.context_bars:,}, seed {training.seed}: IC {training.ic:+.4f}, loss {training.loss:.5f}, "
        f"best at step {training.best_step:,}, {training.seconds:,.0f} s"
    )


def context_table(measured: ContextBenchmark) -> Table:
    """Return a row for each context: means over the seeds, and differences from the shortest."""
    return Table(
        f"{measured.experiment}, {measured.part} bars: {_trainings(measured)}",
        ("context", "sees", "IC", "of best", "more IC than the shortest", "loss", "less loss", "time", "memory"),
        [_row(measured, context) for context in measured.contexts],
    )


def _trainings(measured: ContextBenchmark) -> str:
    seeds = len(measured.trainings) // len(measured.contexts)
    return f"{seeds} training{'s' if seeds > 1 else ''} each, {measured.labelled_bars_per_step:,} labelled bars a step"


def _row(measured: ContextBenchmark, context: Context) -> tuple[str, ...]:
    return (
        f"{context.context_bars:,} bars",
        f"{context.receptive_bars:,}",
        f"{context.ic:.3f}",
        "?" if measured.best_ic is None else f"{context.ic / measured.best_ic:.0%}",
        _interval(context.ic_difference, 3),
        f"{context.loss:.4f}",
        _interval(context.loss_difference, 4),
        f"{context.seconds:,.0f} s",
        "?" if context.peak_bytes is None else f"{context.peak_bytes / 2**20:,.0f} MiB",
    )


def _interval(difference: Difference | None, digits: int) -> str:
    if difference is None:
        return "–"
    return f"{difference.estimate:+.{digits}f} [{difference.low:+.{digits}f}, {difference.high:+.{digits}f}]"
