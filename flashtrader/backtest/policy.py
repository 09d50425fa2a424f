"""Forecasts to target weights."""

import numpy as np
import pandas as pd

from flashtrader.config import PolicyConfig, TanhPolicy, ThresholdPolicy, WeightsPolicy


def target_weights(forecasts: pd.DataFrame, policy: PolicyConfig) -> pd.DataFrame:
    """Return the fraction of equity to hold in each market, for every forecast.

    forecasts: index `time`, a column per symbol, log return over the horizon. The result has the same shape; where
    there is no forecast (NaN) there is no order (NaN). A row depends on that row alone.
    """
    forecasts_TA = forecasts.to_numpy(np.float64)
    match policy:
        case WeightsPolicy():
            weights_TA = forecasts_TA
        case TanhPolicy():
            weights_TA = policy.max_weight * np.tanh(policy.scale * forecasts_TA)
        case ThresholdPolicy():
            side_TA = (forecasts_TA > policy.long_above).astype(np.float64)
            if policy.short_below is not None:
                side_TA -= forecasts_TA < policy.short_below
            weights_TA = np.where(np.isnan(forecasts_TA), np.nan, policy.weight * side_TA)
    return pd.DataFrame(weights_TA, index=forecasts.index, columns=forecasts.columns)
