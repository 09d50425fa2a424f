from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from flashtrader.backtest.experiment import backtest_run
from flashtrader.config import Experiment
from flashtrader.forecasting.forecast import forecast_run, keep_forecasts
from flashtrader.models.families import build_model
from flashtrader.models.model import GridModel
from flashtrader.models.stream import forecast_rows
from flashtrader.panel.panel import Panel
from flashtrader.panel.scaling import Scaler
from flashtrader.panel.splits import Rows
from flashtrader.training.loop import train_model
from flashtrader.training.sharpe import negative_sharpe
from panels import HOUR_MS, random_bars, random_panel, store_bars

CONTEXT = 6
MIXINGS = ["joint", "factorised"]
KINDS = ["returns", "weights"]


def experiment(mixing: str, kind: str, symbols: tuple[str, ...] = ("S0", "S1", "S2"), **training: Any) -> Experiment:
    weights = kind == "weights"
    settings: dict[str, Any] = {
        "data": {"source": "file", "symbols": symbols},
        "panel": {
            "features": ["log_return", "rsi_3"],
            "target": {"kind": "fill_return"} if weights else {"horizon_bars": 2},
        },
        "split": {"validation": 0.2, "test": 0.2},
        "model": {
            "family": "portfolio",
            "mixing": mixing,
            "context_bars": CONTEXT,
            "width": 16,
            "layers": 2,
            "heads": 2,
        },
        "training": {"segment_bars": 32, "device": "cpu", "loss": "sharpe" if weights else "huber", **training},
        "policy": {"kind": "weights" if weights else "tanh"},
        "backtest": {"max_gross": 0.8},
    }
    return Experiment.model_validate(settings)


def random_scaler(assets: int = 3, features: int = 3) -> Scaler:
    generator = np.random.default_rng(1)
    return Scaler(
        feature_mean=generator.normal(size=(assets, features)).astype(np.float32),
        feature_std=generator.uniform(0.5, 2, size=(assets, features)).astype(np.float32),
        target_std=generator.uniform(0.5, 2, size=assets).astype(np.float32),
    )


def built(mixing: str, kind: str) -> GridModel:
    """Return a model whose head and embeddings are as far from zero as a trained one's."""
    model = build_model(experiment(mixing, kind), random_scaler())
    torch.nn.init.normal_(model.head.weight)
    torch.nn.init.normal_(model.decoder.entity)
    return model.eval()


@pytest.fixture(params=[(mixing, kind) for mixing in MIXINGS for kind in KINDS], ids=lambda names: "-".join(names))
def model(request: pytest.FixtureRequest) -> GridModel:
    return built(*request.param)


def inputs(panel: Panel) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(panel.values[None]), torch.from_numpy(panel.mask[None])


def test_what_a_missing_cell_holds_changes_no_bit(model: GridModel) -> None:
    values, mask = inputs(random_panel(60, num_assets=3))
    mask[:, :20, 1] = False
    for held in (1e9, torch.nan):
        other = values.masked_fill(~mask[..., None], held)
        assert torch.equal(model(values, mask), model(other, mask))


def test_an_asset_that_is_there_and_average_is_told_from_one_that_is_not(model: GridModel) -> None:
    values = model.standardiser.feature_mean.expand(1, 8, 3, 3)
    mask = torch.ones(1, 8, 3, dtype=torch.bool)
    gone = mask.clone()
    gone[:, 7, 2] = False
    assert not torch.equal(model(values, mask)[:, 7, :2], model(values, gone)[:, 7, :2])


def test_one_pass_equals_one_window_per_row(model: GridModel) -> None:
    panel = random_panel(600, num_assets=3, breaks=(300,))
    whole = forecast_rows(model, panel, Rows(0, 600), warmup_bars=4)
    for row in (4, 5, 50, 255, 256, 257, 299, 304, 305, 512, 599):
        begin = max(300 * (row >= 300), row - model.decoder.receptive_bars)
        window = slice(begin, row + 1)
        values, mask = torch.from_numpy(panel.values[None, window]), torch.from_numpy(panel.mask[None, window])
        with torch.inference_mode():
            alone = model.forecast(model(values, mask))[0, -1].numpy()
        np.testing.assert_allclose(whole[row], np.where(panel.mask[row], alone, np.nan), rtol=0, atol=1e-5)


