"""The page: whole, self-contained, escaped, and true to the numbers."""

import json
import math
import re
from html import escape
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from plotly.graph_objects import Figure

from flashtrader.backtest.assessment import assess
from flashtrader.backtest.outputs import summary
from flashtrader.backtest.result import run_backtest
from flashtrader.config import BacktestConfig, Experiment
from flashtrader.files import finite
from flashtrader.interval import Interval
from flashtrader.report.cost_breakdown import cost_totals
from flashtrader.report.formats import percent
from flashtrader.report.markup import prose
from flashtrader.report.metric_names import METRIC_NAMES, series_name
from flashtrader.report.tearsheet import summarise, write_report

HOUR_MS = 3_600_000
START_MS = 1_640_995_200_000
HOURLY = Interval.parse("60")
_COMPARED = ("total_return", "annual_volatility", "sharpe", "max_drawdown", "turnover", "num_trades", "total_cost")


def _bars(closes):
    closes = np.asarray(closes, dtype=np.float64)
    opens = np.append(closes[:1], closes[:-1])
    timestamps = START_MS + np.arange(len(closes)) * HOUR_MS
    high, low = np.maximum(opens, closes), np.minimum(opens, closes)
    return pd.DataFrame(
        {"timestamp": timestamps, "open": opens, "high": high, "low": low, "close": closes, "volume": 1.0}
    )


def _table(values, symbols):
    time = pd.to_datetime(START_MS + np.arange(len(values)) * HOUR_MS, unit="ms", utc=True).rename("time")
    return pd.DataFrame(values, index=time, columns=symbols)


def _result(closes_by_symbol, weights, plain=(), **config):
    bars = {symbol: _bars(closes) for symbol, closes in closes_by_symbol.items()}
    table = _table(weights, list(bars))
    beside = {family: table.shift(place + 1) for place, family in enumerate(plain)}
    return run_backtest(bars, table, HOURLY, BacktestConfig(**config), beside)


def _random_result(num_bars=500, symbols=("BTCUSDT", "ETHUSDT"), **config):
    rng = np.random.default_rng(0)
    closes = {symbol: 100 * np.exp(np.cumsum(rng.normal(size=num_bars) * 0.01)) for symbol in symbols}
    return _result(closes, np.tanh(rng.normal(size=(num_bars, len(symbols)))) / len(symbols), **config)


RESULTS = {
    "two symbols": _random_result(),
    "funding": _random_result(funding_rate=1e-4),
    "plain models": _random_result(plain=("persistence", "drift", "momentum", "ridge", "dlinear", "boosting")),
    "no trades": _result({"BTCUSDT": np.linspace(100, 130, 50)}, np.zeros((50, 1))),
    "one bar": _result({"BTCUSDT": [100, 101]}, np.ones((2, 1))),
    "ruin": _result({"BTCUSDT": [100, 100, 100, 50, 60, 70]}, np.full((6, 1), 3.0), max_gross=3.0),
}


