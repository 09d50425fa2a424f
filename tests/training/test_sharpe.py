import math

import numpy as np
import pytest
import torch

from flashtrader.backtest import metrics
from flashtrader.backtest.engine import simulate
from flashtrader.config import (
    BacktestConfig,
    DataConfig,
    Experiment,
    FillReturnTarget,
    ModelConfig,
    PanelConfig,
    TrainingConfig,
    WeightsPolicy,
)
from flashtrader.training.objectives import build_objective, build_skill
from flashtrader.training.sharpe import negative_sharpe, net_returns

EXPERIMENT = Experiment(
    data=DataConfig(symbols=("A", "B", "C", "D")),
    panel=PanelConfig(target=FillReturnTarget(kind="fill_return")),
    model=ModelConfig(family="portfolio"),
    training=TrainingConfig(loss="sharpe"),
    policy=WeightsPolicy(kind="weights"),
    backtest=BacktestConfig(fee_bps=10.0, slippage_bps=5.0),
)


def random_market(seed: int, steps: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Return prices (steps + 1, 4), of which the last asset is listed late, and weights of which gross is at most 1."""
    generator = np.random.default_rng(seed)
    prices = 100 * np.exp(generator.normal(scale=0.02, size=(steps + 1, 4)).cumsum(axis=0))
    prices[:120, 3] = np.nan
    weights = generator.normal(size=(steps + 1, 4))
    weights[:120, 3] = 0.0
    return prices, weights / np.maximum(1, np.abs(weights).sum(axis=1, keepdims=True))


def equity_of(prices: np.ndarray, weights: np.ndarray, config: BacktestConfig) -> np.ndarray:
    return simulate(
        prices,
        weights,
        initial_equity=config.initial_equity,
        fee_bps=config.paid_fee_bps,
        half_spread_bps=config.paid_spread_bps,
        slippage_bps=config.paid_slippage_bps,
        no_trade_band=0.0,
        max_gross=1.0,
    ).equity_T


@pytest.mark.parametrize(
    "config",
    [
        BacktestConfig(fee_bps=0.0, slippage_bps=0.0),
        BacktestConfig(),
        BacktestConfig(fee_bps=100.0, slippage_bps=25.0),
        BacktestConfig(fee_bps=10.0, maker_share=0.4, half_spread_bps=3.0),
    ],
)
def test_the_net_returns_are_those_of_the_engine(config: BacktestConfig) -> None:
    markets = [random_market(seed) for seed in range(3)]
    weights = torch.from_numpy(np.stack([weights[:-1] for _, weights in markets]))
    returns = torch.from_numpy(np.stack([prices[1:] / prices[:-1] - 1 for prices, _ in markets]))
    found = net_returns(weights, returns, config.cost_rate)
    for segment, (prices, traded) in enumerate(markets):
        equity = equity_of(prices, traded, config)
        np.testing.assert_allclose(found.net_BT[segment], equity[1:] / equity[:-1] - 1, rtol=0, atol=1e-7)
    assert (found.turnover_BT[:, 1:] > 0).all()


def test_the_reported_sharpe_ratio_is_that_of_the_backtest() -> None:
    prices, weights = random_market(seed=5)
    returns = (prices[1:] / prices[:-1] - 1).astype(np.float32)
    weights = weights.astype(np.float32)
    equity = equity_of(prices, weights, EXPERIMENT.backtest)
    expected = metrics.sharpe(equity[1:] / equity[:-1] - 1, bars_per_year=8_760)
    outputs = weights[:-1, :, None].copy()
    outputs[:120, 3] = np.nan
    skill = build_skill(EXPERIMENT)
    assert skill.name == "sharpe"
    assert skill.score(outputs, returns) == pytest.approx(expected, rel=0.003)
    objective = build_objective(EXPERIMENT)
    loss = objective(torch.from_numpy(weights[None, :-1, :, None]), torch.from_numpy(returns[None]))
    assert -loss.item() * math.sqrt(8_760) == pytest.approx(expected, rel=0.003)


def test_bars_without_a_label_and_assets_without_a_price_do_not_count() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(1, 40, 3, 1, generator=generator).div(5).requires_grad_()
    returns = 0.01 * torch.randn(1, 40, 3, generator=generator)
    returns[:, :15] = torch.nan
    returns[:, :, 2] = torch.nan
    loss = negative_sharpe(outputs, returns, cost_rate=0.001)
    assert torch.equal(loss, negative_sharpe(outputs[:, 15:, :2], returns[:, 15:, :2], cost_rate=0.001))
    loss.backward()
    assert outputs.grad is not None
    assert (outputs.grad[:, :15] == 0).all()
    assert (outputs.grad[:, :, 2] == 0).all()
    assert (outputs.grad[:, 15:, :2] != 0).all()


def test_the_gradient_is_that_of_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(2, 9, 3, 1, generator=generator, dtype=torch.float64).div(5).requires_grad_()
    returns = 0.01 * torch.randn(2, 9, 3, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda weights: negative_sharpe(weights, returns, cost_rate=0.001), outputs)


def test_segments_are_judged_together() -> None:
    """A quiet segment, whose own Sharpe ratio is enormous, does not outvote a wild one."""
    generator = torch.Generator().manual_seed(0)
    quiet = 1e-4 + 1e-6 * torch.randn(200, generator=generator)
    wild = 0.02 * torch.randn(200, generator=generator)
    loss = negative_sharpe(torch.ones(2, 200, 1, 1), torch.stack([quiet, wild])[..., None], cost_rate=0.0)
    both = torch.cat([quiet, wild])
    assert loss.item() == pytest.approx(-(both.mean() / both.std(correction=0)).item(), rel=1e-4)


def test_holding_nothing_is_worth_nothing_and_can_be_improved_on() -> None:
    outputs = torch.zeros(1, 50, 2, 1, requires_grad=True)
    returns = 0.01 * torch.randn(1, 50, 2, generator=torch.Generator().manual_seed(0))
    loss = negative_sharpe(outputs, returns, cost_rate=0.001)
    assert loss.item() == 0
    loss.backward()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()
    assert (outputs.grad[..., 0] * returns < 0).all()
