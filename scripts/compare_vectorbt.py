"""Compare the backtest engine with vectorbt: the same weights on the same prices, figures and speed in one run.

Needs the extra `peers`:  pip install -e '.[peers]'  (or any environment that has vectorbt and numba)

    python scripts/compare_vectorbt.py --steps 20000 --assets 50

With 20 steps or fewer it prints the two curves too: a test keeps vectorbt's figures of one such market.

vectorbt buys at `targetpercent` of the group's value before the step's orders, and takes the fee from cash, as our
formulas do. Three things are brought in line: it records equity after a step's trades, we before, so ours is compared
less the step's cost; its `slippage` moves the price, so all costs go in as fees; it borrows no cash, so the weights
leave some. It goes on from the last known price where there is none, as we do.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from flashtrader.arrays import Floats
from flashtrader.backtest.engine import Simulation, simulate

FEE_BPS = 7.5
INITIAL_EQUITY = 100_000.0


def market(num_steps: int, num_assets: int, seed: int) -> tuple[Floats, Floats]:
    """Return prices and long-short weights; 2 % of the prices and 20 % of the weights are missing."""
    rng = np.random.default_rng(seed)
    shape = (num_steps, num_assets)
    prices_TA = 100 * np.exp(rng.normal(0, 0.01, shape).cumsum(axis=0))
    prices_TA[1:][rng.random((num_steps - 1, num_assets)) < 0.02] = np.nan
    weights_TA = rng.uniform(-0.3, 0.5, shape) / num_assets
    weights_TA[rng.random(shape) < 0.2] = np.nan
    return prices_TA, weights_TA


def ours(prices_TA: Floats, weights_TA: Floats) -> Simulation:
    """Run the engine with costs as a fee alone."""
    return simulate(
        prices_TA,
        weights_TA,
        initial_equity=INITIAL_EQUITY,
        fee_bps=FEE_BPS,
        slippage_bps=0.0,
        no_trade_band=0.0,
        max_gross=np.inf,
    )


def theirs(prices_TA: Floats, weights_TA: Floats) -> Floats:
    """Return vectorbt's equity after the trades of each step."""
    import pandas as pd
    import vectorbt as vbt

    known = pd.DataFrame(prices_TA).ffill()
    portfolio = vbt.Portfolio.from_orders(
        close=known,
        price=prices_TA,
        val_price=known,
        size=weights_TA,
        size_type="targetpercent",
        direction="both",
        fees=FEE_BPS / 1e4,
        init_cash=INITIAL_EQUITY,
        group_by=True,
        cash_sharing=True,
        call_seq="auto",
    )
    equity_T: Floats = portfolio.value().to_numpy()
    return equity_T


def seconds(work: Callable[[Floats, Floats], object], prices_TA: Floats, weights_TA: Floats) -> float:
    """Return the shortest of three calls; the caller has made one before, which compiled."""
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        work(prices_TA, weights_TA)
        taken.append(time.perf_counter() - start)
    return min(taken)


def main() -> None:
    """Print the largest differences and both speeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--assets", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    prices_TA, weights_TA = market(arguments.steps, arguments.assets, arguments.seed)
    simulation = ours(prices_TA, weights_TA)
    our_equity_T = simulation.equity_T - simulation.cost_T
    their_equity_T = theirs(prices_TA, weights_TA)
    difference_T = np.abs(our_equity_T / their_equity_T - 1)
    our_seconds = seconds(ours, prices_TA, weights_TA)
    their_seconds = seconds(theirs, prices_TA, weights_TA)

    size = prices_TA.size
    print(f"{arguments.steps:,} steps x {arguments.assets} assets, seed {arguments.seed}")
    print(f"{'':24}{'flashtrader':>18}{'vectorbt':>18}")
    print(f"{'final equity':24}{our_equity_T[-1]:18.8f}{their_equity_T[-1]:18.8f}")
    print(f"{'seconds':24}{our_seconds:18.4f}{their_seconds:18.4f}")
    print(f"{'million bar-assets/s':24}{size / our_seconds / 1e6:18.1f}{size / their_seconds / 1e6:18.1f}")
    print(f"relative difference: final equity {difference_T[-1]:.1e}, largest on the curve {difference_T.max():.1e}")
    if arguments.steps <= 20:
        print("equity after the trades of each step, flashtrader and vectorbt:")
        for pair in zip(our_equity_T, their_equity_T, strict=True):
            print("{!r:>24}{!r:>24}".format(*map(float, pair)))
    print(f"speed ratio: {their_seconds / our_seconds:.0f}")


if __name__ == "__main__":
    main()
