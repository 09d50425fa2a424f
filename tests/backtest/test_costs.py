"""Costs as they are: what each part is, that the parts are the whole, and that nothing is known before its time."""

import math

import numpy as np
import pandas as pd
import pytest

from flashtrader.backtest.costs import cost_rates, trailing_liquidity
from flashtrader.backtest.outputs import summary, trades
from flashtrader.backtest.prices import union_clock
from flashtrader.backtest.result import run_backtest
from flashtrader.config import BacktestConfig
from flashtrader.interval import Interval
from flashtrader.report.origin import assumptions

HOUR_MS = 3_600_000
HOURLY = Interval("60")
REAL = BacktestConfig(
    initial_equity=1e6,
    fee_bps=5.5,
    maker_fee_bps=2.0,
    maker_share=0.25,
    half_spread_bps=1.5,
    slippage_bps=0.5,
    volatility_slippage=0.05,
    impact_coefficient=0.8,
    impact_exponent=0.6,
    liquidity_bars=24,
)


def walk(num_bars: int, seed: int, *, turnover: bool = True) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    closes = 100 * np.exp(rng.normal(0, 0.01, num_bars).cumsum())
    opens = np.append(100, closes[:-1])
    volumes = rng.gamma(2.0, 1e4, num_bars)
    bars = pd.DataFrame(
        {
            "timestamp": HOUR_MS * np.arange(num_bars),
            "open": opens,
            "high": np.maximum(opens, closes) * 1.001,
            "low": np.minimum(opens, closes) * 0.999,
            "close": closes,
            "volume": volumes,
        }
    )
    return bars.assign(turnover=volumes * (opens + closes) / 2) if turnover else bars


def random_weights(num_rows: int, first: int = 0, seed: int = 0) -> pd.DataFrame:
    index = pd.to_datetime(HOUR_MS * np.arange(first, first + num_rows), unit="ms", utc=True).rename("time")
    return pd.DataFrame(np.random.default_rng(seed).uniform(-0.5, 0.5, (num_rows, 2)), index, columns=["A", "B"])


BARS = {"A": walk(300, 0), "B": walk(280, 1, turnover=False).assign(timestamp=HOUR_MS * np.arange(20, 300))}


@pytest.mark.parametrize("config", [REAL, BacktestConfig(), BacktestConfig(volatility_slippage=0.1)])
def test_the_parts_are_the_cost_and_the_orders_costs_are_too(config) -> None:
    result = run_backtest(BARS, random_weights(250, 40), HOURLY, config)
    parts = vars(result.cost_parts)
    np.testing.assert_allclose(sum(parts.values()), result.cost, rtol=1e-12)
    table = trades(result)
    assert table["cost"].sum() == pytest.approx(result.metrics.total_cost, rel=1e-12)
    by_bar = table.groupby("time", observed=True)["cost"].sum().reindex(result.time, fill_value=0)
    np.testing.assert_allclose(by_bar, result.cost, rtol=1e-9, atol=1e-12)
    written = summary(result)["costs"]
    assert sum(written["parts"].values()) == pytest.approx(written["total"])
    # Every cost was paid out of some equity: what is left is what was earned, less the costs.
    moves = result.prices[1:] / result.prices[:-1] - 1
    earned = np.nansum(result.held[:-1] * moves)
    assert result.equity[-1] == pytest.approx(config.initial_equity + earned - result.metrics.total_cost)


def test_orders_whose_cost_is_not_known_are_counted_and_said() -> None:
    """At A's first two bars it is not, nor at B's, nor before; a weight of none, where none is held, is no order."""
    weights = random_weights(30)
    weights.iloc[5:15, 0] = 0.0
    result = run_backtest(BARS, weights, HOURLY, REAL)
    assert result.unfilled == 2 + 3
    assert result.unfilled_doubt == (
        "orders that were not filled: 5, whose cost is not known without the market's trailing volatility or volume"
    )
    assert summary(result)["costs"]["unfilled_orders"] == 5
    assert ("Beware", result.unfilled_doubt) in assumptions(result)

    without_volume = {symbol: bars.assign(volume=0.0, turnover=0.0) for symbol, bars in BARS.items()}
    nothing = run_backtest(without_volume, weights, HOURLY, REAL)
    assert nothing.metrics.num_trades == 0
    assert nothing.unfilled == 20 + 11
    known = run_backtest(BARS, weights, HOURLY, BacktestConfig())
    assert (known.unfilled, known.unfilled_doubt) == (0, None)


