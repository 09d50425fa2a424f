import json
import math

import numpy as np
import pandas as pd
import pytest

from flashtrader.backtest.outputs import summary, trades, write_backtest
from flashtrader.backtest.policy import target_weights
from flashtrader.backtest.prices import constant_funding, fill_prices, union_clock
from flashtrader.backtest.reference import buy_and_hold_weights
from flashtrader.backtest.result import run_backtest
from flashtrader.backtest.signals import read_signals
from flashtrader.config import BacktestConfig, TanhPolicy
from flashtrader.errors import DataError
from flashtrader.interval import Interval
from flashtrader.market.funding import FundingHistory
from flashtrader.market.spans import Span

NAN = math.nan
HOUR_MS = 3_600_000
START_MS = 1_704_067_200_000  # 2024-01-01 00:00 UTC
HOURLY = Interval("60")
FREE = BacktestConfig(initial_equity=1_000, fee_bps=0, slippage_bps=0)
METRICS = {
    *("final_equity", "total_return", "annual_return", "annual_volatility", "sharpe", "sortino", "calmar"),
    *("max_drawdown", "max_drawdown_bars", "hit_rate", "profit_factor", "turnover", "exposure", "total_cost"),
    *("num_trades", "liquidations"),
}


def make_bars(opens, closes=None, hours=None) -> pd.DataFrame:
    opens = np.asarray(opens, float)
    closes = opens if closes is None else np.asarray(closes, float)
    hours = np.arange(len(opens)) if hours is None else np.asarray(hours)
    return pd.DataFrame(
        {
            "timestamp": START_MS + HOUR_MS * hours.astype(np.int64),
            "open": opens,
            "high": np.maximum(opens, closes),
            "low": np.minimum(opens, closes),
            "close": closes,
            "volume": 1.0,
        }
    )


def make_weights(columns: dict[str, list[float]], first_hour: int = 0) -> pd.DataFrame:
    num_rows = len(next(iter(columns.values())))
    index = pd.date_range("2024-01-01", periods=num_rows, freq="h", tz="UTC", name="time") + pd.Timedelta(
        first_hour, "h"
    )
    return pd.DataFrame(columns, index=index, dtype=float)


