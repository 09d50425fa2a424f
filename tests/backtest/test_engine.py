"""The engine against a three-bar example worked by hand, plain loops over the formulas, and what must always hold."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashtrader.backtest.engine import Simulation, simulate
from flashtrader.errors import DataError

NAN = math.nan
FREE = {"initial_equity": 100.0, "fee_bps": 0.0, "slippage_bps": 0.0, "no_trade_band": 0.0, "max_gross": math.inf}
RANDOM = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_three_bars_by_hand() -> None:
    # Prices of A: 100, 110, 99; of B: 50, 40, none. Costs 10 bp. Weights: 50 % A and -25 % B, then all A, then flat.
    # Step 0: E 1000. Buy 500 A, sell 250 B. Cost 750 · 0.001 = 0.75. Cash 1000 - 250 - 0.75 = 749.25.
    # Step 1: A worth 500 · 1.1 = 550, B -250 · 0.8 = -200. Rate 1 % for both: funding 3.5.
    #         E = 749.25 + 350 - 3.5 = 1095.75. Want A 1095.75 and B 0: buy 545.75 A, buy 200 B.
    #         Cost 745.75 · 0.001 = 0.74575. Cash 1095.75 - 1095.75 - 0.74575 = -0.74575.
    # Step 2: A worth 1095.75 · 0.9 = 986.175. Funding 9.86175. E = -0.74575 + 986.175 - 9.86175 = 975.5675.
    #         Sell 986.175 A, cost 0.986175.
    simulation = simulate(
        [[100, 50], [110, 40], [99, NAN]],
        [[0.5, -0.25], [1, 0], [0, 0]],
        initial_equity=1000,
        fee_bps=7,
        slippage_bps=3,
        no_trade_band=0,
        max_gross=1,
        funding_TA=[[0.01, 0.01], [0.01, 0.01], [0.01, 0.01]],
    )
    np.testing.assert_allclose(simulation.equity_T, [1000, 1095.75, 975.5675], rtol=1e-14)
    np.testing.assert_allclose(simulation.cost_T, [0.75, 0.74575, 0.986175], rtol=1e-14)
    np.testing.assert_allclose(simulation.funding_T, [0, 3.5, 9.86175], rtol=1e-14)
    np.testing.assert_allclose(simulation.traded_TA, [[500, -250], [545.75, 200], [-986.175, 0]], rtol=1e-14)
    np.testing.assert_allclose(simulation.held_TA, [[500, -250], [1095.75, 0], [0, 0]], atol=1e-12)
    np.testing.assert_allclose(simulation.gross_T, [750, 1095.75, 0], atol=1e-12)
    np.testing.assert_allclose(simulation.volume_T, [750, 745.75, 986.175], rtol=1e-14)
    assert not simulation.ruined


def test_an_asset_without_a_price_keeps_its_value_until_it_has_one() -> None:
    simulation = simulate([[10], [NAN], [NAN], [15]], [[1], [0], [0.5], [NAN]], **FREE)
    assert simulation.equity_T.tolist() == [100, 100, 100, 150]
    assert simulation.traded_TA.ravel().tolist() == [100, 0, 0, 0]


def test_a_missing_weight_is_no_order_but_a_zero_sells() -> None:
    simulation = simulate([[10], [20], [20]], [[0.5], [NAN], [0]], **FREE)
    assert simulation.held_TA.ravel().tolist() == [50, 100, 0]
    assert simulation.traded_TA.ravel().tolist() == [50, 0, -100]


def test_ruin_ends_the_backtest_at_the_step_where_it_shows() -> None:
    # Short 200 at 10; at 16 they are worth -320, with 300 in cash.
    simulation = simulate([[10], [12], [16], [1]], [[-2], [NAN], [1], [1]], **FREE)
    np.testing.assert_allclose(simulation.equity_T, [100, 60, -20], rtol=1e-14)
    assert simulation.ruined
    assert simulation.traded_TA[-1].tolist() == [0]
    assert simulation.cost_T[-1] == 0
    assert len(simulation.held_TA) == 3


def test_equity_of_exactly_zero_is_ruin() -> None:
    simulation = simulate([[10], [20], [30]], [[-1], [NAN], [NAN]], **FREE)
    assert simulation.equity_T.tolist() == [100, 0]
    assert simulation.ruined


def test_a_trade_as_large_as_the_band_is_made() -> None:
    band = FREE | {"no_trade_band": 0.25}
    assert simulate([[10]], [[0.25]], **band).traded_TA[0, 0] == 25
    assert simulate([[10]], [[0.2499]], **band).traded_TA[0, 0] == 0


def test_a_row_above_max_gross_is_scaled_down_to_it() -> None:
    simulation = simulate([[10, 20, 30]], [[1.5, -0.5, NAN]], **FREE | {"max_gross": 1.0})
    assert simulation.held_TA.tolist() == [[75, -25, 0]]


@pytest.mark.parametrize(
    ("prices", "weights", "rates"),
    [
        ([[10, 10], [0, 10]], [[1, 0], [1, 0]], 0.0),
        ([[10, 10], [-5, 10]], [[1, 0], [1, 0]], 0.0),
        ([[10, 10], [math.inf, 10]], [[1, 0], [1, 0]], 0.0),
        ([[10, 10], [10, 10]], [[1, 0], [0, -math.inf]], 0.0),
        ([[10, 10], [10, 10]], [[1, 0], [1, 0]], NAN),
    ],
)
@pytest.mark.parametrize("max_gross", [1.0, math.inf])
def test_impossible_inputs_are_errors_that_name_the_step(prices, weights, rates, max_gross) -> None:
    rates_TA = np.zeros((2, 2))
    rates_TA[1] = rates
    with pytest.raises(DataError) as refused:
        simulate(prices, weights, **FREE | {"max_gross": max_gross}, funding_TA=rates_TA)
    assert str(refused.value) == "step 1: prices must be positive, and prices, weights and funding rates finite"


def test_shapes_that_differ_are_an_error() -> None:
    with pytest.raises(DataError) as refused:
        simulate([[1.0], [2.0]], [[1.0]], **FREE)
    assert str(refused.value) == "prices (2, 1) and weights (1, 1) must be of one shape (steps, assets)"


def plain_loops(
    prices,
    weights,
    rates,
    *,
    initial_equity,
    fee_bps,
    slippage_bps,
    no_trade_band,
    max_gross,
    half_spread_bps=0.0,
    slippage_TA=None,
    impact_TA=None,
    impact_exponent=0.5,
    maintenance_margin=0.0,
    liquidation_fee_bps=0.0,
    low_TA=None,
    high_TA=None,
):
    """Equity, cost, funding, liquidated, held and traded, from the formulas with positions in units of the asset."""
    num_assets = len(prices[0])
    units, last_price = [0.0] * num_assets, [0.0] * num_assets
    cash = initial_equity
    rows = []

    def liquidated_at(marks, cash):
        """Return the cash that is left and the value closed, where the margin is not kept at these prices."""
        values = [u * p for u, p in zip(units, marks, strict=True)]
        gross = math.fsum(map(abs, values))
        equity = cash + math.fsum(values)
        if not maintenance_margin or not gross or equity > maintenance_margin * gross:
            return cash, 0.0
        units[:] = [0.0] * num_assets
        return equity - gross * liquidation_fee_bps / 10_000, gross

    for i, (price_row, weight_row, rate_row) in enumerate(zip(prices, weights, rates, strict=True)):
        marks = last_price
        if low_TA is not None:
            extremes = [low if u > 0 else high for u, low, high in zip(units, low_TA[i], high_TA[i], strict=True)]
            marks = [p if math.isnan(new) else new for new, p in zip(extremes, last_price, strict=True)]
        cash, closed = liquidated_at(marks, cash)
        last_price = [new if not math.isnan(new) else old for new, old in zip(price_row, last_price, strict=True)]
        values = [u * p for u, p in zip(units, last_price, strict=True)]
        funding = math.fsum(v * r for v, r in zip(values, rate_row, strict=True))
        cash, at_step = liquidated_at(last_price, cash - funding)
        closed = closed or at_step
        values = [u * p for u, p in zip(units, last_price, strict=True)]
        equity = cash + math.fsum(values)
        if equity <= 0:
            rows.append((equity, 0.0, funding, closed, values, [0.0] * num_assets))
            break
        gross_weight = math.fsum(abs(w) for w in weight_row if not math.isnan(w))
        shrink = min(1.0, max_gross / gross_weight) if gross_weight else 1.0
        trades, costs = [], []
        for a in range(num_assets):
            target = weight_row[a] * shrink * equity
            trade = target - values[a]
            slippage = 0.0 if slippage_TA is None else slippage_TA[i][a]
            impact = 0.0 if impact_TA is None else impact_TA[i][a]
            skip = math.isnan(target) or math.isnan(price_row[a]) or abs(trade) < no_trade_band * equity
            trade = 0.0 if skip or closed or math.isnan(slippage + impact) else trade
            trades.append(trade)
            if trade:
                costs.append(abs(trade) * ((fee_bps + half_spread_bps + slippage_bps) / 10_000 + slippage))
                costs.append(impact * abs(trade) * abs(trade) ** impact_exponent)
        cost = math.fsum(costs)
        cash -= math.fsum(trades) + cost
        for a, trade in enumerate(trades):
            if trade:
                units[a] += trade / price_row[a]
        held = [u * p for u, p in zip(units, last_price, strict=True)]
        rows.append((equity, cost, funding, closed, held, trades))
    return [np.array(column) for column in zip(*rows, strict=True)]


@st.composite
def markets(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, float]]:
    """Prices with holes, weights with holes, funding rates, and the rules."""
    steps, assets = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (steps, assets)
    volatility = draw(st.sampled_from([0.001, 0.02, 0.5]))
    prices = np.exp(rng.normal(0, volatility, shape).cumsum(0) + rng.normal(0, 3, assets))
    prices[rng.random(shape) < draw(st.sampled_from([0.0, 0.3]))] = NAN
    weights = rng.normal(0, draw(st.sampled_from([0.0, 0.3, 2.0])), shape)
    weights[rng.random(shape) < draw(st.sampled_from([0.0, 0.5]))] = NAN
    rates = rng.normal(0, draw(st.sampled_from([0.0, 0.01])), shape)
    rules = {
        "initial_equity": draw(st.sampled_from([1.0, 100_000.0])),
        "fee_bps": draw(st.sampled_from([0.0, 5.5])),
        "slippage_bps": draw(st.sampled_from([0.0, 2.0, 100.0])),
        "no_trade_band": draw(st.sampled_from([0.0, 0.1])),
        "max_gross": draw(st.sampled_from([0.5, 1.0, 3.0, math.inf])),
    }
    return prices, weights, rates, rules


@st.composite
def costly_markets(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
    """Markets whose costs vary by step and asset, some of them unknown, and where positions may be liquidated."""
    prices, weights, rates, rules = draw(markets())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = prices.shape
    holes = rng.random(shape) < draw(st.sampled_from([0.0, 0.2]))
    exponent = draw(st.sampled_from([0.5, 0.6, 1.0]))
    known = np.where(np.isnan(prices), np.exp(rng.normal(0, 3, shape)), prices)
    extremes = {}
    if draw(st.booleans()):
        swing = np.exp(np.abs(rng.normal(0, draw(st.sampled_from([0.01, 0.3])), (2, *shape))))
        extremes = {"low_TA": np.where(holes, NAN, known / swing[0]), "high_TA": np.where(holes, NAN, known * swing[1])}
    costs = {
        "half_spread_bps": draw(st.sampled_from([0.0, 3.0])),
        "slippage_TA": np.where(holes, NAN, rng.uniform(0, 0.01, shape)),
        "impact_TA": rng.uniform(0, 0.01, shape) / rules["initial_equity"] ** exponent,
        "impact_exponent": exponent,
        "maintenance_margin": draw(st.sampled_from([0.0, 0.05, 0.5])),
        "liquidation_fee_bps": draw(st.sampled_from([0.0, 50.0])),
    }
    return prices, weights, rates, rules | costs | extremes


def run(market) -> Simulation:
    prices, weights, rates, rules = market
    return simulate(prices, weights, **rules, funding_TA=rates)


@RANDOM
@given(st.one_of(markets(), costly_markets()))
def test_agrees_with_plain_loops_over_the_formulas(market) -> None:
    prices, weights, rates, rules = market
    simulation = run(market)
    equity, cost, funding, liquidated, held, traded = plain_loops(
        prices.tolist(), weights.tolist(), rates.tolist(), **rules
    )
    assert len(simulation.equity_T) == len(equity)
    # Relative to the money at work: near ruin, equity is the small difference of large holdings.
    tolerance = {"rtol": 1e-9, "atol": 1e-9 * max(rules["initial_equity"], np.abs(held).max())}
    np.testing.assert_allclose(simulation.equity_T, equity, **tolerance)
    np.testing.assert_allclose(simulation.cost_T, cost, **tolerance)
    np.testing.assert_allclose(simulation.funding_T, funding, **tolerance)
    np.testing.assert_allclose(simulation.liquidated_T, liquidated, **tolerance)
    np.testing.assert_allclose(simulation.held_TA, held, **tolerance)
    np.testing.assert_allclose(simulation.traded_TA, traded, **tolerance)


@RANDOM
@given(markets())
def test_money_is_only_moved_by_prices_costs_and_funding(market) -> None:
    prices, _, _, _ = market
    simulation = run(market)
    known = np.ones(prices.shape[1])
    gains = []
    for i in range(len(simulation.equity_T) - 1):
        known = np.where(np.isnan(prices[i]), known, prices[i])
        after = np.where(np.isnan(prices[i + 1]), known, prices[i + 1])
        gains.append((simulation.held_TA[i] * (after / known - 1)).sum())
    expected = gains - simulation.cost_T[:-1] - simulation.funding_T[1:]
    scale = max(np.abs(simulation.held_TA).max(), simulation.equity_T[0])
    np.testing.assert_allclose(np.diff(simulation.equity_T), expected, atol=1e-9 * scale)


@RANDOM
@given(markets())
def test_never_holding_anything_is_cash(market) -> None:
    prices, _, rates, rules = market
    for weight in (0.0, NAN):
        simulation = simulate(prices, np.full_like(prices, weight), **rules, funding_TA=rates)
        assert (simulation.equity_T == rules["initial_equity"]).all()
        assert not simulation.traded_TA.any()
        assert not simulation.cost_T.any()


@RANDOM
@given(st.one_of(markets(), costly_markets()), st.integers(0, 11))
def test_the_future_changes_nothing_at_or_before_a_step(market, step) -> None:
    prices, weights, rates, rules = market
    before = run(market)
    last = min(step, len(before.equity_T) - 1)
    rng = np.random.default_rng(step)
    later = (np.arange(len(prices)) > last)[:, None]
    noise = np.exp(rng.normal(size=prices.shape))
    arrays = {name: np.where(later, noise, values) for name, values in rules.items() if name.endswith("_TA")}
    changed = (
        *(np.where(later, noise, prices), np.where(later, noise, weights), np.where(later, 0.1, rates)),
        rules | arrays,
    )
    after = run(changed)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old[: last + 1], new[: last + 1])


@RANDOM
@given(markets(), st.floats(-8, 8))
def test_the_unit_of_a_price_does_not_matter(market, log_scale) -> None:
    prices, weights, rates, rules = market
    scales = np.exp(log_scale * np.arange(1, prices.shape[1] + 1))
    one, other = run(market), run((prices * scales, weights, rates, rules))
    if len(one.equity_T) == len(other.equity_T):  # a rounding may tip an equity of about zero into ruin
        scale = max(np.abs(one.held_TA).max(), one.equity_T[0])
        np.testing.assert_allclose(one.equity_T, other.equity_T, rtol=1e-9, atol=1e-9 * scale)
    else:
        assert min(np.abs(one.equity_T).min(), np.abs(other.equity_T).min()) < 1e-9 * one.equity_T[0]


@RANDOM
@given(markets(), st.randoms(use_true_random=False))
def test_the_order_of_the_assets_does_not_matter(market, random) -> None:
    prices, weights, rates, rules = market
    order = list(range(prices.shape[1]))
    random.shuffle(order)
    one, other = run(market), run((prices[:, order], weights[:, order], rates[:, order], rules))
    steps = min(len(one.equity_T), len(other.equity_T))
    scale = max(np.abs(one.held_TA).max(), one.equity_T[0])
    np.testing.assert_allclose(one.equity_T[:steps], other.equity_T[:steps], rtol=1e-9, atol=1e-9 * scale)
    np.testing.assert_allclose(one.held_TA[:steps, order], other.held_TA[:steps], rtol=1e-9, atol=1e-9 * scale)


@RANDOM
@given(markets())
def test_doubled_costs_double_what_the_first_trades_cost_and_never_help(market) -> None:
    prices, weights, _, rules = market
    once = simulate(prices[:2], weights[:2], **rules)
    doubled = rules | {"fee_bps": 2 * rules["fee_bps"], "slippage_bps": 2 * rules["slippage_bps"]}
    twice = simulate(prices[:2], weights[:2], **doubled)
    assert twice.cost_T[0] == pytest.approx(2 * once.cost_T[0], rel=1e-12)
    if len(once.equity_T) > 1:
        scale = max(np.abs(once.held_TA).max(), once.equity_T[0])
        assert once.equity_T[1] - twice.equity_T[1] == pytest.approx(once.cost_T[0], rel=1e-9, abs=1e-9 * scale)


def test_spread_slippage_and_impact_by_hand() -> None:
    # Buy 400 A and sell 100 B: 5 + 2 + 3 bp of 500 is 0.5; 0.1 % of A and 0.2 % of B is 0.6; A's impact is
    # 0.001 · 400^1.5 = 8.
    simulation = simulate(
        [[10.0, 20.0]],
        [[0.4, -0.1]],
        **FREE | {"initial_equity": 1000.0, "fee_bps": 5.0, "slippage_bps": 3.0},
        half_spread_bps=2.0,
        slippage_TA=[[0.001, 0.002]],
        impact_TA=[[0.001, 0.0]],
        impact_exponent=0.5,
    )
    np.testing.assert_allclose(simulation.cost_T, [9.1], rtol=1e-14)
    np.testing.assert_allclose(simulation.slippage_T, [0.6], rtol=1e-14)
    np.testing.assert_allclose(simulation.impact_T, [8.0], rtol=1e-14)


@pytest.mark.parametrize("unknown", [{"slippage_TA": [[NAN, 0.0]]}, {"impact_TA": [[math.inf, 0.0]]}])
def test_an_order_whose_cost_is_not_known_is_not_filled(unknown) -> None:
    simulation = simulate([[10.0, 20.0]], [[0.4, -0.1]], **FREE, **unknown)
    assert simulation.traded_TA.tolist() == [[0, -10]]
    assert simulation.cost_T.tolist() == [0]


# Four times 1,000 is bought at 100, with 3,000 borrowed. At a low of 78 the 40 units are worth 3,120: equity 120, and
# 5 % of 3,120 is 156. They are closed there, for a fee of 0.5 % of 3,120, 15.6: 104.4 is left.
LEVERED: dict[str, Any] = FREE | {
    "initial_equity": 1000.0,
    "max_gross": 4.0,
    "maintenance_margin": 0.05,
    "liquidation_fee_bps": 50.0,
}


def test_a_low_within_the_bar_liquidates_and_the_next_step_trades_again() -> None:
    simulation = simulate(
        [[100.0], [90.0], [45.0], [54.0]],
        [[4.0], [4.0], [1.0], [NAN]],
        **LEVERED,
        funding_TA=0.1,
        low_TA=[[NAN], [78.0], [45.0], [45.0]],
        high_TA=[[NAN], [100.0], [90.0], [54.0]],
    )
    # The orders of the step are cancelled, and nothing is held on which funding could be paid.
    np.testing.assert_allclose(simulation.equity_T, [1000, 104.4, 104.4, 104.4 * 1.2 - 104.4 * 1.2 * 0.1], rtol=1e-14)
    np.testing.assert_allclose(simulation.liquidated_T, [0, 3120, 0, 0], rtol=1e-14)
    np.testing.assert_allclose(simulation.traded_TA.ravel(), [4000, 0, 104.4, 0], rtol=1e-14)
    np.testing.assert_allclose(simulation.funding_T, [0, 0, 0, 104.4 * 1.2 * 0.1], rtol=1e-14)


def test_equity_just_above_the_margin_is_kept() -> None:
    # At 79 the 40 units are worth 3,160, equity is 160 and 5 % of them 158; at 78.9 it is 156 against 157.8.
    for low, liquidated in ((79.0, 0.0), (78.9, 3156.0)):
        simulation = simulate([[100.0], [100.0]], [[4.0], [NAN]], **LEVERED, low_TA=low, high_TA=100.0)
        np.testing.assert_allclose(simulation.liquidated_T, [0, liquidated], rtol=1e-14)


def test_a_gap_liquidates_at_the_price_of_the_step_and_below_nothing_is_ruin() -> None:
    gap = simulate([[100.0], [78.0], [50.0]], [[4.0], [1.0], [NAN]], **LEVERED)
    np.testing.assert_allclose(gap.equity_T, [1000, 104.4, 104.4], rtol=1e-14)
    assert not gap.traded_TA[1:].any()
    ruin = simulate([[100.0], [70.0], [90.0]], [[4.0], [1.0], [1.0]], **LEVERED)
    np.testing.assert_allclose(ruin.equity_T, [1000, -200 - 2800 * 0.005], rtol=1e-14)
    assert ruin.ruined


def test_longs_at_the_low_and_shorts_at_the_high_count_at_once() -> None:
    # Long 2,000 and short 2,000 of a pair that moves as one: at any one moment nothing is lost, at the worst prices
    # -400 and -400, so that 200 is left against 5 % of 1,600 and 2,400: exactly 200.
    pair = {"low_TA": [[NAN, NAN], [80.0, 80.0]], "high_TA": [[NAN, NAN], [120.0, 120.0]]}
    simulation = simulate([[100.0, 100.0]] * 2, [[2.0, -2.0], [NAN, NAN]], **LEVERED, **pair)
    np.testing.assert_allclose(simulation.liquidated_T, [0, 4000], rtol=1e-14)
    np.testing.assert_allclose(simulation.equity_T, [1000, 180], rtol=1e-14)


def test_without_a_maintenance_margin_nothing_is_liquidated() -> None:
    simulation = simulate([[100.0], [76.0]], [[4.0], [NAN]], **LEVERED | {"maintenance_margin": 0.0}, low_TA=1.0)
    np.testing.assert_allclose(simulation.equity_T, [1000, 40], rtol=1e-14)
    assert not simulation.liquidated_T.any()


def test_one_rate_for_all_assets_is_that_rate_for_each() -> None:
    rng = np.random.default_rng(0)
    prices, weights = np.exp(rng.normal(size=(20, 3))), rng.normal(0, 0.1, (20, 3))
    rates = rng.normal(0, 0.01, (20, 1))
    shared = simulate(prices, weights, **FREE, funding_TA=rates)
    each = simulate(prices, weights, **FREE, funding_TA=np.repeat(rates, 3, axis=1))
    np.testing.assert_array_equal(shared.equity_T, each.equity_T)


def test_inputs_are_left_as_they_are() -> None:
    prices, weights = np.array([[1.0], [2.0]]), np.array([[1.0], [NAN]])
    copies = prices.copy(), weights.copy()
    simulate(prices, weights, **FREE)
    np.testing.assert_array_equal(prices, copies[0])
    np.testing.assert_array_equal(weights, copies[1])
