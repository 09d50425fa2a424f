from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from books import leading_book, random_book
from flashtrader.config import Experiment, validate
from flashtrader.models.families import build_model
from flashtrader.models.model import GridModel, unit_scaler
from flashtrader.models.orderbook import direction_probabilities
from flashtrader.models.stream import chunk_length, forecast_rows, forecasts_of, output_rows
from flashtrader.panel.books import build_book_panel
from flashtrader.panel.loading import PanelShape, panel_shape
from flashtrader.panel.panel import Panel
from flashtrader.panel.scaling import fit_scaler
from flashtrader.panel.segments import Segments
from flashtrader.panel.splits import Rows
from flashtrader.training.objectives import build_objective, macro_f1
from flashtrader.training.optim import build_optimiser

CONTEXT, LEVELS = 6, 3


def experiment(**changes: dict[str, Any]) -> Experiment:
    settings: dict[str, dict[str, Any]] = {
        "data": {"kind": "books", "symbols": ["BTCUSDT"], "levels": LEVELS},
        "panel": {"target": {"kind": "direction", "horizon_bars": 2}},
        "model": {"family": "orderbook", "context_bars": CONTEXT, "width": 16, "layers": 2, "heads": 2},
        "training": {"segment_bars": 32, "loss": "cross_entropy"},
    }
    for section, keys in changes.items():
        settings[section] |= keys
    return validate(settings, "test")


def model_of(described: Experiment, panel: Panel) -> GridModel:
    model = build_model(described, fit_scaler(panel, Rows(0, len(panel.timestamps))))
    assert isinstance(model.head, torch.nn.Linear)
    torch.nn.init.normal_(model.head.weight, std=0.1)
    return model.eval()


def panel_of(described: Experiment, num_rows: int, breaks: tuple[int, ...] = (), seed: int = 0) -> Panel:
    book = random_book(num_rows, described.data.levels, seed, breaks)
    return build_book_panel({"BTCUSDT": book}, described.panel)


def test_the_panel_has_the_shape_that_a_model_is_built_for() -> None:
    panel = panel_of(experiment(), 50)
    assert panel_shape(experiment()) == PanelShape(*panel.values.shape[1:], panel.targets.shape[1])


def test_an_untrained_model_favours_no_direction() -> None:
    panel = panel_of(experiment(), 50)
    model = build_model(experiment(), unit_scaler(panel_shape(experiment())))
    outputs = torch.from_numpy(output_rows(model, panel, Rows(10, 50), warmup_bars=0))
    torch.testing.assert_close(direction_probabilities(outputs), torch.full((40, 1, 3), 1 / 3))


def test_the_forecast_is_up_less_down_and_grows_with_the_answers() -> None:
    panel = panel_of(experiment(), 50)
    model = model_of(experiment(), panel)
    outputs = output_rows(model, panel, Rows(10, 50), warmup_bars=0)
    probability = direction_probabilities(torch.from_numpy(outputs))[:, 0].numpy()
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(forecasts_of(model, outputs)[:, 0], probability[:, 2] - probability[:, 0], atol=1e-7)
    sure = np.array([[[[50.0, 0, 0]]], [[[0, 50, 0]]], [[[0, 0, 50]]]], dtype=np.float32)
    np.testing.assert_allclose(forecasts_of(model, sure[:, 0])[:, 0], [-1, 0, 1], atol=1e-6)


@pytest.mark.parametrize("mixing", ["joint", "factorised"])
def test_what_comes_later_changes_no_bit_of_a_forecast(mixing: str) -> None:
    described = experiment(model={"mixing": mixing})
    num_rows, cut = 600, 2 * chunk_length(CONTEXT) - 40
    panel, noise = panel_of(described, num_rows, breaks=(300,)), panel_of(described, num_rows, seed=1)
    model = model_of(described, panel)
    changed = replace(
        panel,
        values=np.concatenate([panel.values[:cut], 100 * noise.values[cut:]]),
        mask=np.concatenate([panel.mask[:cut], noise.mask[cut:]]),
    )
    shortened = panel_of(described, cut, breaks=(300,))
    before = forecast_rows(model, panel, Rows(0, num_rows), warmup_bars=4)
    after = forecast_rows(model, changed, Rows(0, num_rows), warmup_bars=4)
    np.testing.assert_array_equal(after[:cut], before[:cut])
    assert not np.array_equal(after[cut:], before[cut:], equal_nan=True)
    np.testing.assert_array_equal(forecast_rows(model, shortened, Rows(0, cut), warmup_bars=4), before[:cut])