def walk(num_bars: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    closes = 100 * np.exp(rng.normal(0, 0.01, num_bars).cumsum())
    return make_bars(np.append(100, closes[:-1]) * np.exp(rng.normal(0, 0.001, num_bars)), closes)


def test_a_decision_is_filled_at_the_next_open_and_the_newest_has_no_row() -> None:
    bars = {"A": make_bars(opens=[100, 110, 121, 242], closes=[105, 115, 125, 250])}
    result = run_backtest(bars, make_weights({"A": [1, 1, 1, 1]}), HOURLY, FREE)
    assert result.prices.ravel().tolist() == [110, 121, 242]
    np.testing.assert_allclose(result.equity, [1_000, 1_100, 2_200])
    assert result.timestamps.tolist() == bars["A"]["timestamp"].tolist()[:3]
    assert result.time[0] == pd.Timestamp("2024-01-01T00:00Z")


def test_filled_at_the_close_the_newest_bar_counts() -> None:
    bars = {"A": make_bars(opens=[100, 110, 121], closes=[105, 115.5, 231])}
    config = FREE.model_copy(update={"fill": "close"})
    result = run_backtest(bars, make_weights({"A": [1, 1, 1]}), HOURLY, config)
    np.testing.assert_allclose(result.equity, [1_000, 1_100, 2_200])


def test_knowing_the_bar_is_worth_nothing_unless_the_next_one_follows_it() -> None:
    """Weights that chase the decision bar's own return earn it only when filled before it: never."""
    rng = np.random.default_rng(0)
    closes = 100 * np.exp(rng.normal(0, 0.02, 3_000).cumsum())
    bars = {"A": make_bars(np.append(100, closes[:-1]), closes)}
    chase = make_weights({"A": np.sign(np.diff(np.log(closes), prepend=math.log(100))).tolist()})
    foresight = chase.shift(-1)
    for fill in ("next_open", "close"):
        config = FREE.model_copy(update={"fill": fill})
        assert abs(run_backtest(bars, chase, HOURLY, config).metrics.sharpe) < 4  # within chance: √8,760 / √3,000 · 2.3
        assert run_backtest(bars, foresight, HOURLY, config).metrics.sharpe > 50


@pytest.mark.parametrize("fill", ["next_open", "close"])
def test_noise_after_a_bar_changes_no_equity_decided_before_it(fill) -> None:
    bars = {"A": walk(60, 0), "B": walk(60, 1)}
    config = BacktestConfig(fill=fill, funding_rate=0.0001)
    weights = make_weights({"A": np.linspace(-0.5, 0.5, 60).tolist(), "B": [0.3, NAN] * 30})
    cut = 30
    noisy = {}
    for seed, (symbol, table) in enumerate(bars.items()):
        noise = walk(60, 100 + seed)
        noisy[symbol] = table.where(pd.Series(np.arange(60) <= cut), noise).astype(table.dtypes)
    one = run_backtest(bars, weights, HOURLY, config)
    other = run_backtest(noisy, weights, HOURLY, config)
    known = cut if fill == "next_open" else cut + 1  # P of the last known row is the next bar's open
    np.testing.assert_array_equal(one.equity[:known], other.equity[:known])
    np.testing.assert_array_equal(one.traded[:known], other.traded[:known])
    assert one.equity[-1] != other.equity[-1]


def test_a_forecast_over_24_bars_is_earned_once() -> None:
    """Held by a forecast that is made anew at every bar, the market is earned once: not 24 times, once a bar."""
    opens = 100 * 1.001 ** np.arange(49)
    forecasts = make_weights({"A": [24 * math.log(1.001)] * 49})
    policy = TanhPolicy(kind="tanh", scale=1e6, max_weight=1.0)
    result = run_backtest({"A": make_bars(opens)}, target_weights(forecasts, policy), HOURLY, FREE)
    assert result.metrics.total_return == pytest.approx(opens[-1] / opens[1] - 1)


def test_assets_are_joined_by_time_and_one_without_a_bar_is_not_traded() -> None:
    a = make_bars([10, 11, 12, 13, 14], hours=[0, 1, 2, 4, 5])
    b = make_bars([20, 22, 23, 24], hours=[1, 2, 4, 6])
    clock = union_clock([a, b])
    assert ((clock - START_MS) // HOUR_MS).tolist() == [0, 1, 2, 4, 5, 6]
    prices, times = fill_prices({"A": a, "B": b}, ["B", "A"], clock, HOURLY, "next_open")
    np.testing.assert_array_equal(prices, [[20, 11], [22, 12], [23, 13], [NAN, 14], [24, NAN]])
    assert times.tolist() == clock[1:].tolist()
    prices, times = fill_prices({"A": a, "B": b}, ["B"], clock, HOURLY, "close")
    np.testing.assert_array_equal(prices.ravel(), [NAN, 20, 22, 23, NAN, 24])
    assert times.tolist() == (clock + HOUR_MS).tolist()


def test_from_the_first_row_of_weights_to_the_last_fill_price() -> None:
    bars = {"A": walk(20, 0)}
    result = run_backtest(bars, make_weights({"A": [0.5, 0.5]}, first_hour=7), HOURLY, FREE)
    assert result.timestamps.tolist() == bars["A"]["timestamp"].tolist()[7:19]
    assert np.flatnonzero(result.traded).tolist() == [0, 1]
    assert result.equity[0] == 1_000


def test_a_missing_row_is_a_row_of_missing_weights() -> None:
    bars = {"A": walk(20, 0), "B": walk(20, 1)}
    weights = make_weights({"A": [0.1, NAN, 0.3, NAN, -0.5], "B": [0.2, NAN, 0.1, 0.3, NAN]})
    one = run_backtest(bars, weights, HOURLY, FREE)
    other = run_backtest(bars, weights.dropna(how="all"), HOURLY, FREE)
    np.testing.assert_array_equal(one.equity, other.equity)


def test_weights_that_nothing_follows_are_an_error() -> None:
    with pytest.raises(DataError) as refused:
        run_backtest({"A": walk(20, 0)}, make_weights({"A": [1]}, first_hour=19), HOURLY, FREE)
    assert str(refused.value) == (
        "weights: the first decision, 2024-01-01T19:00:00Z, is the newest bar's, and no bar follows to fill it; begin "
        "earlier, or fetch more bars"
    )


def test_weights_that_do_not_fit_the_bars_are_an_error() -> None:
    with pytest.raises(DataError) as refused:
        run_backtest({"A": walk(20, 0)}, make_weights({"A": [1, 1]}, first_hour=20), HOURLY, FREE)
    assert str(refused.value) == (
        "weights: time 2024-01-01T20:00:00Z is not the opening time of a bar of the data: the data runs from "
        "2024-01-01T00:00:00Z to 2024-01-01T19:00:00Z; cut the file, or widen data.start and data.end"
    )


def test_funding_is_charged_at_every_settlement_since_the_last_step() -> None:
    hours = np.array([0, 7, 8, 9, 15, 24, 48])
    np.testing.assert_allclose(
        constant_funding(START_MS + HOUR_MS * hours, 0.5).ravel(), [0, 0, 0.5, 0, 0, 1, 1.5], rtol=1e-15
    )


@pytest.mark.parametrize(("weight", "sign"), [(1.0, 1), (-1.0, -1)])
def test_longs_pay_a_positive_rate_and_shorts_receive_it(weight, sign) -> None:
    # Filled at 01:00; 08:00 is the open that fills the decision of 07:00, row 7.
    config = FREE.model_copy(update={"funding_rate": 0.01})
    result = run_backtest({"A": make_bars([100] * 12)}, make_weights({"A": [weight]}), HOURLY, config)
    assert result.funding.tolist() == [0] * 7 + [sign * 10.0] + [0] * 3
    assert result.equity[-1] == 1_000 - sign * 10


def test_cash_keeps_its_value_and_buy_and_hold_buys_once() -> None:
    bars = {"A": make_bars([100, 100, 200, 400]), "B": make_bars([10, 10, 10, 5])}
    config = BacktestConfig(initial_equity=1_000, fee_bps=10, slippage_bps=0, no_trade_band=0.9)
    references = run_backtest(bars, make_weights({"A": [0.1] * 3, "B": [0.0] * 3}), HOURLY, config).references
    np.testing.assert_allclose(references["buy_and_hold"].equity, [1_000, 1_499, 2_249])
    assert references["buy_and_hold"].metrics.num_trades == 2
    assert references["cash"].equity.tolist() == [1_000] * 3
    assert references["cash"].metrics.num_trades == 0


def test_buy_and_hold_splits_among_what_is_listed_at_its_first_bar() -> None:
    prices = np.array([[NAN, NAN, NAN], [1, NAN, 2], [1, 1, 2]])
    weights = buy_and_hold_weights(prices, max_gross=0.8)
    np.testing.assert_array_equal(weights, [[NAN, NAN, NAN], [0.4, NAN, 0.4], [NAN, NAN, NAN]])
    assert np.isnan(buy_and_hold_weights(prices[:2], max_gross=0.8)).all()  # nothing follows the second


def test_ruin_ends_the_backtest_but_not_its_references() -> None:
    bars = {"A": make_bars([10, 10, 12, 16, 16, 16])}
    config = FREE.model_copy(update={"max_gross": 2.0})
    result = run_backtest(bars, make_weights({"A": [-2.0, NAN, NAN, 1.0]}), HOURLY, config)
    np.testing.assert_allclose(result.equity, [1_000, 600, -200])
    assert result.ruined_at == START_MS + 2 * HOUR_MS == result.timestamps[-1]
    assert len(result.references["cash"].equity) == len(result.references["cash"].time) == 5


@pytest.mark.parametrize(("calendar", "doubted"), [("24/7", True), ("us-equities", False), ("24/5", False)])
def test_bars_that_do_not_come_as_the_calendar_says_are_doubted(calendar, doubted) -> None:
    """Weekdays annualised as if every day were traded turn 11% a year into 16%."""
    days = pd.bdate_range("2020-01-01", "2021-12-31")
    bars = make_bars(np.full(len(days), 100.0)).assign(timestamp=days.as_unit("ms").asi8)
    weights = pd.DataFrame({"A": [1.0]}, index=days[:1].tz_localize("UTC").rename("time"))
    config = FREE.model_copy(update={"calendar": calendar})
    doubt = run_backtest({"A": bars}, weights, Interval("D"), config).calendar_doubt
    assert doubt == (
        "the bars come at 261 a year, and calendar 24/7 counts 365: annual figures are off; choose another "
        "backtest.calendar, or mind the gaps"
        if doubted
        else None
    )
    assert run_backtest({"A": walk(2_000, 0)}, make_weights({"A": [1]}), HOURLY, FREE).calendar_doubt is None


def test_trades_say_what_was_paid_for_what() -> None:
    bars = {"A": make_bars([100, 100, 125, 125, 125]), "B": make_bars([50, 50, 50, 50, 50])}
    config = BacktestConfig(initial_equity=1_000, fee_bps=8, slippage_bps=2)
    result = run_backtest(bars, make_weights({"A": [0.5, NAN, 0], "B": [-0.2, NAN, NAN]}), HOURLY, config)
    table = trades(result)
    assert table["time"].tolist() == [pd.Timestamp(f"2024-01-01T0{hour}:00Z") for hour in (0, 0, 2)]
    assert table["symbol"].tolist() == ["A", "B", "A"]
    assert table["side"].tolist() == ["buy", "sell", "sell"]
    np.testing.assert_allclose(table["price"], [100, 50, 125])
    np.testing.assert_allclose(table["value"], [500, 200, 625])
    np.testing.assert_allclose(table["quantity"], [5, 4, 5])
    np.testing.assert_allclose(table["cost"], [0.5, 0.2, 0.625])
    assert table["cost"].sum() == pytest.approx(result.metrics.total_cost)
    assert len(table) == result.metrics.num_trades


def test_files_hold_what_the_result_holds(tmp_path) -> None:
    bars = {"A": walk(50, 0), "B": walk(50, 1)}
    weights = make_weights({"A": np.linspace(-0.4, 0.4, 50).tolist(), "B": [0.2, NAN] * 25})
    result = run_backtest(bars, weights, HOURLY, BacktestConfig(funding_rate=0.0001))
    write_backtest(result, tmp_path / "run", {"name": "hourly"})

    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        *("backtest.json", "equity.parquet", "trades.parquet", "weights.parquet")
    }
    equity = pd.read_parquet(tmp_path / "run" / "equity.parquet")
    assert equity.index.name == "time"
    assert str(equity.index.tz) == "UTC"
    assert list(equity.columns) == ["equity"]
    np.testing.assert_array_equal(equity["equity"], result.equity)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "run" / "trades.parquet"), trades(result))
    again = read_signals(tmp_path / "run" / "weights.parquet", union_clock(bars.values()), ("A", "B"), HOURLY)
    pd.testing.assert_frame_equal(again, weights, check_freq=False, check_index_type=False)

    report = json.loads((tmp_path / "run" / "backtest.json").read_text())
    assert set(report["metrics"]) == METRICS
    assert set(report["references"]) == {"buy_and_hold", "cash"}
    assert all(set(figures) == METRICS for figures in report["references"].values())
    assert report["metrics"]["final_equity"] == result.equity[-1]
    assert report["references"]["cash"]["sharpe"] is None
    assert report["period"] == {
        "start": "2024-01-01T00:00:00+00:00",
        "end": "2024-01-03T00:00:00+00:00",
        "bars": 49,
        "interval": "60",
        "calendar": "24/7",
    }
    assert report["experiment"] == {"name": "hourly"}
    assert report["ruined_at"] is None
    assert report["funding"]["used"] == "constant"
    assert report["funding"]["total"] == pytest.approx(result.funding.sum())


