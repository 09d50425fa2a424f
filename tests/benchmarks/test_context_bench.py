import numpy as np
import pytest

from flashtrader.benchmarks.context import Context, ContextBenchmark, with_common_segments
from flashtrader.benchmarks.machine import Machine
from flashtrader.benchmarks.paired import Difference
from flashtrader.config import DataConfig, Experiment, ModelConfig, TrainingConfig

MACHINE = Machine(cpu="", cores=1, threads=1, device="cpu", torch="", cuda=None, python="", platform="")


@pytest.mark.parametrize("labels", ["all", "last"])
@pytest.mark.parametrize("longest_bars", [64, 512, 4096])
def test_every_context_fits_and_a_step_keeps_its_labels(longest_bars: int, labels: str) -> None:
    experiment = Experiment(
        data=DataConfig(symbols=("AAA",)),
        model=ModelConfig(context_bars=256),
        training=TrainingConfig(segment_bars=1024, batch_size=16, labels=labels),
    )
    common = with_common_segments(experiment, longest_bars)
    assert common.training.segment_bars == max(1024, 2 * longest_bars)
    assert common.warmup_bars == longest_bars
    wanted, found = (
        made.training.batch_size * (made.training.segment_bars - made.unlabelled_bars) for made in (experiment, common)
    )
    assert abs(found - wanted) <= (common.training.segment_bars - common.unlabelled_bars) / 2


def benchmark(*scores: tuple[float, float, float]) -> ContextBenchmark:
    """Return a benchmark whose longer contexts have these ICs and intervals of the difference from 0.1."""
    shortest = Context(64, 64, 0.1, 0.5, 1.0, None, None, None)
    longer = [
        Context(64 << number, 64, ic, 0.5, 1.0, None, Difference(ic - 0.1, low, high), None)
        for number, (ic, low, high) in enumerate(scores, start=1)
    ]
    return ContextBenchmark("made-up", "validation", 512, 256, 1, 256, (shortest, *longer), (), 0.4, MACHINE)


def test_the_verdict_follows_the_intervals() -> None:
    assert benchmark((0.2, 0.05, 0.15), (0.3, 0.1, 0.3), (0.35, -0.1, 0.6)).verdict == (
        "Longer context pays on these validation bars: 256 bars reach an IC of 0.300, 75% of the best achievable "
        "0.400, 0.200 above 64 bars (difference +0.100 to +0.300, 95% confidence)."
    )
    assert benchmark((0.05, -0.08, -0.02)).verdict.startswith("Longer context costs on these validation bars: 128 bars")
    assert benchmark((0.2, -0.1, 0.3)).verdict.startswith("No longer context can be told apart from 64 bars")
    assert benchmark((np.nan, np.nan, np.nan)).verdict.startswith("No longer context can be told apart")