def test_what_one_order_costs_by_hand() -> None:
    # Closes 100, 110, 99: returns ln 1.1 and ln 0.9 over two bars, their root mean square σ; volumes of 100 units.
    closes = np.array([100.0, 110.0, 99.0, 99.0, 99.0])
    bars = pd.DataFrame({"timestamp": HOUR_MS * np.arange(5)} | dict.fromkeys(("open", "high", "low", "close"), closes))
    bars["volume"] = 100.0
    config = BacktestConfig(
        initial_equity=1000.0,
        maker_share=0.2,
        half_spread_bps=1.0,
        volatility_slippage=0.1,
        impact_coefficient=0.5,
        liquidity_bars=2,
    )
    weights = pd.DataFrame({"A": [0.5]}, index=pd.to_datetime([2 * HOUR_MS], unit="ms", utc=True).rename("time"))
    result = run_backtest({"A": bars}, weights, HOURLY, config)
    sigma = math.sqrt((math.log(1.1) ** 2 + math.log(0.9) ** 2) / 2)
    taken, market = 0.8 * 500, 100 * (110 + 99) / 2
    assert result.cost_parts.fees[0] == pytest.approx(400 * 5.5e-4 + 100 * 2e-4)
    assert result.cost_parts.spread[0] == pytest.approx(400 * 1e-4)
    assert result.cost_parts.slippage[0] == pytest.approx(400 * (2e-4 + 0.1 * sigma))
    assert result.cost_parts.impact[0] == pytest.approx(0.5 * sigma * taken * math.sqrt(taken / market))


def test_trailing_figures_skip_what_is_not_one_bar_and_take_turnover_where_it_is_known() -> None:
    bars = walk(6, 3).drop(index=2).reset_index(drop=True)
    bars.loc[1, "turnover"] = np.nan
    volatility, value = trailing_liquidity(bars, HOURLY, 10)
    returns = np.diff(np.log(bars["close"]))[[0, 2, 3]]  # the second spans two hours
    expected = [math.sqrt(np.mean(returns[:n] ** 2)) for n in (2, 3)]
    np.testing.assert_allclose(volatility, [np.nan, np.nan, np.nan, *expected])
    traded = bars["turnover"].fillna(bars["volume"] * bars["close"])
    np.testing.assert_allclose(value, [np.nan, *(traded[:n].mean() for n in (2, 3, 4, 5))])


def test_later_bars_change_no_cost_of_an_earlier_decision() -> None:
    clock = union_clock(BARS.values())
    before = cost_rates(REAL, BARS, ("A", "B"), clock, HOURLY)
    for cut in (30, 111, 250):
        noisy = {
            symbol: table.where(table["timestamp"] <= cut * HOUR_MS, walk(len(table), 9)).assign(
                timestamp=table["timestamp"]
            )
            for symbol, table in BARS.items()
        }
        after = cost_rates(REAL, noisy, ("A", "B"), clock, HOURLY)
        for name in ("slippage_TA", "impact_TA"):
            np.testing.assert_array_equal(getattr(before, name)[: cut + 1], getattr(after, name)[: cut + 1])
            assert (getattr(before, name)[cut + 1 :] != getattr(after, name)[cut + 1 :]).any()


def test_nothing_is_traded_while_the_cost_is_not_known() -> None:
    result = run_backtest(BARS, random_weights(60), HOURLY, REAL)
    first_trade_A = np.argmax(result.traded != 0, axis=0)
    assert first_trade_A.tolist() == [2, 22]  # two returns are known at the third bar
    assert result.references["buy_and_hold"].metrics.num_trades == 1
    assert math.isfinite(result.metrics.total_cost)


def test_a_market_without_volume_can_not_be_traded_at_an_impact() -> None:
    dry = {"A": BARS["A"].assign(volume=0.0, turnover=0.0), "B": BARS["B"]}
    result = run_backtest(dry, random_weights(200, 40), HOURLY, REAL)
    assert not result.traded[:, 0].any()
    assert result.traded[:, 1].any()


