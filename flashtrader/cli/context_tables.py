"""What `flashtrader bench context` prints."""

from flashtrader.benchmarks.context import CONFIDENCE, ContextBenchmark, Training
from flashtrader.benchmarks.paired import Difference
from flashtrader.cli.console import Table


def training_line(training: Training) -> str:
    """Return what is said of a training as soon as it is done."""
    return (
        f"context {training.context_bars:,}, seed {training.seed}: IC {training.ic:+.4f}, loss {training.loss:.5f}, "
        f"best at step {training.best_step:,}, {training.seconds:,.0f} s"
    )


def context_tables(measured: ContextBenchmark) -> list[Table]:
    """Return score, and loss with what it cost, of each context: means over the seeds, less the shortest's."""
    seeds = len(measured.trainings) // len(measured.contexts)
    trainings = (
        f"{seeds} training{'s' if seeds > 1 else ''} each, {measured.labelled_bars_per_step:,} labelled bars a step"
    )
    interval = f"{CONFIDENCE:.0%} interval"
    return [
        Table(
            f"{measured.experiment}: IC on the {measured.part} bars, {trainings}",
            ("context", "sees", "IC", "of best", "above the first", interval),
            [
                (
                    f"{context.context_bars:,} bars",
                    f"{context.receptive_bars:,}",
                    f"{context.ic:.3f}",
                    "?" if measured.best_ic is None else f"{context.ic / measured.best_ic:.0%}",
                    *_difference(context.ic_difference, 3),
                )
                for context in measured.contexts
            ],
        ),
        Table(
            "Loss, and the cost of a training",
            ("context", "loss", "above the first", interval, "time", "memory"),
            [
                (
                    f"{context.context_bars:,} bars",
                    f"{context.loss:.4f}",
                    *_difference(context.loss_difference, 4),
                    f"{context.seconds:,.0f} s",
                    "?" if context.peak_bytes is None else f"{context.peak_bytes / 2**20:,.0f} MiB",
                )
                for context in measured.contexts
            ],
        ),
    ]


def _difference(difference: Difference | None, digits: int) -> tuple[str, str]:
    if difference is None:
        return "–", "–"
    low, high = (f"{end:+.{digits}f}" for end in (difference.low, difference.high))
    return f"{difference.estimate:+.{digits}f}", f"{low} to {high}"
