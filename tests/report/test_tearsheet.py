"""The page: whole, self-contained, escaped, and true to the numbers."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from flashtrader.backtest.result import run_backtest
from flashtrader.config import BacktestConfig
from flashtrader.interval import Interval
from flashtrader.report.metric_names import METRIC_NAMES
from flashtrader.report.tearsheet import summarise, write_report

HOUR_MS = 3_600_000
START_MS = 1_640_995_200_000
HOURLY = Interval.parse("60")


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
        self.open, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.attributes if name == tag]


def _write(result, directory, **arguments):
    return write_report(result, directory, **({"title": "demo-001", "config_yaml": "name: demo\n"} | arguments))


@pytest.fixture(scope="module", params=RESULTS.keys())
def result_and_text(request, tmp_path_factory):
    result = RESULTS[request.param]
    return result, _write(result, tmp_path_factory.mktemp("report")).read_text(encoding="utf-8")


def test_every_result_makes_a_page_that_needs_nothing_else(result_and_text):
    _, text = result_and_text
    page = _Page(text)
    assert page.open == []
    assert not re.search(r"https?://|url\(|@import", text)
    assert {tag for tag, _ in page.attributes}.isdisjoint({"script", "link", "iframe", "object", "a"})
    assert len(page.all("img")) == 4
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert all(len(image["alt"]) > 20 for image in page.all("img"))
    assert all(header["scope"] in ("row", "col") for header in page.all("th"))
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)


def test_the_page_holds_every_figure_of_the_strategy_and_of_its_references(result_and_text):
    result, text = result_and_text
    columns = [result.metrics, result.references["buy_and_hold"].metrics, result.references["cash"].metrics]
    for name in METRIC_NAMES:
        cells = "".join(f"<td>{name.text(getattr(metrics, name.key))}</td>" for metrics in columns)
        assert f'<tr><th scope="row">{name.label}</th>{cells}</tr>' in text


def test_the_pictures_of_the_page_are_those_beside_it(tmp_path):
    result = RESULTS["two symbols"]
    forecasts = _table(np.random.default_rng(1).normal(size=(500, 2)) / 100, ["BTCUSDT", "ETHUSDT"])
    page = _Page(_write(result, tmp_path, forecasts=forecasts, outcomes=forecasts.iloc[::-1] * 2).read_text("utf-8"))
    names = ["equity", "drawdown", "positions", "monthly_returns", "forecast_outcome"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*(f"{name}.png" for name in names), "report.html"]
    )
    for name, image in zip(names, page.all("img"), strict=True):
        content = base64.b64decode(image["src"].partition(",")[2])
        assert content == (tmp_path / f"{name}.png").read_bytes()
        assert [int(image["width"]), int(image["height"])] == [int.from_bytes(content[at : at + 4]) for at in (16, 20)]
    # Outcomes are joined by time: given in reverse, they still are exactly twice the forecasts.
    assert "correlation of forecast and outcome is +1.000" in page.all("img")[-1]["alt"]


def test_a_picture_of_an_earlier_report_does_not_stay(tmp_path):
    forecasts = _table(np.random.default_rng(1).normal(size=(500, 2)) / 100, ["BTCUSDT", "ETHUSDT"])
    _write(RESULTS["one bar"], tmp_path, forecasts=forecasts, outcomes=forecasts)
    assert (tmp_path / "forecast_outcome.png").exists()
    _write(RESULTS["one bar"], tmp_path)
    assert not (tmp_path / "forecast_outcome.png").exists()


def test_the_same_result_gives_the_same_bytes(tmp_path):
    manifest = {"seed": 0, "data": {"BTCUSDT": {"rows": 500, "sha256": "ab12"}}}
    first = _write(RESULTS["two symbols"], tmp_path / "a", manifest=manifest).read_bytes()
    assert _write(RESULTS["two symbols"], tmp_path / "b", manifest=manifest).read_bytes() == first


def test_every_text_from_outside_is_escaped(tmp_path):
    evil = "<script>alert('&\"')</script>"
    result = _random_result(50, symbols=(evil, "ETHUSDT"))
    text = _write(result, tmp_path, title=evil, config_yaml=evil, manifest={evil: {evil: [evil]}}).read_text("utf-8")
    page = _Page(text)
    assert not page.all("script")
    assert page.text.count(evil) >= 6
    assert page.open == []


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
    result = _random_result(fill="close", fee_bps=4.0, slippage_bps=1.25, funding_rate=1e-4, no_trade_band=0.03)
    text = _Page(_write(result, tmp_path).read_text("utf-8")).text
    assert "not charged" not in text
    for part in (
        "at the deciding bar's own close",
        "4 bp of traded value",
        "1.25 bp of traded value",
        "longs pay shorts 0.01% every 8 hours",
        "24/7: 8,760 bars a year",
        "below 3% of equity",
        f"{np.abs(result.traded).sum():,.0f}",
        f"Fees{np.abs(result.traded).sum() * 4e-4:,.0f}",
    ):
        assert part in text


def test_missing_funding_is_told(tmp_path):
    assert "Fundingnot charged" in _Page(_write(RESULTS["one bar"], tmp_path).read_text("utf-8")).text


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


def test_plain_models_have_a_table(tmp_path):
    text = _Page(_write(RESULTS["plain models"], tmp_path).read_text(encoding="utf-8")).text
    assert "Beside plain models" in text
    for family in ("Persistence", "Drift", "Momentum", "Ridge", "DLinear", "Boosting"):
        assert family in text
