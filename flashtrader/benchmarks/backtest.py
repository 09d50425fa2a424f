"""How fast the backtest engine is, beside the same accounting as a loop of numpy calls."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flashtrader.arrays import Floats
from flashtrader.backtest.engine import simulate

SIZES = ((100_000, 100), (1_000_000, 1))
FEE_BPS = 7.5
INITIAL_EQUITY = 100_000.0
# The loop takes microseconds a bar: enough bars for a steady rate, few enough for a quick round.
_LOOP_BARS = 20_000


@dataclass(frozen=True)
class BacktestSpeed:
    """One size of backtest: new weights for every asset at every bar."""

    num_bars: int
    num_assets: int
    first_call_s: float
    """The first run of this size in the process: compiling or loading the kernel, and fresh memory."""
    warm_s: float
    """The fastest of the runs after it."""
    engine_rate: float
    """Bar-assets a second, warm."""
    numpy_loop_rate: float
    """Bar-assets a second of the numpy loop over the first bars of the same input."""
    relative_difference: float
    """Between the two's equities at the last bar that both reach."""


def measure_backtest(sizes: Sequence[tuple[int, int]] = SIZES, repeats: int = 5) -> list[BacktestSpeed]:
    """Return the speed of the engine at every (bars, assets), measured side by side with the numpy loop."""
    return [_measure(num_bars, num_assets, repeats) for num_bars, num_assets in sizes]


def _measure(num_bars: int, num_assets: int, repeats: int) -> BacktestSpeed:
    rng = np.random.default_rng(0)
    prices_TA = 100 * np.exp(0.001 * rng.standard_normal((num_bars, num_assets)).cumsum(axis=0))
    weights_TA = rng.uniform(-0.001, 0.002, (num_bars, num_assets)) / num_assets
    loop_bars = min(num_bars, _LOOP_BARS)

    def engine() -> Floats:
        return simulate(
            prices_TA,
            weights_TA,
            initial_equity=INITIAL_EQUITY,
            fee_bps=FEE_BPS,
            slippage_bps=0.0,
            no_trade_band=0.0,
            max_gross=1.0,
        ).equity_T

    first_call_s, equity_T = _timed(engine)
    warm_s = min(_timed(engine)[0] for _ in range(repeats))
    loop_s, loop_equity_T = _timed(lambda: _numpy_loop(prices_TA[:loop_bars], weights_TA[:loop_bars]))
    return BacktestSpeed(
        num_bars=num_bars,
        num_assets=num_assets,
        first_call_s=first_call_s,
        warm_s=warm_s,
        engine_rate=num_bars * num_assets / warm_s,
        numpy_loop_rate=loop_bars * num_assets / loop_s,
        relative_difference=abs(float(loop_equity_T[-1] / equity_T[loop_bars - 1]) - 1),
    )


def _timed(work: Callable[[], Floats]) -> tuple[float, Floats]:
    start = time.perf_counter()
    made = work()
    return time.perf_counter() - start, made


def _numpy_loop(prices_TA: Floats, weights_TA: Floats) -> Floats:
    """Return the equity of weights without a hole or a cap: what the formulas cost a bar at a time."""
    cost_rate = FEE_BPS / 1e4
    equity_T = np.empty(len(prices_TA))
    value_A = np.zeros(prices_TA.shape[1])
    cash = INITIAL_EQUITY
    for i, (price_A, weight_A) in enumerate(zip(prices_TA, weights_TA, strict=True)):
        if i:
            value_A = value_A * price_A / prices_TA[i - 1]
        equity = cash + value_A.sum()
        held_A = weight_A * equity
        cash = equity - held_A.sum() - np.abs(held_A - value_A).sum() * cost_rate
        value_A = held_A
        equity_T[i] = equity
    return equity_T
