from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from flashtrader.config import Experiment, validate
from flashtrader.models.candles import FEWEST_DEGREES, SMALLEST_SCALE, CandleModel
from flashtrader.models.families import build_model
from flashtrader.models.stream import forecast_rows, output_rows
from flashtrader.panel.loading import panel_of, panel_shape
from flashtrader.panel.panel import Panel
from flashtrader.panel.scaling import fit_scaler
from flashtrader.panel.splits import Rows
from flashtrader.training.objectives import build_objective, build_skill
from panels import random_bars

NUM_BARS = 620
BARS = random_bars(NUM_BARS).drop(index=range(290, 310)).reset_index(drop=True)


def experiment(multiscale: Sequence[str] = (), distribution: str = "student_t", **model: object) -> Experiment:
    settings = {
        "data": {"symbols": ["S"]},
        "panel": {
            "features": ["candle", "candle_moves", "calendar"],
            "target": {"kind": "next_candle"},
            "multiscale": list(multiscale),
        },
        "model": {
            "family": "candles",
            "distribution": distribution,
            "context_bars": 6,
            "width": 16,
            "layers": 2,
            "heads": 2,
            **model,
        },
        "training": {"segment_bars": 32, "warmup_bars": 4, "volume_weight": 0.25},
    }
    return validate(settings, "test")


def trained(described: Experiment) -> tuple[CandleModel, Panel]:
    """Return a model as if trained: its heads answer something."""
    panel = panel_of(described, {"S": BARS})
    model = build_model(described, fit_scaler(panel, Rows(0, 500)))
    assert isinstance(model, CandleModel)
    for head in (model.price_head, model.volume_head[-1]):
        torch.nn.init.normal_(head.weight, std=0.2)
    return model.eval(), panel


SCALES = pytest.mark.parametrize("multiscale", [(), ("240", "D")], ids=["bars", "multiscale"])


@SCALES
@pytest.mark.parametrize("distribution", ["point", "student_t"])
@pytest.mark.parametrize("volume_head", [False, True])
def test_an_untrained_model_forecasts_no_change(
    multiscale: Sequence[str], distribution: str, volume_head: bool
) -> None:
    described = experiment(multiscale, distribution, volume_head=volume_head)
    panel = panel_of(described, {"S": BARS})
    entities, features, targets = panel_shape(described)
    assert panel.values.shape[1:] == (entities, features)
    assert panel.targets.shape[1] == targets == (10 if distribution == "student_t" else 5)
    model = build_model(described, fit_scaler(panel, Rows(0, 500)))
    forecasts = forecast_rows(model, panel, Rows(0, 600), warmup_bars=4)
    np.testing.assert_array_equal(forecasts[np.isfinite(forecasts)], 0)
    np.testing.assert_array_equal(np.isfinite(forecasts), panel.forecast_due(0, 600, 4))


@SCALES
def test_one_pass_in_chunks_equals_one_window_per_row(multiscale: Sequence[str]) -> None:
    model, panel = trained(experiment(multiscale))
    whole = output_rows(model, panel, Rows(0, 600), warmup_bars=4)
    run_start = int(panel.run_starts[1])
    for row in (5, 50, 255, 256, 289, run_start + 5, 512, 599):
        begin = max(run_start if row >= run_start else 0, row - model.decoder.receptive_bars)
        values, mask = (torch.from_numpy(array[None, begin : row + 1]) for array in (panel.values, panel.mask))
        with torch.inference_mode():
            expected = model(values, mask)[0, -1].numpy()
        np.testing.assert_allclose(whole[row], expected, rtol=0, atol=1e-5)


@SCALES
def test_what_comes_later_changes_no_bit_of_an_answer(multiscale: Sequence[str]) -> None:
    described = experiment(multiscale)
    model, panel = trained(described)
    cut = 470
    noisy = BARS.copy()
    noisy.loc[cut:, "open":"volume"] = 3 * random_bars(NUM_BARS, seed=9).loc[cut:599, "open":"volume"]
    before, after = (
        output_rows(model, some, Rows(0, 600), warmup_bars=4) for some in (panel, panel_of(described, {"S": noisy}))
    )
    np.testing.assert_array_equal(after[:cut], before[:cut])
    assert not np.array_equal(after[cut:], before[cut:])


