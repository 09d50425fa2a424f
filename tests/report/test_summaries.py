"""The numbers behind the pictures."""

import math

import numpy as np
import pandas as pd
import pytest

from flashtrader.report.summaries import (
    Curve,
    clustered_error,
    drawdown,
    group_outcomes,
    monthly_returns,
    pooled_correlation,
)


def _days(*dates):
    return np.array(dates, dtype="datetime64[ms]").astype(np.int64)


def test_drawdown_by_hand():
    assert drawdown(np.array([100.0, 80.0, 120.0, 60.0, 0.0])).tolist() == pytest.approx([0, -0.2, 0, -0.5, -1])


def test_months_by_hand():
    curve = Curve(
        _days("2022-11-29", "2022-11-30", "2022-12-01", "2022-12-31", "2023-02-01", "2023-02-02"),
        np.array([100.0, 110.0, 121.0, 99.0, 99.0, 198.0]),
    )
    years, returns, annual = monthly_returns(curve)
    assert years == [2022, 2023]
    assert returns[0, 10:].tolist() == pytest.approx([0.1, -0.1])
    assert returns[1, 1] == pytest.approx(1.0)
    assert np.isfinite(returns).sum() == 3
    assert annual.tolist() == pytest.approx([-0.01, 1.0])


def test_months_agree_with_pandas_and_compound_to_the_total():
    rng = np.random.default_rng(0)
    time = pd.date_range("2020-03-05", periods=20_000, freq="h", tz="UTC").as_unit("ms")
    equity = 1e5 * np.exp(np.cumsum(rng.normal(size=len(time)) * 0.01))
    _, returns, annual = monthly_returns(Curve(time.asi8, equity))
    ends = pd.Series(equity, time).resample("ME").last().to_numpy()
    expected = ends / np.append(equity[0], ends[:-1]) - 1
    assert returns[np.isfinite(returns)] == pytest.approx(expected)
    assert np.prod(1 + annual) == pytest.approx(equity[-1] / equity[0])


def test_groups_are_tenths_in_order_of_the_forecast():
    rng = np.random.default_rng(0)
    forecasts = rng.normal(size=(500, 4)) * 0.001
    outcomes = forecasts + rng.normal(size=(500, 4)) * 1e-6
    groups = group_outcomes(forecasts, outcomes)
    assert [group.num_pairs for group in groups] == [200] * 10
    means = [group.mean_forecast for group in groups]
    assert means == sorted(means)
    assert [group.mean_outcome for group in groups] == pytest.approx(means, abs=1e-6)


@pytest.mark.parametrize(
    ("forecasts", "num_groups"), [(np.zeros(0), 0), (np.arange(1.0), 1), (np.arange(35.0), 3), (np.ones(1_000), 1)]
)
def test_few_or_equal_forecasts_make_few_groups(forecasts, num_groups):
    groups = group_outcomes(forecasts[:, None], forecasts[:, None])
    assert len(groups) == num_groups
    assert sum(group.num_pairs for group in groups) == len(forecasts)


def test_pairs_with_a_hole_do_not_count():
    forecasts, outcomes = np.array([[1.0, np.nan], [2.0, 3.0]]), np.array([[1.0, 5.0], [np.nan, 3.0]])
    (group,) = group_outcomes(forecasts, outcomes)
    assert (group.num_pairs, group.mean_forecast, group.mean_outcome) == (2, 2.0, 2.0)


def test_clustered_error_is_the_plain_one_for_clusters_of_one():
    values = np.random.default_rng(0).normal(size=300)
    assert clustered_error(values, np.arange(300)) == pytest.approx(values.std(ddof=1) / math.sqrt(300))


def test_clustered_error_sees_that_repeats_are_not_evidence():
    values = np.random.default_rng(0).normal(size=50)
    repeated = clustered_error(np.repeat(values, 24), np.repeat(np.arange(50), 24))
    assert repeated == pytest.approx(clustered_error(values, np.arange(50)))
    assert math.isnan(clustered_error(values, np.zeros(50, np.int64)))


def test_correlation_is_unknown_where_nothing_varies():
    rng = np.random.default_rng(0)
    both = rng.normal(size=(200, 2))
    assert pooled_correlation(both, -2 * both) == pytest.approx(-1)
    assert math.isnan(pooled_correlation(np.ones((200, 2)), both))
    assert math.isnan(pooled_correlation(both[:1], both[:1]))
