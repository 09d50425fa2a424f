"""The page in a browser: it draws, complains of nothing, asks for nothing, and shows what backtest.json says."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, Drawing, open_page

from flashtrader.backtest.assessment import assess
from flashtrader.backtest.outputs import write_backtest
from flashtrader.backtest.result import run_backtest
from flashtrader.config import Experiment
from flashtrader.interval import Interval
from flashtrader.report.metric_names import METRIC_NAMES
from flashtrader.report.tearsheet import write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on the path")

HOUR_MS = 3_600_000
START_MS = 1_640_995_200_000
EVIL = "</script><script>console.log('ran')</script><img src=x onerror=console.log(1)>"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of a hundred days of two markets, one of which has a name that is to be feared."""
    directory = tmp_path_factory.mktemp("page")
    generator = np.random.default_rng(0)
    num_bars, symbols = 2_400, ("BTCUSDT", EVIL)
    timestamps = START_MS + np.arange(num_bars) * HOUR_MS
    bars = {}
    for symbol in symbols:
        closes = 100 * np.exp(np.cumsum(generator.normal(0, 0.01, num_bars)))
        opens = np.append(100.0, closes[:-1])
        bars[symbol] = pd.DataFrame(
            {"timestamp": timestamps, "open": opens, "high": np.maximum(opens, closes),
             "low": np.minimum(opens, closes), "close": closes, "volume": 1.0}
        )  # fmt: skip
    time = pd.to_datetime(timestamps, unit="ms", utc=True).rename("time")
    forecasts = pd.DataFrame(generator.normal(0, 0.01, (num_bars, 2)), index=time, columns=symbols)
    outcomes = forecasts + generator.normal(0, 0.02, (num_bars, 2))
    experiment = Experiment.model_validate(
        {"name": "demo", "data": {"symbols": symbols}, "backtest": {"funding_rate": 1e-4, "half_spread_bps": 1.0}}
    )
    weights = np.tanh(forecasts * 20) / 4
    result = run_backtest(bars, weights, Interval.parse("60"), experiment.backtest, {"ridge": weights.shift(1)})
    assessment = assess(result, forecasts=forecasts, outcomes=outcomes, horizon_bars=4)
    write_backtest(result, directory, experiment.model_dump(mode="json"), assessment)
    return write_report(
        result,
        directory,
        title=EVIL,
        experiment=experiment,
        assessment=assessment,
        forecasts=forecasts,
        outcomes=outcomes,
    )


@pytest.fixture(scope="module")
def opened(page, tmp_path_factory):
    return open_page(page, tmp_path_factory.mktemp("browser"), "--window-size=500,2000")


def test_every_chart_is_drawn(opened):
    paths = Drawing(opened.dom).paths
    assert {"chart-equity", "chart-rolling_sharpe", "chart-costs", "chart-calibration", "chart-ic"} <= paths.keys()
    assert all(number > 3 or name == "chart-positions" for name, number in paths.items()), paths
    assert paths["chart-positions"] > 0


def test_charts_fit_a_narrow_window(opened):
    widths = {int(width) for width in re.findall(r'<svg class="main-svg"[^>]* width="(\d+)"', opened.dom)}
    assert widths
    assert max(widths) < 500


def test_nothing_complains_and_no_hostile_name_runs(opened):
    assert opened.console == []


def test_nothing_is_asked_of_the_network(opened):
    assert opened.requests == []


def test_a_page_that_complains_and_asks_is_noticed(tmp_path):
    other = tmp_path / "other.html"
    other.write_text('<img src="http://127.0.0.1:9/picture.png"><script>throw new Error("oh")</script>')
    opened = open_page(other, tmp_path)
    assert opened.requests == ["http://127.0.0.1:9/picture.png"]
    assert any("oh" in line for line in opened.console)


def test_the_numbers_on_the_page_are_those_of_backtest_json(opened, page):
    told = json.loads((page.parent / "backtest.json").read_text())
    rows = Drawing(opened.dom).rows
    columns = [told["metrics"], told["references"]["buy_and_hold"], told["references"]["cash"]]
    for name in METRIC_NAMES:
        values = [math.nan if metrics[name.key] is None else metrics[name.key] for metrics in columns]
        assert [name.label, *map(name.text, values)] in rows
    for multiple in told["cost_multiples"]:
        total = next(name for name in METRIC_NAMES if name.key == "total_return")
        assert any(row[:2] == [f"{multiple['multiple']}×", total.text(multiple["total_return"])] for row in rows)
    low, high = (f"{bound:.2f}".replace("-", "\N{MINUS SIGN}") for bound in told["significance"]["sharpe"]["interval"])
    assert ["95\N{NO-BREAK SPACE}% interval", f"{low} to {high}"] in rows
    verdict = re.search(r'<p class="verdict">(.*?)</p>', opened.dom)[1]
    assert verdict.replace("&nbsp;", " ").replace("<code>", "`").replace("</code>", "`") == told["verdict"]


def test_without_scripts_the_main_numbers_are_there(page):
    text = page.read_text("utf-8")
    for figure in text.split("<figure")[1:]:
        assert re.search(r"<noscript><p>.*\d.*</p></noscript>", figure)
