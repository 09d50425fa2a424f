"""What the count of false alarms counts: markets and strategies of noise, and that skill would be counted."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import false_alarms
from false_alarms import (
    DIFFERENCE,
    EQUALLY_GOOD,
    FORECASTS,
    HOURLY,
    SKILL,
    claims_of,
    fair_game,
    judge_strategy,
    rates_of,
)
from flashtrader.market.sources.simulated import GENESIS_MS, SimulatedSource


def test_what_knows_the_future_is_claimed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def next_moves(seed: int, num_bars: int) -> np.ndarray:
        bars = fair_game(seed, num_bars)
        moves_T = (bars["close"] / bars["open"] - 1).to_numpy()
        # Filled at the next bar's open, a decision earns what that bar moves.
        return np.append(moves_T[1:], 0.0) / moves_T.std()

    monkeypatch.setattr(false_alarms, "persistent_noise", next_moves)
    judged = judge_strategy(seed=0, num_bars=1_500)
    assert claims_of(judged) >= SKILL.keys() | DIFFERENCE.keys() | {"IC: other than zero", "rank IC: other than zero"}
    rate = rates_of([judged], SKILL)[0]
    assert (rate.alarms, rate.tries, rate.rate) == (1, 1, 1.0)
    assert rate.interval == pytest.approx((0.025, 1.0))


def test_a_fair_game_earns_in_simple_returns_what_the_exchange_does_in_logarithms() -> None:
    num_bars = 1_000
    game = fair_game(seed=1, num_bars=num_bars)
    exchange = SimulatedSource(noise_only=True, seed=1, now_ms=GENESIS_MS + num_bars * HOURLY.milliseconds)
    bars = next(exchange.pages("NOISE", HOURLY, exchange.history("NOISE", HOURLY))).bars
    np.testing.assert_allclose(game["close"] / game["open"] - 1, np.log(bars["close"] / bars["open"]), atol=1e-12)
    np.testing.assert_array_equal(game["open"][1:], game["close"][:-1])
    assert (fair_game(seed=2, num_bars=num_bars)["close"] != game["close"]).all()


def test_two_markets_and_three_strategies_are_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "alarms.json"
    options = [
        "--markets",
        "2",
        "--bars",
        "2000",
        "--family",
        "ridge",
        "--strategies",
        "3",
        "--strategy-bars",
        "500",
        "--out",
        str(out),
    ]
    monkeypatch.setattr(sys, "argv", ["false_alarms.py", *options, "--json"])
    false_alarms.main()
    made = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == made
    claims = {title: {rate["claim"]: rate["tries"] for rate in rates} for title, rates in made["rates"].items()}
    everything = SKILL | DIFFERENCE | FORECASTS
    assert claims == {
        "markets, without costs": dict.fromkeys(everything, 2),
        "markets, at cost": dict.fromkeys(SKILL, 2),
        "strategies": dict.fromkeys(everything | EQUALLY_GOOD, 3),
    }
    assert sum(made["findings"]["at cost"].values()) == 2