class _Page(HTMLParser):
    """What a browser would load, and the page's structure."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.text, self.scripts = [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag != "meta":
            self.open.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        else:
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.attributes if name == tag]

    @property
    def charts(self):
        """The data of each chart, by its name."""
        names = [figure["id"].removeprefix("chart-") for figure in self.all("figure")]
        return dict(zip(names, map(json.loads, self.scripts[: len(names)]), strict=True))


def _experiment(**sections):
    return Experiment.model_validate({"name": "demo", "data": {"symbols": ["BTCUSDT", "ETHUSDT"]}, **sections})


def _write(result, directory, *, forecasts=None, outcomes=None, **arguments):
    assessment = assess(result, forecasts=forecasts, outcomes=outcomes, horizon_bars=24)
    given = {"title": "demo-001", "experiment": _experiment(), "assessment": assessment} | arguments
    return write_report(result, directory, forecasts=forecasts, outcomes=outcomes, **given)


def _forecasts():
    return _table(np.random.default_rng(1).normal(size=(500, 2)) / 100, ["BTCUSDT", "ETHUSDT"])


@pytest.fixture(scope="module", params=RESULTS.keys())
def result_and_text(request, tmp_path_factory):
    result = RESULTS[request.param]
    return result, _write(result, tmp_path_factory.mktemp("report")).read_text(encoding="utf-8")


def test_every_result_makes_a_page_that_needs_nothing_else(result_and_text):
    _, text = result_and_text
    page = _Page(text)
    assert page.open == []
    own = text.replace(page.scripts[-2], "")  # plotly.js, which names addresses of maps that nothing here asks for
    assert not re.search(r"https?://|url\(|@import", own)
    assert {tag for tag, _ in page.attributes}.isdisjoint({"link", "iframe", "object", "img"})
    assert all(link["href"].startswith("#") for link in page.all("a"))
    assert all("src" not in script for script in page.all("script"))
    policy = page.all("meta")[1]["content"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in policy.partition("script-src")[2]
    assert all(header["scope"] in ("row", "col") for header in page.all("th"))
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)


def test_every_chart_is_one_that_plotly_knows_and_is_told_in_words(result_and_text):
    page = _Page(result_and_text[1])
    assert {"equity", "drawdown", "exposure", "turnover", "positions"} <= page.charts.keys()
    for chart in page.charts.values():
        Figure(data=chart["traces"], layout=chart["layout"])
    words = [plot["aria-label"] for plot in page.all("div") if plot.get("class") == "plot"]
    assert len(words) == len(page.charts)
    assert all(len(text) > 15 for text in words)


def test_the_verdict_comes_first_and_its_age_is_told(result_and_text):
    result, text = result_and_text
    verdict = assess(result).verdict
    assert f'<p class="verdict">{prose(verdict)}</p>' in text
    assert text.index('verdict">') < text.index("<table")
    assert '<p class="note">A verdict counts the trials known when its backtest was made; later ones are' in text


def test_the_figures_of_the_page_are_those_of_backtest_json(result_and_text):
    result, text = result_and_text
    told = finite(summary(result, assess(result)))
    models = {"Strategy": told["metrics"]} | {series_name(name): each for name, each in told["references"].items()}
    compared = [name for name in METRIC_NAMES if name.key in _COMPARED]
    for model, metrics in models.items():
        cells = "".join(f"<td>{_written(name, metrics)}</td>" for name in compared)
        assert f'<tr><th scope="row">{model}</th>{cells}</tr>' in text
    for name in METRIC_NAMES:
        cells = "".join(f"<td>{_written(name, models[model])}</td>" for model in ("Strategy", "Buy and hold", "Cash"))
        assert f'<tr><th scope="row">{name.label}</th>{cells}</tr>' in text


def _written(name, metrics):
    value = metrics[name.key]
    return name.text(math.nan if value is None else value)


def test_equity_of_the_chart_is_that_of_the_backtest(result_and_text):
    result, text = result_and_text
    drawn = next(trace for trace in _Page(text).charts["equity"]["traces"] if trace["name"] == "Strategy")
    assert drawn["x"] == result.timestamps.tolist()
    assert drawn["y"] == pytest.approx(result.equity.tolist(), rel=1e-5)


@pytest.mark.parametrize("config", [{}, {"funding_rate": 1e-3, "half_spread_bps": 3.0}, {"volatility_slippage": 0.1}])
def test_the_waterfall_adds_up_to_what_prices_earned_and_to_what_was_left(tmp_path, config):
    result = _random_result(**config)
    totals = cost_totals(result)
    net = result.equity[-1] - result.equity[0]
    earned = result.held[:-1] * (result.prices[1:] / result.prices[:-1] - 1)
    assert np.nansum(earned) == pytest.approx(net + sum(totals.values()), abs=1e-6)
    assert ("Funding" in totals, "Spread" in totals) == ("funding_rate" in config, "half_spread_bps" in config)
    drawn = _Page(_write(result, tmp_path).read_text("utf-8")).charts["costs"]["traces"][0]
    assert drawn["x"] == ["Before costs", *totals, "After costs"]
    assert sum(drawn["y"][:-1]) == pytest.approx(drawn["y"][-1], rel=1e-4)
    assert drawn["y"][-1] == pytest.approx(net, rel=1e-5)


def test_forecasts_beside_outcomes_have_charts_and_figures(tmp_path):
    forecasts = _forecasts()
    page = _Page(
        _write(RESULTS["two symbols"], tmp_path, forecasts=forecasts, outcomes=forecasts[::-1] * 2).read_text()
    )
    # Outcomes are joined by time: given in reverse, they still are exactly twice the forecasts.
    calibration = page.charts["calibration"]["traces"][1]
    assert calibration["y"] == pytest.approx([2 * value for value in calibration["x"]], rel=1e-4)
    assert "IC, 95\N{NO-BREAK SPACE}%+1.000 ± " in page.text
    assert "The slope through the groups is 2.00." in page.text


def test_weights_alone_have_no_forecasts_on_the_page(tmp_path):
    page = _Page(_write(RESULTS["two symbols"], tmp_path).read_text("utf-8"))
    assert page.charts.keys().isdisjoint({"deciles", "calibration", "ic"})
    assert "What the forecasts were worth" not in page.text


def test_a_long_history_stays_a_small_page(tmp_path):
    result = _random_result(20_000, plain=("ridge",))
    text = _write(result, tmp_path).read_text("utf-8")
    assert len(text) - len(_Page(text).scripts[-2]) < 1_500_000
    drawn = next(trace for trace in _Page(text).charts["equity"]["traces"] if trace["name"] == "Strategy")
    assert min(drawn["y"]) == pytest.approx(result.equity.min(), rel=1e-5)
    assert max(drawn["y"]) == pytest.approx(result.equity.max(), rel=1e-5)


def test_the_same_result_gives_the_same_bytes(tmp_path):
    manifest = {"seed": 0, "data": {"BTCUSDT": {"rows": 500, "sha256": "ab12"}}}
    first = _write(RESULTS["two symbols"], tmp_path / "a", manifest=manifest).read_bytes()
    assert _write(RESULTS["two symbols"], tmp_path / "b", manifest=manifest).read_bytes() == first


def test_every_text_from_outside_is_escaped(tmp_path):
    evil = "<script>alert('&\"')</script>"
    result = _random_result(50, symbols=(evil, "ETHUSDT"))
    forecasts = _table(np.random.default_rng(1).normal(size=(50, 2)), [evil, "ETHUSDT"])
    experiment = _experiment(data={"symbols": [evil, "ETHUSDT"]})
    manifest = {evil: {evil: [evil]}, "data": {evil: {"first": evil, "last": evil, "sha256": evil}}}
    text = _write(
        result, tmp_path, title=evil, experiment=experiment, manifest=manifest, forecasts=forecasts, outcomes=forecasts
    ).read_text("utf-8")
    page = _Page(text)
    plain = _Page(
        _write(
            _random_result(50), tmp_path / "plain", forecasts=_forecasts()[:50], outcomes=_forecasts()[:50]
        ).read_text()
    )
    assert len(page.scripts) == len(plain.scripts)
    assert page.text.count(evil) >= 6
    assert page.open == []
    # plotly reads a little HTML in the names that it shows.
    assert page.charts["positions"]["traces"][0]["y"] == [escape(evil), "ETHUSDT"]


def test_the_manifest_is_told_whole(tmp_path):
    manifest = {
        "seed": 7,
        "versions": {"torch": "2.13.0", "python": "3.12"},
        "data": {"BTCUSDT": {"rows": 500, "sha256": "ab12"}, "ETHUSDT": {}},
        "attention": {"backend": "sdpa", "passed_over": {"flash": "not installed"}},
        "features": ["rsi_14", "log_return"],
        "device": None,
    }
    text = _Page(_write(RESULTS["two symbols"], tmp_path, manifest=manifest).read_text("utf-8")).text
    for part in (
        "seed7",
        "torch 2.13.0 · python 3.12",
        "data.BTCUSDTrows 500 · sha256 ab12",
        "data.ETHUSDTnone",
        "attention.passed_overflash not installed",
        "rsi_14, log_return",
        "devicenone",
    ):
        assert part in text


def test_assumptions_and_costs_are_those_of_the_result(tmp_path):
    result = _random_result(
        fill="close", fee_bps=4.0, slippage_bps=1.25, funding_rate=1e-4, no_trade_band=0.03, maintenance_margin=0.05
    )
    text = _Page(_write(result, tmp_path).read_text("utf-8")).text
    assert "not charged" not in text
    for part in (
        "at the deciding bar's own close",
        "4 bp of traded value",
        "1.25 bp of traded value",
        "longs pay shorts 0.01% every 8 hours",
        "24/7: 8,760 bars a year",
        "below 3% of equity",
        "Orders are scaled down to100% of equity, long and short together",
        "below 5% of the value held, for 50 bp of it",
        f"{np.abs(result.traded).sum():,.0f}",
        f"Fees−{np.abs(result.traded).sum() * 4e-4:,.0f}",
        "Liquidations0",
    ):
        assert part in text


def test_results_at_multiples_of_the_costs_have_a_table(tmp_path):
    result = RESULTS["two symbols"]
    text = _write(result, tmp_path).read_text("utf-8")
    for multiple, metrics in result.multiples.items():
        assert f'<tr><th scope="row">{multiple}×</th><td>{percent(metrics.total_return, signed=True)}</td>' in text


def test_the_commands_make_the_backtest_again(tmp_path):
    trained = _experiment(data={"symbols": ["BTCUSDT", "ETHUSDT"], "category": "spot"})
    manifest = {
        "experiment": trained.model_dump(mode="json"),
        "data": {
            "BTCUSDT": {"rows": 8, "first": "2022-01-01T00:00:00Z", "last": "2022-01-01T09:00:00Z", "sha256": "a" * 64},
            "ETHUSDT": {"rows": 5, "first": "2022-01-01T05:00:00Z", "last": "2022-01-01T09:00:00Z", "sha256": "b" * 64},
        },
    }
    traded = trained.model_copy(update={"backtest": BacktestConfig(fee_bps=1.0)})
    result = RESULTS["two symbols"]
    text = _Page(_write(result, tmp_path, experiment=traded, manifest=manifest).read_text("utf-8")).text
    for line in (
        "flashtrader fetch --source bybit --symbols BTCUSDT,ETHUSDT --interval 60 --category spot "
        "--start 2022-01-01T00:00:00Z --end 2022-01-01T10:00:00Z",
        "flashtrader train --from runs/demo-001/manifest.json",
        "flashtrader predict",
        "flashtrader backtest --set backtest.fee_bps=1.0",
    ):
        assert f"{line}\n" in text.replace(" \\\n  ", " ")
    # Bars: 8 of 10 are there, and a price is missing at none of the backtest's.
    assert "BTCUSDT82022-01-01 00:002022-01-01 09:0020" + "a" * 16 in text
    without = _Page(_write(result, tmp_path).read_text("utf-8")).text.replace(" \\\n  ", " ")
    assert "flashtrader backtest --config runs/demo-001/config.yaml --weights runs/demo-001/weights.parquet" in without


def test_missing_funding_is_told(tmp_path):
    assert "Fundingnot charged" in _Page(_write(RESULTS["two symbols"], tmp_path).read_text("utf-8")).text


def test_the_summary_says_what_happened():
    summary = summarise(RESULTS["two symbols"])
    metrics = RESULTS["two symbols"].metrics
    assert summary.startswith("After costs of 7.5 bp a side, the strategy returned ")
    assert f"{metrics.num_trades:,} trades" in summary
    assert f"{abs(metrics.total_return):.1%}" in summary
    assert summary.endswith("The period is 21 days: annual figures stretch it to a year.")


def test_the_summary_of_no_trades_does_not_speak_of_a_result():
    assert summarise(RESULTS["no trades"]).startswith(
        "The strategy never traded and ended where it began. Buy and hold"
    )


def test_the_summary_of_a_ruin_says_when():
    assert "its equity fell to zero or below in the bar of 2022-01-01 03:00 UTC" in summarise(RESULTS["ruin"])


def test_the_summary_of_a_single_bar_does_not_annualise():
    assert summarise(RESULTS["one bar"]).endswith("The period is a single bar, in which nothing can be earned.")