def test_no_funding_is_said_to_be_none(tmp_path) -> None:
    result = run_backtest({"A": walk(9, 0)}, make_weights({"A": [1]}), HOURLY, FREE)
    write_backtest(result, tmp_path, {})
    funding = json.loads((tmp_path / "backtest.json").read_text())["funding"]
    assert funding == {"used": "none", "rate": None, "every_hours": None, "total": 0.0}


@pytest.mark.parametrize(
    "table", [lambda w: w.reset_index(), lambda w: w.tz_localize(None), lambda w: w.tz_convert("Asia/Tokyo")]
)
def test_weights_are_taken_in_any_form_of_time(table) -> None:
    weights = make_weights({"A": [0.5, 0.2, NAN, -1]})
    expected = run_backtest({"A": walk(9, 0)}, weights, HOURLY, FREE).equity
    np.testing.assert_array_equal(run_backtest({"A": walk(9, 0)}, table(weights), HOURLY, FREE).equity, expected)


@pytest.mark.market_data
def test_real_bars_with_outages_and_a_late_listing(market_data) -> None:
    bars = {
        "BTCUSDT": pd.read_parquet(market_data / "bybit-linear" / "BTCUSDT-60.parquet").iloc[-31_500:],
        "SOLUSDT": pd.read_parquet(market_data / "bybit-linear" / "SOLUSDT-60.parquet").drop(index=range(500, 600)),
    }
    clock = union_clock(bars.values())
    rng = np.random.default_rng(0)
    index = pd.to_datetime(clock, unit="ms", utc=True).rename("time")
    weights = pd.DataFrame(rng.uniform(-0.5, 0.5, (len(clock), 2)), index=index, columns=["BTCUSDT", "SOLUSDT"])
    result = run_backtest(bars, weights, HOURLY, BacktestConfig())
    closed = ~np.isin(clock[1:], bars["SOLUSDT"]["timestamp"])
    assert closed.sum() > 100
    assert not result.traded[closed[: len(result.traded)], 1].any()
    assert result.metrics.total_cost == pytest.approx(np.abs(result.traded).sum() * 7.5e-4)
    assert result.metrics.final_equity < 1_000  # random entry pays 7.5 bp on a third of its equity every hour


