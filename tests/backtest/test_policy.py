import math

import numpy as np
import pandas as pd
import pytest

from flashtrader.backtest.policy import target_weights
from flashtrader.config import TanhPolicy, ThresholdPolicy

NAN = math.nan


@pytest.fixture
def forecasts() -> pd.DataFrame:
    index = pd.date_range("2024-01-01", periods=5, freq="h", tz="UTC", name="time")
    return pd.DataFrame({"A": [-0.5, -0.01, 0.0, 0.02, NAN], "B": [NAN, 0.01, 0.03, -0.02, 3.0]}, index=index)


def test_tanh_grows_with_the_forecast_and_never_exceeds_its_largest_weight(forecasts) -> None:
    weights = target_weights(forecasts, TanhPolicy(kind="tanh", scale=20, max_weight=0.3))
    np.testing.assert_allclose(
        weights["A"], [-0.3 * math.tanh(10), -0.3 * math.tanh(0.2), 0, 0.3 * math.tanh(0.4), NAN]
    )
    assert weights.abs().max().max() <= 0.3
    pd.testing.assert_index_equal(weights.index, forecasts.index)
    pd.testing.assert_index_equal(weights.columns, forecasts.columns)


def test_threshold_is_long_above_short_below_and_flat_between(forecasts) -> None:
    policy = ThresholdPolicy(kind="threshold", long_above=0.01, short_below=-0.01, weight=0.5)
    weights = target_weights(forecasts, policy)
    np.testing.assert_array_equal(weights["A"], [-0.5, 0, 0, 0.5, NAN])
    np.testing.assert_array_equal(weights["B"], [NAN, 0, 0.5, -0.5, 0.5])


def test_threshold_without_a_lower_bound_never_sells_short(forecasts) -> None:
    weights = target_weights(forecasts, ThresholdPolicy(kind="threshold", weight=0.5))
    np.testing.assert_array_equal(weights["A"], [0, 0, 0, 0.5, NAN])


@pytest.mark.parametrize("policy", [TanhPolicy(kind="tanh"), ThresholdPolicy(kind="threshold", short_below=-0.005)])
def test_a_row_of_weights_depends_on_that_row_alone(forecasts, policy) -> None:
    whole = target_weights(forecasts, policy)
    rows = [target_weights(forecasts.iloc[[i]], policy) for i in range(len(forecasts))]
    pd.testing.assert_frame_equal(whole, pd.concat(rows), check_freq=False)


def test_single_precision_forecasts_give_double_precision_weights(forecasts) -> None:
    weights = target_weights(forecasts.astype(np.float32), TanhPolicy(kind="tanh"))
    assert (weights.dtypes == np.float64).all()
