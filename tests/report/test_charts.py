"""Every chart is one that plotly knows, for every kind of result, and shows what it should."""

import numpy as np
import pytest
from plotly.graph_objects import Figure

from flashtrader.backtest.estimates import EquityBand
from flashtrader.forecasting.skill import Estimate, PeriodSkill
from flashtrader.report.chart import faint, values
from flashtrader.report.charts import (
    costs_chart,
    drawdown_chart,
    equity_chart,
    multiples_chart,
    positions_chart,
    rolling_sharpe_chart,
    turnover_chart,
)
from flashtrader.report.forecast_charts import calibration_chart, decile_chart, ic_chart
from flashtrader.report.markup import embedded, figures
from flashtrader.report.summaries import Curve, drawdown, group_outcomes

HOUR_MS = 3_600_000
START_MS = 1_640_995_200_000


def _curve(equity, step_ms=HOUR_MS):
    return Curve(START_MS + np.arange(len(equity)) * step_ms, np.asarray(equity, dtype=np.float64))


def _walk(num_bars, volatility=0.01, seed=0):
    return 1e5 * np.exp(np.cumsum(np.random.default_rng(seed).normal(size=num_bars) * volatility))


def _draws(chart):
    Figure(data=chart.traces, layout=chart.layout)
    assert len(chart.alt) > 10
    assert all(place < len(chart.traces) for entry in chart.legend for place in entry.traces)
    return chart


CURVES = {
    "a walk": _walk(2_000),
    "one bar": [1e5],
    "two bars": [1e5, 9e4],
    "flat": [1e5] * 50,
    "ruin": [1e5, 5e4, -3e3],
    "ruin to nothing": [1e5, 0.0],
    "many decades": np.geomspace(1e5, 1e-20, 400),
}


@pytest.mark.parametrize("equity", CURVES.values(), ids=CURVES.keys())
def test_every_curve_draws(equity):
    strategy, references = _curve(equity), {"Buy and hold": _curve(_walk(max(60, len(equity)), seed=1))}
    _draws(equity_chart(strategy, references, None, ruined=strategy.equity[-1] <= 0))
    _draws(drawdown_chart(strategy, references))
    chart = rolling_sharpe_chart(strategy, references, 7, 8_760.0)
    assert (chart is None) == (len(equity) <= 168)  # a week of hours
    if chart is not None:
        _draws(chart)


def test_the_band_is_what_it_was_given_and_hides_with_its_entry():
    band = EquityBand(("2022-01-01T00:00:00+00:00", "2022-01-01T02:00:00+00:00"), (1e5, 9e4), (1e5, 1.2e5))
    chart = _draws(equity_chart(_curve(_walk(10)), {"Buy and hold": _curve(_walk(10, seed=1))}, band, ruined=False))
    entry = next(entry for entry in chart.legend if entry.label == "95 % band")
    low, high = (chart.traces[place] for place in entry.traces)
    assert low["x"] == high["x"] == [START_MS, START_MS + 2 * HOUR_MS]
    assert (low["y"], high["y"]) == ([1e5, 9e4], [1e5, 1.2e5])
    assert [chart.traces[entry.traces[0]]["name"] for entry in chart.legend[:1]] == ["Strategy"]


def test_a_crash_of_one_minute_in_a_million_stays_in_the_drawdown():
    equity = _walk(1_000_000, 1e-5)
    equity[654_321] *= 0.4
    trace = drawdown_chart(_curve(equity, 60_000), {}).traces[0]
    assert min(trace["y"]) == pytest.approx(drawdown(equity).min(), rel=1e-5)
    assert len(trace["x"]) <= 3_600


@pytest.mark.parametrize(("equity", "scale"), [([1e5, 2.9e5], "linear"), ([1e5, 3.1e5], "log"), ([1e5, 0.0], "linear")])
def test_the_log_scale_comes_when_it_pays_and_can(equity, scale):
    chart = equity_chart(_curve(equity), {}, None, ruined=False)
    assert chart.layout["yaxis"]["type"] == scale
    assert chart.can_be_log == (equity[-1] > 0)