def test_plain_models_are_traded_as_the_strategy_is() -> None:
    bars = {"A": walk(60, 0), "B": walk(60, 1)}
    config = BacktestConfig(no_trade_band=0.01)
    weights = make_weights({"A": np.linspace(-0.5, 0.5, 60).tolist(), "B": [0.3, NAN] * 30})
    result = run_backtest(bars, weights, HOURLY, config, plain={"ridge": weights, "persistence": weights * 0})
    assert result.plain["ridge"].metrics == result.metrics
    assert result.plain["persistence"].metrics.num_trades == 0
    assert set(result.references) == {"buy_and_hold", "cash"}
    assert list(summary(result)["references"]) == ["buy_and_hold", "cash", "ridge", "persistence"]


def funding_of(hours, rates) -> FundingHistory:
    table = pd.DataFrame({"timestamp": START_MS + HOUR_MS * np.asarray(hours, np.int64), "rate": rates})
    return FundingHistory(table, (Span(START_MS, START_MS + 1_000 * HOUR_MS),), "data/bybit/A/funding", "fetch it")


@pytest.mark.parametrize("every_hours", [8, 4, 1])
def test_fetched_funding_is_charged_at_its_own_times_and_rates(every_hours) -> None:
    hours = np.arange(0, 40, every_hours)
    rates = np.random.default_rng(every_hours).normal(0, 1e-3, len(hours))
    config = FREE.model_copy(update={"funding_rate": "fetched"})
    bars = {"A": make_bars([100] * 30)}
    result = run_backtest(bars, make_weights({"A": [0.5]}), HOURLY, config, funding={"A": funding_of(hours, rates)})
    # Row i is filled at i + 1 o'clock. The first pays nothing: nothing was held before it.
    expected = np.zeros(29)
    for hour, rate in zip(hours, rates, strict=True):
        if 2 <= hour <= 29:
            expected[hour - 1] += 500 * rate
    np.testing.assert_allclose(result.funding, expected, rtol=1e-12)
    assert result.equity[-1] == pytest.approx(1_000 - expected.sum())


