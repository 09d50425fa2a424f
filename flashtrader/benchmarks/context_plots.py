"""The picture of the context benchmark."""

import math
from pathlib import Path

from matplotlib.figure import Figure

from flashtrader.benchmarks.context import CONFIDENCE, ContextBenchmark
from flashtrader.files import replacing


def plot_context(measured: ContextBenchmark, path: Path) -> Path:
    """Draw score, time and memory against context, and return the picture's path."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    score, seconds, memory = figure.subplots(1, 3)
    bars = [context.context_bars for context in measured.contexts]
    ics = [context.ic for context in measured.contexts]
    score.scatter(
        [training.context_bars for training in measured.trainings],
        [training.ic for training in measured.trainings],
        s=14,
        color="0.6",
        label="a training",
    )
    score.plot(bars, ics, marker="o", color="C0", label="mean of the seeds")
    for context in measured.contexts:
        if (difference := context.ic_difference) is not None:
            ends = [ics[0] + difference.low, ics[0] + difference.high]
            score.plot([context.context_bars] * 2, ends, color="C0", alpha=0.4, linewidth=5)
    if measured.best_ic is not None:
        score.axhline(measured.best_ic, color="C2", linestyle="--", label="best achievable")
    score.set_title(
        f"{measured.part} IC; bars: {CONFIDENCE:.0%} interval\nof the difference from the shortest", fontsize=10
    )
    score.legend(frameon=False, fontsize=9)
    seconds.plot(bars, [context.seconds for context in measured.contexts], marker="o")
    seconds.set_title("seconds of a training", fontsize=10)
    peaks = [context.peak_bytes for context in measured.contexts]
    memory.plot(bars, [math.nan if peak is None else peak / 2**20 for peak in peaks], marker="o")
    memory.set_title("peak memory of a step, MiB", fontsize=10)
    for axis in (score, seconds, memory):
        axis.set_xscale("log", base=2)
        axis.set_xticks(bars, [f"{length:,}" for length in bars])
        axis.minorticks_off()
        axis.set_xlabel("context, bars")
        axis.grid(visible=True, alpha=0.3)
    for axis in (seconds, memory):
        axis.set_ylim(0, 1.15 * axis.get_ylim()[1])
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    return path