def test_twice_the_size_costs_more_than_twice_the_impact_and_twice_the_rest() -> None:
    weights = random_weights(1, 100)
    once, twice = (
        run_backtest(BARS, weights, HOURLY, REAL.model_copy(update={"initial_equity": equity})).cost_parts
        for equity in (1e6, 2e6)
    )
    assert twice.impact[0] == pytest.approx(2**1.6 * once.impact[0])
    for part in ("fees", "spread", "slippage"):
        assert getattr(twice, part)[0] == pytest.approx(2 * getattr(once, part)[0])


def test_resting_orders_pay_the_makers_fee_and_nothing_else() -> None:
    resting = REAL.model_copy(update={"maker_share": 1.0})
    result = run_backtest(BARS, random_weights(200, 40), HOURLY, resting)
    assert result.cost_parts.spread.sum() == result.cost_parts.slippage.sum() == result.cost_parts.impact.sum() == 0
    assert result.metrics.total_cost == pytest.approx(np.abs(result.traded).sum() * 2e-4)


def test_multiples_of_the_costs() -> None:
    config = REAL.model_copy(update={"funding_rate": 1e-4})
    result = run_backtest(BARS, random_weights(200, 40), HOURLY, config)
    assert list(result.multiples) == [0, 1, 2, 3]
    assert result.multiples[0].total_cost == 0
    assert result.multiples[1] == result.metrics
    doubled = config.model_copy(
        update={
            key: 2 * getattr(config, key)
            for key in (
                *("fee_bps", "maker_fee_bps", "half_spread_bps", "slippage_bps"),
                *("volatility_slippage", "impact_coefficient"),
            )
        }
    )
    again = run_backtest(BARS, random_weights(200, 40), HOURLY, doubled).metrics
    assert result.multiples[2].final_equity == pytest.approx(again.final_equity, rel=1e-12)
    equities = [metrics.final_equity for metrics in result.multiples.values()]
    assert equities == sorted(equities, reverse=True)
    written = summary(result)["cost_multiples"]
    assert [row["multiple"] for row in written] == [0, 1, 2, 3]
    assert [row["final_equity"] for row in written] == equities


def test_no_order_is_placed_at_the_last_bar() -> None:
    result = run_backtest(BARS, random_weights(300), HOURLY, BacktestConfig())
    assert not result.traded[-1].any()
    assert result.traded[-2].any()
    assert result.cost[-1] == 0


def test_a_low_within_a_bar_liquidates_a_levered_long() -> None:
    """Filled at 100 with four times the equity; a later bar dips to 76 and closes where it opened."""
    prices = np.full(8, 100.0)
    bars = pd.DataFrame({"timestamp": HOUR_MS * np.arange(8)} | dict.fromkeys(("open", "high", "low", "close"), prices))
    bars = bars.assign(volume=1.0)
    bars.loc[4, "low"] = 76.0
    config = BacktestConfig(initial_equity=1000, fee_bps=0, slippage_bps=0, max_gross=4.0, maintenance_margin=0.05)
    index = pd.to_datetime(HOUR_MS * np.arange(1), unit="ms", utc=True).rename("time")
    for fill, step in (("next_open", 4), ("close", 4)):
        held = run_backtest(
            {"A": bars}, pd.DataFrame({"A": [4.0]}, index), HOURLY, config.model_copy(update={"fill": fill})
        )
        assert np.flatnonzero(held.liquidated).tolist() == [step]
        assert held.liquidated[step] == pytest.approx(40 * 76)
        assert held.liquidation_fees[step] == pytest.approx(40 * 76 * 0.005)
        assert held.equity[step] == pytest.approx(40 - 40 * 76 * 0.005)
        assert held.metrics.liquidations == 1
        assert summary(held)["costs"]["liquidation_fees"] == pytest.approx(40 * 76 * 0.005)
    calm = config.model_copy(update={"maintenance_margin": 0.0})
    assert run_backtest({"A": bars}, pd.DataFrame({"A": [4.0]}, index), HOURLY, calm).equity[-1] == 1000