def test_a_day_pays_all_its_settlements_and_each_market_its_own() -> None:
    days = {symbol: make_bars([100] * 4, hours=24 * np.arange(4)) for symbol in "AB"}
    funding = {
        "A": funding_of(range(0, 100, 8), np.full(13, 0.001)),
        "B": funding_of(range(0, 100, 4), np.full(25, -0.001)),
    }
    config = FREE.model_copy(update={"funding_rate": "fetched"})
    weights = make_weights({"A": [0.25], "B": [0.5]})
    result = run_backtest(days, weights, Interval("D"), config, funding=funding)
    np.testing.assert_allclose(result.funding, [0, 250 * 0.003 - 500 * 0.006, 250 * 0.003 - 500 * 0.006])


def test_constant_funding_is_that_of_a_settlement_every_eight_hours() -> None:
    bars = {"A": walk(100, 0), "B": walk(100, 1)}
    weights = make_weights({"A": np.linspace(-0.5, 0.5, 100).tolist(), "B": [0.3, NAN] * 50})
    fetched = {symbol: funding_of(range(0, 200, 8), np.full(25, 2e-4)) for symbol in bars}
    one = run_backtest(bars, weights, HOURLY, BacktestConfig(funding_rate=2e-4))
    other = run_backtest(bars, weights, HOURLY, BacktestConfig(funding_rate="fetched"), funding=fetched)
    np.testing.assert_allclose(one.equity, other.equity, rtol=1e-14)
    assert one.funding.any()
    written = summary(other)["funding"]
    assert written == {"used": "fetched", "rate": None, "every_hours": None, "total": pytest.approx(one.funding.sum())}


