"""Is the estimate of a training's memory what a training takes?"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from flashtrader.benchmarks.memory import measure_training
from flashtrader.benchmarks.peak_memory import PeakMemory
from flashtrader.config import load_config
from flashtrader.training.budget import estimate, rehearse, untrained_model
from flashtrader.training.memory import step_peak_bytes

SMOKE = Path(__file__).parents[2] / "configs" / "smoke" / "returns.yaml"
LARGER = ["training.segment_bars=512", "model.width=32"]


@pytest.fixture(scope="module")
def memory() -> Iterator[PeakMemory]:
    with PeakMemory(torch.device("cpu")) as memory:
        yield memory


@pytest.mark.skipif(sys.platform != "linux", reason="reads the high-water mark from /proc")
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param([], id="as it is"),
        pytest.param(["model.dropout=0.1", *LARGER], id="dropout"),
        pytest.param(["model.attention=naive", *LARGER], id="the matrix of weights"),
        pytest.param(["training.accumulate=2", "model.width=256", "model.context_bars=128"], id="gradients stay"),
        pytest.param(["training.batch_size=1", "training.segment_bars=64", "model.width=512"], id="mostly weights"),
        pytest.param(["model.context_bars=null", *LARGER], id="no window"),
    ],
)
def test_the_estimate_is_within_a_fifth_of_the_measured_peak(memory: PeakMemory, changes: list[str]) -> None:
    row = measure_training(memory, "smoke", load_config(SMOKE, changes))
    assert row.measured_bytes is not None
    assert row.ratio == pytest.approx(1.0, abs=0.2), f"{row.estimated_bytes:,} for {row.measured_bytes:,}"


@pytest.mark.skipif(sys.platform != "linux", reason="reads the high-water mark from /proc")
@pytest.mark.parametrize(
    ("config", "changes"),
    [
        pytest.param("portfolio", LARGER, id="factorised"),
        pytest.param("portfolio", ["model.mixing=joint", "model.dropout=0.1", *LARGER], id="joint"),
        pytest.param("portfolio-weights", LARGER, id="weights"),
    ],
)
def test_the_estimate_knows_grids_of_several_entities(memory: PeakMemory, config: str, changes: list[str]) -> None:
    row = measure_training(memory, config, load_config(SMOKE.with_stem(config), changes))
    assert row.measured_bytes is not None
    assert row.ratio == pytest.approx(1.0, abs=0.2), f"{row.estimated_bytes:,} for {row.measured_bytes:,}"


def test_the_dry_run_reports_that_estimate_and_measures_a_step() -> None:
    experiment = load_config(SMOKE, [])
    budget = estimate(experiment)
    assert budget.peak_bytes == step_peak_bytes(experiment, untrained_model(experiment))
    assert budget.tokens_per_step == 4 * 128
    assert budget.labels_per_step == 4 * (128 - 32) * 2
    assert estimate(load_config(SMOKE, ["training.labels=last"])).labels_per_step == 4 * 2
    assert budget.total_seconds == 20 * budget.step_seconds > 0


@pytest.mark.parametrize(("labels", "known"), [("all", 128 - 32), ("last", 1)])
def test_a_rehearsal_has_the_labels_of_a_step(labels: str, known: int) -> None:
    step = rehearse(load_config(SMOKE, [f"training.labels={labels}"]))
    assert (~step.targets.isnan()).sum() == 4 * known * 2
    assert (~step.targets[:, -known:].isnan()).all()


def test_a_rehearsal_trains() -> None:
    step = rehearse(load_config(SMOKE, []))
    before = [weight.detach().clone() for weight in step.model.parameters()]
    step()
    assert any((old != new).any() for old, new in zip(before, step.model.parameters(), strict=True))
    assert all(weight.grad is None for weight in step.model.parameters())
