"""The markets with a known rule: what they claim can be forecast can be, and in their twins nothing."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flashtrader.config import Experiment
from flashtrader.forecasting.scores import mean_score
from flashtrader.panel.loading import load_panel
from flashtrader.verification.planted import Market, leaning_book, simulated_market, trending_market

BOOK = {
    "data": {"kind": "books", "source": "file", "symbols": ["AAA"], "levels": 3},
    "panel": {"target": {"kind": "direction", "horizon_bars": 6, "threshold_bps": 5.0}},
    "model": {"family": "orderbook"},
    "training": {"loss": "cross_entropy"},
}


def hourly(horizon: int, source: str = "file") -> Experiment:
    target = {"kind": "log_return", "horizon_bars": horizon}
    return Experiment.model_validate(
        {"data": {"source": source, "symbols": ["AAA", "BBB"], "interval": "60"}, "panel": {"target": target}}
    )


def outcomes(market: Market) -> pd.DataFrame:
    panel = load_panel(market.experiment, market.data_dir).panel
    times = pd.to_datetime(panel.timestamps, unit="ms", utc=True)
    return pd.DataFrame(panel.targets, index=times, columns=list(panel.symbols)).astype(np.float64)


def ic(market: Market, forecasts: pd.DataFrame) -> float:
    return mean_score(forecasts, outcomes(market), market.experiment.panel.target.horizon_bars).ic


@pytest.mark.parametrize("horizon", [1, 6, 24])
def test_the_newest_return_tells_as_much_as_the_process_says(tmp_path: Path, horizon: int) -> None:
    market = trending_market(hourly(horizon), tmp_path, 20_000)
    persistence = 0.5 ** (1 / max(4, horizon))
    ahead = persistence ** np.arange(1, horizon + 1)
    steps = np.arange(horizon)
    together = (persistence ** np.abs(steps[:, None] - steps)).sum()
    assert ic(market, market.best) == pytest.approx(ahead.sum() / np.sqrt(together), abs=0.04)
    assert ic(market, market.best.shift(1)) < ic(market, market.best)


def test_markets_are_the_same_every_time_and_differ_from_each_other(tmp_path: Path) -> None:
    first, again = (trending_market(hourly(6), tmp_path / name, 500).best for name in ("first", "again"))
    pd.testing.assert_frame_equal(first, again)
    assert abs(first.corr().iloc[0, 1]) < 0.5


def test_the_mid_of_a_book_follows_its_larger_queue(tmp_path: Path) -> None:
    market = leaning_book(Experiment.model_validate(BOOK), tmp_path, 5_000, noise_only=False)
    came = outcomes(market)["AAA"]
    assert ic(market, market.best) > 0.7
    assert (came == 0).mean() < 0.5, "a single step is more than the threshold"
    assert {-1.0, 1.0} <= set(came.dropna())


def test_in_its_twin_the_queues_say_nothing(tmp_path: Path) -> None:
    experiment = Experiment.model_validate(BOOK)
    market = leaning_book(experiment, tmp_path, 5_000, noise_only=True)
    loaded = load_panel(experiment, tmp_path)
    (book,) = loaded.tables.values()
    larger = np.sign(np.log(book["bid_size_1"] / book["ask_size_1"])).to_numpy()
    shown = pd.DataFrame({"AAA": larger}, index=market.best.index)
    score = mean_score(shown, outcomes(market), 6)
    assert abs(score.ic) < 4 * score.ic_error
    assert not market.best.to_numpy().any()


def test_the_simulated_exchange_is_fetched_with_its_best_forecast(tmp_path: Path) -> None:
    market = simulated_market(hourly(24, source="bybit"), tmp_path / "rule", 30_000, noise_only=False)
    twin = simulated_market(hourly(24, source="bybit"), tmp_path / "twin", 1_000, noise_only=True)
    assert ic(market, market.best) > 0.2
    assert market.experiment.data.source == twin.experiment.data.source == "simulated"
    assert twin.experiment.data.noise_only
    assert not twin.best.to_numpy().any()
    assert (tmp_path / "twin" / "simulated-noise" / "AAA").is_dir()
