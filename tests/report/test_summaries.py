"""The numbers behind the pictures."""

import math

import numpy as np
import pandas as pd
import pytest

from flashtrader.backtest.metrics import sharpe, simple_returns
from flashtrader.report.summaries import (
    Curve,
    clustered_error,
    deepest_dips,
    drawdown,
    group_outcomes,
    monthly_returns,
    period_sums,
    rolling_sharpe,
    rolling_window_days,
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


def test_dips_by_hand():
    equity = np.array([100.0, 90.0, 100.0, 120.0, 60.0, 90.0, 130.0, 117.0, 125.0])
    days = _days(*(f"2024-01-0{day}" for day in range(1, 10)))
    deepest, middle, shallow = deepest_dips(Curve(days, equity))
    assert deepest == (-0.5, days[3], days[4], days[6])
    assert middle == (pytest.approx(-0.1), days[0], days[1], days[2])
    assert shallow == (pytest.approx(-0.1), days[6], days[7], None)
    assert deepest_dips(Curve(days, equity), most=1) == [deepest]
    assert deepest_dips(Curve(days, np.arange(1.0, 10.0))) == []


def test_rolling_sharpe_is_the_metric_of_each_window():
    rng = np.random.default_rng(0)
    equity = 1e5 * np.exp(np.cumsum(rng.normal(0, 0.01, 300)))
    rolled = rolling_sharpe(Curve(np.arange(300), equity), 40, 365)
    assert rolled.timestamps.tolist() == list(range(40, 300))
    for place in (0, 100, 259):
        window = simple_returns(equity[place : place + 41])
        assert rolled.equity[place] == pytest.approx(sharpe(window, 365))


def test_rolling_sharpe_of_no_movement_is_not_defined():
    assert np.isnan(rolling_sharpe(Curve(np.arange(50), np.full(50, 1e5)), 10, 365).equity).all()


@pytest.mark.parametrize(("num_days", "window"), [(5, None), (30, 7), (100, 30), (400, 90), (2_000, 365)])
def test_the_rolling_window_fits_the_period_three_times(num_days, window):
    assert rolling_window_days(np.array([0, num_days * 86_400_000])) == window


@pytest.mark.parametrize(("num_days", "period"), [(40, "day"), (300, "week"), (1_000, "month"), (5_000, "quarter")])
def test_sums_by_period_add_up_and_cover_the_days(num_days, period):
    timestamps = _days("2023-11-15")[0] + np.arange(num_days) * 86_400_000
    values = np.random.default_rng(0).random(num_days)
    summed = period_sums(timestamps, values)
    assert summed.period == period
    assert len(summed.sums) <= 80
    assert summed.sums.sum() == pytest.approx(values.sum())
    assert summed.starts_ms[0] <= timestamps[0]
    assert (summed.starts_ms[1:] - summed.ends_ms[:-1] == 1).all()
    within = (timestamps >= summed.starts_ms[1]) & (timestamps <= summed.ends_ms[1])
    assert summed.sums[1] == pytest.approx(values[within].sum())
