"""What doing next to nothing would have earned, on the same engine."""

import numpy as np

from flashtrader.arrays import Floats


def buy_and_hold_weights(prices_TA: Floats, max_gross: float) -> Floats:
    """Return weights that buy every asset once and then leave it alone.

    They buy at the first step where any asset has a price, unless it is the last, which no other follows: equal parts
    of what has one there, of equity or, where that is less, of max_gross. An asset that has no price yet is never
    bought.
    """
    weights_TA = np.full(prices_TA.shape, np.nan)
    priced_TA = np.isfinite(prices_TA)
    priced_TA[-1] = False
    first = int(np.argmax(priced_TA.any(axis=1)))
    priced_A = priced_TA[first]
    weights_TA[first, priced_A] = min(1.0, max_gross) / max(1, int(priced_A.sum()))
    return weights_TA