def test_funding_that_does_not_cover_the_backtest_is_refused() -> None:
    config = FREE.model_copy(update={"funding_rate": "fetched"})
    short = {"A": funding_of(range(0, 17, 8), np.zeros(3))}
    run_backtest({"A": make_bars([100] * 20)}, make_weights({"A": [1]}), HOURLY, config, funding=short)
    with pytest.raises(DataError) as refused:
        run_backtest({"A": make_bars([100] * 26)}, make_weights({"A": [1]}), HOURLY, config, funding=short)
    assert str(refused.value) == (
        "data/bybit/A/funding: no funding from 2024-01-01T16:00:00Z to 2024-01-02T01:00:00Z, which the backtest "
        "covers; get it with `fetch it --start 2024-01-01T01:00`, or set backtest.funding_rate to a number or null"
    )
    with pytest.raises(DataError) as refused:
        run_backtest({"A": make_bars([100] * 20)}, make_weights({"A": [1]}), HOURLY, config)
    assert str(refused.value) == "backtest.funding_rate: fetched, and no funding was given"
    # A market that is listed late needs none before it.
    bars = {"A": make_bars([100] * 40), "B": make_bars([50] * 10, hours=np.arange(30, 40))}
    listed = {
        "A": funding_of(range(0, 41, 8), np.zeros(6)),
        "B": funding_of([32, 40], np.zeros(2)),
    }
    run_backtest(bars, make_weights({"A": [1], "B": [1]}), HOURLY, config, funding=listed)