def test_a_change_of_any_asset_moves_no_earlier_forecast_and_every_asset_s_from_there_on(model: GridModel) -> None:
    panel = replace(random_panel(60, num_assets=3), mask=np.ones((60, 3), np.bool_))
    before = forecast_rows(model, panel, Rows(0, 60), warmup_bars=0)
    for asset in range(3):
        values = panel.values.copy()
        values[40:, asset] += 1
        after = forecast_rows(model, replace(panel, values=values), Rows(0, 60), warmup_bars=0)
        np.testing.assert_array_equal(after[:40], before[:40])
        assert (after[40:] != before[40:]).all()


@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_permutation_of_the_assets_permutes_the_forecasts(mixing: str, kind: str) -> None:
    model, permuted, order = built(mixing, kind), built(mixing, kind), [2, 0, 1]
    for name in ("decoder.entity", "standardiser.feature_mean", "standardiser.feature_std", "standardiser.target_std"):
        tensor = permuted.get_parameter(name) if name == "decoder.entity" else permuted.get_buffer(name)
        tensor.data = tensor.data[order]
    values, mask = inputs(random_panel(60, num_assets=3))
    forecasts = model.forecast(model(values, mask))
    found = permuted.forecast(permuted(values[:, :, order], mask[:, :, order]))
    torch.testing.assert_close(found, forecasts[..., order], rtol=0, atol=1e-5)
    assert not torch.allclose(found, forecasts, atol=1e-3)


@pytest.mark.parametrize("mixing", MIXINGS)
def test_weights_stay_within_max_gross_and_an_absent_asset_has_none(mixing: str) -> None:
    model = built(mixing, "weights")
    values, mask = inputs(random_panel(200, num_assets=3))
    mask[:, :100, 0] = False
    weights = model.forecast(model(values, mask))
    assert (weights[~mask] == 0).all()
    assert (weights[mask] != 0).all()
    gross = weights.abs().sum(dim=-1)
    assert (gross <= 0.8 + 1e-6).all()
    assert (gross > 0.8 - 1e-6).any()
    torch.nn.init.normal_(model.head.weight, std=1e-3)
    assert (model(values, mask).abs().sum(dim=2) < 0.1).all()


def test_weights_learn_what_pays() -> None:
    """The first feature is the next return's sign, in the second asset turned over."""
    panel = replace(random_panel(400, num_assets=3), mask=np.ones((400, 3), np.bool_))
    values, mask = inputs(panel)
    returns = 0.01 * values[..., 0].sign() * torch.tensor([1.0, -1.0, 1.0]) + 0.01 * torch.randn(values.shape[:3])
    model = build_model(experiment("joint", "weights"), random_scaler()).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = negative_sharpe(model(values, mask), returns, cost_rate=0.001)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[0] == 0
    assert losses[-1] < -0.8
    weights = model(values, mask)[..., 0]
    assert ((weights * returns).sum(dim=-1).mean() > 0.005).all()


@pytest.mark.parametrize(("mixing", "kind"), [("joint", "returns"), ("factorised", "weights")])
def test_an_asset_that_lists_late_and_misses_bars_goes_from_training_to_the_backtest(
    tmp_path: Path, mixing: str, kind: str
) -> None:
    data_dir, missing = tmp_path / "data", [*range(452, 455), 530]
    store_bars(data_dir, "OLD", random_bars(600, 0))
    store_bars(data_dir, "GAPS", random_bars(600, 1).drop(index=missing).reset_index(drop=True))
    store_bars(data_dir, "NEW", random_bars(300, 2, first_hour=300))
    settings = experiment(
        mixing, kind, ("OLD", "GAPS", "NEW"), batch_size=2, max_steps=4, evaluate_every=2, schedule_warmup_steps=0
    )
    summary = train_model(settings, data_dir, tmp_path / "runs", lambda _metrics: None)
    assert np.isfinite(summary.validation_loss)

    predicted = forecast_run(summary.run, data_dir, "all")
    forecasts = predicted.forecasts
    hour = (forecasts.index - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(milliseconds=HOUR_MS)
    known = forecasts.notna().set_index(hour)
    assert not known["NEW"].loc[:302].any()  # three bars of rsi_3
    assert known["NEW"].loc[303:].all()
    assert not known["GAPS"].loc[missing].any()
    assert known["OLD"].loc[8:].all()

    keep_forecasts(predicted)
    made = backtest_run(summary.run, settings, data_dir)
    assert np.isfinite(made.result.equity).all()
    assert (made.forecasts is None) == (kind == "weights")