def test_a_longer_candle_is_seen_and_its_absence_told() -> None:
    model, panel = trained(experiment(("240", "D")))
    rows = slice(100, 130)
    known = replace(panel, mask=np.ones_like(panel.mask))
    for entity in (1, 2):
        hidden = replace(known, mask=known.mask & (np.arange(3) != entity))
        seen, unseen = (
            model(torch.from_numpy(some.values[None, rows]), torch.from_numpy(some.mask[None, rows]))
            for some in (known, hidden)
        )
        assert not torch.allclose(seen, unseen)


def student_t_loss(outputs: np.ndarray, targets: np.ndarray) -> float:
    """The objective, written down again."""
    errors = np.abs(outputs[:, :5, 0] - targets[:, :5])
    huber = np.where(errors < 1, errors**2 / 2, errors - 0.5)
    weights = np.array([1, 1, 1, 1, 0.25])
    location, log_scale, degrees, tie_logits = np.moveaxis(outputs[:, 5:], -1, 0)
    density = scipy.stats.t.logpdf(
        targets[:, 5:], FEWEST_DEGREES + np.log1p(np.exp(degrees)), location, SMALLEST_SCALE + np.exp(log_scale)
    )
    tie = scipy.special.expit(tie_logits)
    likelihood = np.where(targets[:, 5:] == 0, np.log(tie), np.log(1 - tie) + density)
    return float((huber * weights).sum() / (len(huber) * weights.sum()) - likelihood.mean())


def test_the_objective_weighs_volume_and_adds_the_likelihood_of_student_t() -> None:
    generator = np.random.default_rng(0)
    outputs, targets = generator.normal(size=(40, 10, 4)), 2 * generator.standard_t(3, size=(40, 10))
    targets[::3, 7] = 0
    objective = build_objective(experiment())
    loss = objective(torch.from_numpy(outputs)[None], torch.from_numpy(targets)[None])
    assert loss.item() == pytest.approx(student_t_loss(outputs, targets), rel=1e-9)

    point = build_objective(experiment(distribution="point"))
    alone = point(torch.from_numpy(outputs[None, :, :5, :1]), torch.from_numpy(targets[None, :, :5]))
    outputs[:, 4, 0] = targets[:, 4]
    less = point(torch.from_numpy(outputs[None, :, :5, :1]), torch.from_numpy(targets[None, :, :5]))
    assert less < alone


def test_an_unknown_candle_neither_counts_nor_gets_a_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(1, 8, 10, 4, generator=generator).requires_grad_()
    targets = torch.randn(1, 8, 10, generator=generator)
    targets[:, 2] = torch.nan
    objective = build_objective(experiment())
    known = [row for row in range(8) if row != 2]
    loss = objective(outputs, targets)
    assert loss.item() == pytest.approx(objective(outputs[:, known], targets[:, known]).item())
    loss.backward()
    assert outputs.grad is not None
    assert outputs.grad[:, 2].abs().max() == 0
    assert outputs.grad.isfinite().all()


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_a_value_that_comes_always_has_a_bounded_likelihood(value: float) -> None:
    outputs = torch.full((1, 50, 10, 4), -40.0)
    outputs[..., 0] = value
    loss = build_objective(experiment())(outputs.requires_grad_(), torch.full((1, 50, 10), value))
    loss.backward()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()
    assert loss > np.log(SMALLEST_SCALE)


def test_the_skill_is_the_correlation_of_the_close_alone() -> None:
    generator = np.random.default_rng(0)
    outputs, targets = generator.normal(size=(60, 10, 4)), generator.normal(size=(60, 10))
    outputs[::9], targets[::7] = np.nan, np.nan
    both = np.isfinite(outputs[:, 3, 0]) & np.isfinite(targets[:, 3])
    skill = build_skill(experiment())
    assert skill.name == "ic"
    assert skill.score(outputs, targets) == pytest.approx(np.corrcoef(outputs[both, 3, 0], targets[both, 3])[0, 1])


def test_volume_may_have_a_network_of_its_own() -> None:
    shared, own = (trained(experiment(volume_head=head))[0] for head in (False, True))
    assert sum(weight.numel() for weight in own.volume_head.parameters()) == 16 * 16 + 16 + 16 * 5 + 5
    assert sum(weight.numel() for weight in shared.volume_head.parameters()) == 16 * 5 + 5
