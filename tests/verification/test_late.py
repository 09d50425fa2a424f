"""One bar late: what is known of the bar after a decision is caught, what is known of a horizon is not."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flashtrader.config import Experiment
from flashtrader.forecasting.forecast import Forecasts
from flashtrader.market.store import load_bars
from flashtrader.panel.loading import load_panel
from flashtrader.run import create_run
from flashtrader.verification import late
from flashtrader.verification.checks import Check, Subject
from flashtrader.verification.planted import trending_market

NUM_BARS = 3_000


class Place:
    """A run on bars whose returns go on, with forecasts that a test chooses."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, horizon: int) -> None:
        experiment = Experiment.model_validate(
            {
                "data": {"source": "file", "symbols": ["AAA", "BBB"], "interval": "60"},
                "panel": {"target": {"kind": "log_return", "horizon_bars": horizon}},
                "policy": {"kind": "threshold", "long_above": 0.0, "short_below": 0.0},
            }
        )
        self.root, self.monkeypatch, self.horizon = root, monkeypatch, horizon
        self.run = create_run(root / "runs", experiment)
        self.best = trending_market(experiment, root / "data", NUM_BARS).best
        panel = load_panel(experiment, root / "data").panel
        self.outcomes = pd.DataFrame(panel.targets, index=self.best.index, columns=list(self.best)).astype(np.float64)
        self.noise = pd.DataFrame(
            np.random.default_rng(0).normal(scale=0.01, size=self.best.shape), self.best.index, self.best.columns
        )

    def attack(self, forecasts: pd.DataFrame, outcomes: pd.DataFrame | None = None) -> Check:
        made = Forecasts(self.run, self.horizon, forecasts, self.outcomes if outcomes is None else outcomes, {})
        self.monkeypatch.setattr(late, "forecast_run", lambda *_: made)
        (check,) = late.one_bar_late(Subject(self.run, self.root / "data", self.root / "scratch"))
        return check

    @property
    def next_bar(self) -> pd.DataFrame:
        return self.best.shift(-1)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Place:
    return Place(tmp_path, monkeypatch, getattr(request, "param", 12))


def test_costs_of_every_kind_are_left_out(place: Place) -> None:
    """They would drown what a delay loses."""
    experiment = place.run.experiment.model_dump() | {"policy": {"kind": "tanh", "scale": 1e6, "max_weight": 0.5}}
    bars, forecasts = load_bars(place.run.experiment.data, place.root / "data"), place.best.iloc[10:]
    dear = {"maker_share": 0.25, "half_spread_bps": 3, "volatility_slippage": 0.1, "impact_coefficient": 1}
    dear |= {"funding_rate": "fetched", "maintenance_margin": 0.99}
    free = {"fee_bps": 0, "slippage_bps": 0}
    gross = [
        late._gross_returns(forecasts, bars, Experiment.model_validate(experiment | {"backtest": rules}), [0, 1])
        for rules in (dear, free)
    ]
    for delay in (0, 1):
        np.testing.assert_allclose(gross[0][delay], gross[1][delay], atol=1e-12)


def test_skill_that_lasts_is_kept(place: Place) -> None:
    check = place.attack(place.best)
    assert (check.outcome, check.figures["skill"]) == ("passed", "kept")
    delays: list[Any] = [check.figures[f"ic_{delay}_late"] for delay in (0, 1, 2, 12)]
    assert delays == sorted(delays, reverse=True)
    sharpes: Any = check.figures
    assert sharpes["gross_sharpe_0_late"] > sharpes["gross_sharpe_12_late"] > 0


def test_forecasts_that_know_the_next_bar_and_no_more_are_caught(place: Place) -> None:
    nothing_lasts = place.noise.rolling(place.horizon).sum().shift(-place.horizon)
    check = place.attack(place.noise.shift(-1), nothing_lasts)
    assert (check.outcome, check.figures["skill"]) == ("failed", "gone")
    assert check.reason.startswith("the IC of forecasts over 12 bars is gone")


def test_fills_that_look_ahead_are_caught_though_the_forecasts_do_not(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that earned the bar of the decision would pay any forecast that follows the market."""
    real = late.run_backtest

    def fill_before(bars: Any, weights: pd.DataFrame, *rest: Any) -> Any:
        jumps = {symbol: _jumping(table) for symbol, table in bars.items()}
        return real(jumps, weights, *rest)

    def _jumping(table: pd.DataFrame) -> pd.DataFrame:
        """Return bars that jump between the fill of a decision and the next one as the noise of the decision's bar."""
        moves = place.noise["AAA"].shift(2, fill_value=0.0).to_numpy()
        price = 100 * np.exp(moves.cumsum())
        return table.assign(open=price, high=price, low=price, close=price)

    monkeypatch.setattr(late, "run_backtest", fill_before)
    check = place.attack(place.noise)
    assert check.outcome == "failed"
    assert check.reason.startswith("the gross return")


def test_noise_has_nothing_to_lose(place: Place) -> None:
    check = place.attack(place.noise)
    assert (check.outcome, check.figures["skill"]) == ("passed", "none")


def test_forecasts_that_never_vary_have_nothing_to_lose(place: Place) -> None:
    check = place.attack(place.noise * 0.0)
    assert (check.outcome, check.figures["ic_0_late"]) == ("passed", None)


@pytest.mark.parametrize("place", [1], indirect=True)
def test_a_forecast_of_one_bar_may_be_spent_unless_it_knows_too_much(place: Place) -> None:
    came = place.noise.shift(-1)
    modest = place.attack(came + 3 * place.noise.sample(frac=1, random_state=0).set_axis(came.index), came)
    assert (modest.outcome, modest.figures["skill"]) == ("passed", "gone")
    assert place.attack(came, came).outcome == "failed"


def test_nothing_is_acted_on_behind_an_outage() -> None:
    table = pd.DataFrame({"AAA": [1.0, 2.0, np.nan, np.nan, 5.0, 6.0]})
    assert late.delayed(table, 1)["AAA"].tolist() == pytest.approx([np.nan, 1, np.nan, np.nan, np.nan, 5], nan_ok=True)