def test_every_line_has_a_colour_of_its_own():
    beside = {name: _curve(_walk(50, seed=seed)) for seed, name in enumerate(["Buy and hold", *"abcdef"])}
    chart = equity_chart(_curve(_walk(50)), beside, None, ruined=False)
    assert len({entry.colour for entry in chart.legend}) == 8


@pytest.mark.parametrize(("num_bars", "num_symbols"), [(1, 1), (2, 3), (60, 2), (3_000, 16)])
def test_positions_draw_for_any_number_of_bars_and_symbols(num_bars, num_symbols):
    symbols = [f"S{number}" for number in range(num_symbols)]
    weights = np.random.default_rng(0).normal(size=(num_bars, num_symbols)) / num_symbols
    chart = _draws(positions_chart(_curve(np.ones(num_bars)).timestamps, weights, symbols))
    assert chart.traces[0]["y"] == symbols
    assert np.mean(chart.traces[0]["z"]) == pytest.approx(weights.mean(), abs=2 / num_bars)


def test_turnover_adds_up():
    traded = np.random.default_rng(0).normal(size=(500, 2)) * 1e4
    chart = _draws(turnover_chart(_curve(np.ones(500)).timestamps, traded, np.full(500, 1e5)))
    assert sum(chart.traces[0]["y"]) == pytest.approx(np.abs(traded).sum() / 1e5, rel=1e-4)


def test_costs_and_multiples_draw():
    chart = _draws(costs_chart(10.0, {"Fees": 4.0, "Funding": -1.0}, 7.0))
    assert chart.traces[0]["y"] == [10.0, -4.0, 1.0, 7.0]
    assert chart.alt == "Before costs 10.00; Fees \N{MINUS SIGN}4.00; Funding 1.00; After costs 7.00."
    _draws(multiples_chart([0, 1, 2], [0.2, 0.1, float("nan")]))


FORECASTS = {
    "one": (np.ones((1, 1)), np.ones((1, 1))),
    "all equal": (np.zeros((400, 1)), np.random.default_rng(0).normal(size=(400, 1))),
    "many": (np.random.default_rng(1).normal(size=(900, 3)), np.random.default_rng(2).normal(size=(900, 3))),
}


@pytest.mark.parametrize(("forecasts", "outcomes"), FORECASTS.values(), ids=FORECASTS.keys())
def test_forecasts_of_any_number_draw(forecasts, outcomes):
    groups = group_outcomes(forecasts, outcomes)
    _draws(decile_chart(groups))
    _draws(calibration_chart(groups))


def test_forecasts_that_promise_twice_too_much_have_a_slope_of_a_half():
    forecasts = np.random.default_rng(0).normal(size=(1_000, 1))
    assert "0.50; 1 is calibrated" in calibration_chart(group_outcomes(forecasts, forecasts / 2)).alt


def test_months_without_a_coefficient_are_left_out():
    months = [PeriodSkill("2024-01-01", 700, 0.1, 0.05), PeriodSkill("2024-02-01", 0, float("nan"), float("nan"))]
    chart = _draws(ic_chart(months, Estimate(0.1, 0.05, (0.0, 0.2))))
    assert chart.traces[0]["x"] == [1_704_067_200_000]
    assert chart.alt.startswith("Above zero in 1 of 1 month;")


def test_numbers_that_json_can_not_hold_are_null_and_no_text_ends_its_script():
    assert values([1.23456789, float("nan"), float("inf")]) == [1.23457, None, None]
    assert embedded({"</script>&": [float("nan")]}) == '{"\\u003c/script\\u003e\\u0026":[null]}'
    assert faint("#2b8cc4", 0.5) == "rgba(43,140,196,0.5)"


def test_charts_stand_in_pairs_and_one_without_a_partner_is_wide():
    narrow = drawdown_chart(_curve(_walk(5)), {})
    wide = equity_chart(_curve(_walk(5)), {}, None, ruined=False)
    text = figures([wide, narrow, None, narrow, narrow, wide, narrow])
    classes = [part.partition('"')[0] for part in text.split('<figure class="')[1:]]
    assert classes == ["chart wide", "chart", "chart", "chart wide", "chart wide", "chart wide"]
