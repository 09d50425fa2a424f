import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashtrader.backtest.policy import overlapping_weights, policy_weights, target_weights, volatility_scaled
from flashtrader.config import Experiment, TanhPolicy, ThresholdPolicy, TopKPolicy, validate

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


@pytest.mark.parametrize("long_only", [False, True])
def test_top_k_holds_the_k_highest_and_lowest_of_each_bar(long_only) -> None:
    index = pd.date_range("2024-01-01", periods=1, freq="h", tz="UTC", name="time")
    row = pd.DataFrame([[0.03, -0.02, 0.01, NAN, 0.02]], index, columns=list("ABCDE"))
    policy = TopKPolicy(kind="top_k", k=2, long_only=long_only, gross=0.8)
    weights = target_weights(row, policy).to_numpy()
    expected = [[0.4, 0, 0, NAN, 0.4]] if long_only else [[0.2, -0.2, -0.2, NAN, 0.2]]
    np.testing.assert_allclose(weights, expected)


def test_top_k_leaves_out_what_is_tied_across_the_border_and_what_is_on_both_sides() -> None:
    index = pd.date_range("2024-01-01", periods=6, freq="h", tz="UTC", name="time")
    rows = pd.DataFrame(
        [
            [0.0, 0.0, 0.0, 0.0],  # nothing tells them apart
            [0.5, 0.1, 0.1, 0.1],  # one stands out above; below, three are tied for two places
            [0.5, 0.4, 0.4, 0.1],  # the same on both sides
            [0.5, 0.5, 0.1, 0.1],  # tied within a side
            [0.3, 0.2, 0.1, NAN],  # three forecasts: the middle one is on neither side
            [0.3, NAN, NAN, NAN],  # a single one has no other side
        ],
        index,
        columns=list("ABCD"),
    )
    weights = target_weights(rows, TopKPolicy(kind="top_k", k=2)).to_numpy()
    expected = [
        [0, 0, 0, 0],
        [0.25, 0, 0, 0],
        [0.25, 0, 0, -0.25],
        [0.25, 0.25, -0.25, -0.25],
        [0.25, 0, -0.25, NAN],
        [0, NAN, NAN, NAN],
    ]
    np.testing.assert_allclose(weights, expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.booleans(), st.permutations(range(7)))
def test_top_k_does_not_care_about_the_order_of_markets_or_a_monotone_map(seed, k, long_only, order) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(-3, 4, (30, 7)).astype(float)  # many ties
    values[rng.random(values.shape) < 0.2] = NAN
    index = pd.date_range("2024-01-01", periods=30, freq="h", tz="UTC", name="time")
    table = pd.DataFrame(values, index, columns=list("ABCDEFG"))
    policy = TopKPolicy(kind="top_k", k=k, long_only=long_only)
    weights = target_weights(table, policy)
    pd.testing.assert_frame_equal(target_weights(table.iloc[:, order], policy), weights.iloc[:, order])
    pd.testing.assert_frame_equal(target_weights(np.exp(table) - 5, policy), weights)
    assert (weights.abs().sum(axis=1) <= 1 + 1e-12).all()
    if not long_only:
        pd.testing.assert_frame_equal(target_weights(-table, policy), -weights + 0.0)


def test_weights_held_for_the_horizon_are_the_mean_of_the_last_rows() -> None:
    weights = np.array([[1.0], [0.0], [0.5], [NAN], [-1.0]])
    held = overlapping_weights(weights, np.arange(5), 2)
    np.testing.assert_allclose(held.ravel(), [0.5, 0.5, 0.25, 0.25, -0.5])
    # Bars 3 and 4 have no row: what was opened at 2 is over by 5, and what opened at 5 is half of it.
    gap = overlapping_weights(weights, np.array([0, 1, 2, 5, 6]), 3)
    np.testing.assert_allclose(gap.ravel(), [1 / 3, 1 / 3, 0.5, 0, -1 / 3])
    np.testing.assert_array_equal(overlapping_weights(weights, np.arange(5), 1), np.nan_to_num(weights))


def test_holding_for_the_horizon_earns_what_its_parts_earn() -> None:
    """Traded without costs, overlapping parts earn the mean of portfolios that open at each bar and are held."""
    rng = np.random.default_rng(0)
    returns = rng.normal(0, 0.001, (60, 2))
    weights = rng.uniform(-0.5, 0.5, (60, 2))
    held = overlapping_weights(weights, np.arange(60), 4)
    parts = [(weights[i] * returns[i + age]).sum() / 4 for i in range(60) for age in range(4) if i + age < 60]
    assert (held * returns).sum() == pytest.approx(sum(parts))


def test_the_target_volatility_is_that_of_the_weights_over_the_trailing_bars() -> None:
    rng = np.random.default_rng(1)
    returns = rng.normal(0, [0.01, 0.03], (50, 2))
    weights = rng.uniform(-1, 1, (20, 2))
    rows = np.arange(30, 50)
    scaled = volatility_scaled(weights, returns, rows, 24, 0.005)
    for row, place in enumerate(rows):
        past = returns[place - 23 : place + 1] @ scaled[row]
        assert np.sqrt(np.mean(past**2)) == pytest.approx(0.005)
        assert scaled[row, 0] / scaled[row, 1] == pytest.approx(weights[row, 0] / weights[row, 1])


