import numpy as np
import pytest
import torch

from flashtrader.config import DataConfig, Experiment, TrainingConfig
from flashtrader.training.correlation import information_coefficient, mean_information_coefficient
from flashtrader.training.objectives import build_objective
from flashtrader.training.optim import Schedule, build_optimiser


@pytest.mark.parametrize("name", ["huber", "mse"])
def test_an_unknown_target_neither_counts_nor_gets_a_gradient(name: str) -> None:
    objective = build_objective(Experiment(data=DataConfig(symbols=("A",)), training=TrainingConfig(loss=name)))
    outputs = torch.tensor([[[0.5], [3.0]], [[1.0], [-1.0]]], requires_grad=True)
    targets = torch.tensor([[0.0, torch.nan], [1.0, 1.0]])
    loss = objective(outputs, targets)
    known = objective(torch.tensor([[0.5], [1.0], [-1.0]]), torch.tensor([0.0, 1.0, 1.0]))
    assert torch.equal(loss, known)
    loss.backward()
    assert outputs.grad is not None
    assert outputs.grad[0, 1] == 0
    assert outputs.grad.isfinite().all()


def test_the_information_coefficient_is_the_correlation_of_what_is_known() -> None:
    generator = np.random.default_rng(0)
    forecasts, outcomes = generator.normal(size=(2, 200, 3))
    outcomes[:, 0] += forecasts[:, 0]
    outcomes[::7, 1] = np.nan
    forecasts[:, 2] = 4.2
    known = ~np.isnan(outcomes[:, 1])
    found = information_coefficient(forecasts, outcomes)
    assert found[0] == pytest.approx(np.corrcoef(forecasts[:, 0], outcomes[:, 0])[0, 1])
    assert found[1] == pytest.approx(np.corrcoef(forecasts[known, 1], outcomes[known, 1])[0, 1])
    assert np.isnan(found[2])
    assert mean_information_coefficient(forecasts, outcomes) == pytest.approx((found[0] + found[1]) / 2)
    assert np.isnan(mean_information_coefficient(forecasts[:, 2:], outcomes[:, 2:]))


def test_the_cosine_rises_to_the_peak_and_ends_at_a_tenth_of_it() -> None:
    schedule = Schedule(TrainingConfig(learning_rate=1.0, max_steps=100, schedule_warmup_steps=10))
    rates = [schedule.learning_rate(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == max(rates) == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.1)
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_the_plateau_schedule_halves_after_its_patience() -> None:
    config = TrainingConfig(learning_rate=1.0, schedule="plateau", plateau_patience=2, schedule_warmup_steps=0)
    schedule = Schedule(config)
    for improved, rate in (
        (True, 1.0),
        (False, 1.0),
        (False, 0.5),
        (False, 0.5),
        (True, 0.5),
        (False, 0.5),
        (False, 0.25),
    ):
        schedule.evaluated(improved)
        assert schedule.learning_rate(50) == rate
    restored = Schedule(config)
    restored.restore(schedule.state())
    assert restored.learning_rate(50) == 0.25


def test_only_matrices_decay() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.RMSNorm(2))
    decayed, left_alone = build_optimiser(model, TrainingConfig(weight_decay=0.5)).param_groups
    assert [weight.shape for weight in decayed["params"]] == [(2, 3)]
    assert decayed["weight_decay"] == 0.5
    assert sorted(weight.numel() for weight in left_alone["params"]) == [2, 2]
    assert left_alone["weight_decay"] == 0