def test_every_level_of_an_earlier_snapshot_in_sight_matters_and_none_beyond() -> None:
    described = experiment(model={"layers": 1})
    panel = panel_of(described, 40)
    model = model_of(described, panel)
    before = output_rows(model, panel, Rows(30, 31), warmup_bars=0)
    for level in range(2 * LEVELS):
        for row, seen in ((30, True), (30 - CONTEXT + 1, True), (30 - CONTEXT, False), (31, False)):
            values = panel.values.copy()
            values[row, level, 1] += 1
            after = output_rows(model, replace(panel, values=values), Rows(30, 31), warmup_bars=0)
            assert np.array_equal(after, before) != seen, (level, row)


def test_sides_are_told_apart() -> None:
    panel = panel_of(experiment(), 40)
    model = model_of(experiment(), panel)
    torch.nn.init.normal_(model.decoder.entity)
    mirrored = replace(panel, values=panel.values[:, ::-1].copy())
    rows = Rows(10, 40)
    assert not np.allclose(output_rows(model, panel, rows, 0), output_rows(model, mirrored, rows, 0), atol=1e-3)


def test_a_level_that_is_not_there_is_no_average_one() -> None:
    panel = panel_of(experiment(), 40)
    model = model_of(experiment(), panel)
    values, mask = panel.values.copy(), panel.mask.copy()
    values[35, 0] = fit_scaler(panel, Rows(0, 40)).feature_mean[0]
    average = forecast_rows(model, replace(panel, values=values), Rows(35, 36), 0)
    mask[35, 0] = False
    missing = forecast_rows(model, replace(panel, values=values, mask=mask), Rows(35, 36), 0)
    values[35, 0] = 1e6
    assert np.isfinite(missing).all()
    assert not np.array_equal(missing, average)
    hidden = forecast_rows(model, replace(panel, values=values, mask=mask), Rows(35, 36), 0)
    np.testing.assert_array_equal(hidden, missing)


def test_a_run_begins_without_a_forecast() -> None:
    panel = panel_of(experiment(), 100, breaks=(60,))
    forecasts = forecast_rows(model_of(experiment(), panel), panel, Rows(0, 100), warmup_bars=0)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(forecasts)), [0, 60])


@pytest.mark.parametrize("mixing", ["joint", "factorised"])
def test_the_model_learns_that_the_larger_side_leads_the_mid(mixing: str) -> None:
    described = experiment(
        data={"levels": 2},
        model={"mixing": mixing, "layers": 1, "context_bars": 3},
        training={"learning_rate": 0.02, "segment_bars": 48},
    )
    panel = build_book_panel({"BTCUSDT": leading_book(1_500)}, described.panel)
    train, test = Rows(0, 1_000), Rows(1_000, 1_500)
    segments = Segments(panel, train, described.training.segment_bars, described.warmup_bars)
    model = build_model(described, fit_scaler(panel, train))
    objective = build_objective(described, panel.targets[train.start : train.stop])
    optimiser = build_optimiser(model, described.training)
    generator = np.random.default_rng(0)
    for _ in range(60):
        values, mask, targets = (
            torch.from_numpy(array) for array in segments.batch(generator.choice(segments.starts, 8))
        )
        objective(model(values, mask), model.standardise(targets)).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()
    outputs = output_rows(model.eval(), panel, test, described.warmup_bars)
    assert macro_f1(outputs, panel.targets[test.start : test.stop]) > 0.9


def test_a_hundred_thousand_tokens_pass_on_a_cpu() -> None:
    described = experiment(
        data={"levels": 50}, model={"width": 8, "layers": 1, "heads": 1, "context_bars": 2, "mixing": "joint"}
    )
    model = build_model(described, unit_scaler(panel_shape(described)))
    values = torch.randn(1, 1_000, 100, 3)
    with torch.inference_mode():
        assert model(values, torch.ones(1, 1_000, 100, dtype=torch.bool)).shape == (1, 1_000, 1, 3)