def test_what_has_no_known_volatility_has_no_order_and_nothing_stays_nothing() -> None:
    returns = np.full((10, 3), 0.01)
    returns[:7, 1] = NAN  # listed late: three of six returns by the last row, two by the one before
    returns[:, 2] = 0.0  # never moves
    weights = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.5]])
    scaled = volatility_scaled(weights, returns, np.array([8, 9, 9, 9]), 6, 0.01)
    root = np.sqrt((3 * 0.01**2 + 3 * 0.005**2) / 6)
    np.testing.assert_allclose(scaled[0], [1.0, NAN, 0.0])
    np.testing.assert_allclose(scaled[1], np.array([0.5, 0.5, 0.0]) * 0.01 / root)
    np.testing.assert_array_equal(scaled[2], [0, 0, 0])
    assert np.isnan(scaled[3]).all()


POLICIES = [
    {"kind": "tanh", "hold": "horizon"},
    {"kind": "threshold", "short_below": -0.001, "volatility_target": 0.3, "volatility_bars": 12},
    {"kind": "top_k", "k": 1, "hold": "horizon", "volatility_target": 0.3, "volatility_bars": 12},
]


def experiment_of(policy: dict[str, object]) -> Experiment:
    return validate(
        {"data": {"symbols": ["A", "B"]}, "panel": {"target": {"horizon_bars": 5}}, "policy": policy}, "policy"
    )


def bars_of(closes: np.ndarray, keep: np.ndarray) -> pd.DataFrame:
    times = 3_600_000 * np.arange(len(closes))[keep]
    return pd.DataFrame({"timestamp": times} | dict.fromkeys(("open", "high", "low", "close"), closes[keep]))


@pytest.mark.parametrize("policy", POLICIES)
def test_later_forecasts_and_prices_change_no_earlier_weight(policy) -> None:
    rng = np.random.default_rng(2)
    keep = rng.random(120) > 0.1
    closes = 100 * np.exp(rng.normal(0, 0.01, (2, 120)).cumsum(axis=1))
    index = pd.to_datetime(3_600_000 * np.arange(120)[keep], unit="ms", utc=True).rename("time")
    forecasts = pd.DataFrame(rng.normal(0, 0.01, (keep.sum(), 2)), index, columns=["A", "B"])
    forecasts = forecasts.mask(rng.random(forecasts.shape) < 0.1).iloc[20:]
    experiment = experiment_of(policy)

    def weights(closes: np.ndarray, forecasts: pd.DataFrame) -> pd.DataFrame:
        bars = {symbol: bars_of(one, keep) for symbol, one in zip("AB", closes, strict=True)}
        return policy_weights(forecasts, bars, experiment)

    whole = weights(closes, forecasts)
    assert whole.notna().any().all()
    for cut in range(0, len(forecasts) - 1, 7):
        hour = forecasts.index[cut].value // 3_600_000_000_000
        other_closes = np.where(np.arange(120) > hour, 100 * np.exp(rng.normal(size=closes.shape)), closes)
        other = forecasts.copy()
        other.iloc[cut + 1 :] = rng.normal(size=(len(forecasts) - cut - 1, 2))
        changed = weights(other_closes, other)
        pd.testing.assert_frame_equal(changed.iloc[: cut + 1], whole.iloc[: cut + 1], check_exact=True)
        assert not changed.equals(whole)
        alone = weights(closes, forecasts.iloc[: cut + 1])
        pd.testing.assert_frame_equal(alone, whole.iloc[: cut + 1], check_exact=True, check_freq=False)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_time_at_which_no_market_trades_is_no_bar(policy) -> None:
    """The same closes five days a week and seven, where a target's horizon counts rows: the same weights."""
    rng = np.random.default_rng(3)
    closes = 100 * np.exp(rng.normal(0, 0.01, (2, 60)).cumsum(axis=1))
    forecasts = rng.normal(0, 0.01, (60, 2))
    weights = []
    for days in (pd.date_range("2024-01-01", periods=60, tz="UTC"), pd.bdate_range("2024-01-01", periods=60, tz="UTC")):
        times = {"timestamp": days.as_unit("ms").asi8}
        bars = {symbol: pd.DataFrame(times | {"close": close}) for symbol, close in zip("AB", closes, strict=True)}
        table = pd.DataFrame(forecasts, days.rename("time"), columns=["A", "B"])
        weights.append(policy_weights(table, bars, experiment_of(policy)).to_numpy())
    assert np.isfinite(weights[0]).any()
    np.testing.assert_array_equal(*weights)


def test_a_policy_without_either_is_its_row_alone() -> None:
    index = pd.date_range("2024-01-01", periods=3, freq="h", tz="UTC", name="time")
    forecasts = pd.DataFrame({"A": [0.1, NAN, -0.1], "B": [0.0, 0.2, 0.3]}, index)
    experiment = experiment_of({"kind": "tanh"})
    pd.testing.assert_frame_equal(
        policy_weights(forecasts, {}, experiment), target_weights(forecasts, experiment.policy)
    )
