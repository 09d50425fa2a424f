from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from torch import Tensor

from flashtrader.config import Experiment, validate
from flashtrader.errors import ConfigError, DataError
from flashtrader.forecasting.rollout import Rollout, point_next_candles, rollout, sample_next_candles
from flashtrader.interval import Interval
from flashtrader.market.bars import validate_bars
from flashtrader.models.candles import FEWEST_DEGREES, SMALLEST_SCALE, CandleModel
from flashtrader.models.families import build_model
from flashtrader.models.stream import output_rows
from flashtrader.panel.candles import candles_of
from flashtrader.panel.loading import LoadedPanel, panel_of
from flashtrader.panel.scaling import fit_scaler
from flashtrader.panel.splits import Rows
from panels import random_bars

NUM_BARS = 400
ROW = 350
AFTER_OUTAGE = 323
BARS = random_bars(NUM_BARS).drop(index=[290, 291, *range(320, 325), 340]).reset_index(drop=True)
"""Holes that are bridged, and an outage, after which AFTER_OUTAGE is the sixth bar: its day never becomes whole."""


def experiment(
    multiscale: Sequence[str] = (),
    features: Sequence[str] = ("candle", "candle_moves", "calendar"),
    distribution: str = "student_t",
) -> Experiment:
    settings = {
        "data": {"symbols": ["S"]},
        "panel": {"features": list(features), "target": {"kind": "next_candle"}, "multiscale": list(multiscale)},
        "model": {
            "family": "candles",
            "distribution": distribution,
            "context_bars": 6,
            "width": 16,
            "layers": 2,
            "heads": 2,
        },
        "training": {"segment_bars": 32, "warmup_bars": 4},
    }
    return validate(settings, "test")


def load(described: Experiment, bars: pd.DataFrame = BARS) -> LoadedPanel:
    return LoadedPanel(panel_of(described, {"S": bars}), {"S": bars}, {})


def trained(described: Experiment) -> CandleModel:
    """Return a model as if trained: its heads answer something, and draw wide."""
    model = build_model(described, fit_scaler(load(described).panel, Rows(0, 300)))
    assert isinstance(model, CandleModel)
    for head in (model.price_head, model.volume_head[-1]):
        torch.nn.init.normal_(head.weight, std=0.1)
    return model.eval()


def bars_after(row: int, timestamps: np.ndarray, candles: np.ndarray) -> pd.DataFrame:
    made_up = pd.DataFrame(candles, columns=["open", "high", "low", "close", "volume"])
    return pd.concat([BARS.iloc[: row + 1], made_up.assign(timestamp=timestamps)], ignore_index=True)


SCALES = pytest.mark.parametrize("multiscale", [(), ("240", "D")], ids=["bars", "multiscale"])


@SCALES
@pytest.mark.parametrize("row", [ROW, AFTER_OUTAGE, 332, 335])
def test_the_model_reads_of_its_own_candles_what_the_panel_would_tell(
    multiscale: Sequence[str], row: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = experiment(multiscale)
    model = trained(described)
    read: list[tuple[Tensor, Tensor]] = []
    forward = model.forward

    def spy(values: Tensor, mask: Tensor, past: object) -> Tensor:
        read.append((values.clone(), mask.clone()))
        return forward(values, mask, past)

    monkeypatch.setattr(model, "forward", spy)
    rolled = rollout(described, model, load(described), row, num_bars=60, num_paths=3, seed=1)
    read = read[-59:]
    for path, candles in enumerate([rolled.point, *rolled.paths]):
        panel = load(described, bars_after(row, rolled.timestamps, candles)).panel
        assert len(panel.run_starts) == 2
        for step, (values, mask) in enumerate(read):
            np.testing.assert_array_equal(mask[path, 0], panel.mask[row + 1 + step])
            np.testing.assert_allclose(values[path, 0], panel.values[row + 1 + step], rtol=1e-6, atol=1e-7)
    assert mask.all()


@SCALES
def test_the_point_path_is_one_forecast_after_another(multiscale: Sequence[str]) -> None:
    described = experiment(multiscale)
    model, bars = trained(described), BARS.iloc[: ROW + 1]
    rolled = rollout(described, model, load(described), ROW, num_bars=30, num_paths=0, seed=0)
    assert rolled.paths.shape == (0, 30, 5)
    for step in range(30):
        panel = load(described, bars).panel
        outputs = output_rows(model, panel, Rows(ROW + step, ROW + step + 1), warmup_bars=4)
        candle = point_next_candles(model, outputs, candles_of(bars.iloc[-1:]))
        np.testing.assert_allclose(rolled.point[step], candle[0], rtol=1e-5)
        bars = bars_after(ROW, rolled.timestamps[: step + 1], rolled.point[: step + 1])


def roll(seed: int = 0, num_paths: int = 40, bars: pd.DataFrame = BARS) -> Rollout:
    described = experiment(("D",))
    return rollout(described, trained(described), load(described, bars), ROW, 50, num_paths, seed)


def test_candles_stay_candles() -> None:
    rolled = roll()
    assert rolled.decision_ms == BARS["timestamp"].iloc[ROW]
    np.testing.assert_array_equal(np.diff(rolled.timestamps, prepend=rolled.decision_ms), 3_600_000)
    for candles in (rolled.point, *rolled.paths):
        made_up = pd.DataFrame(candles, columns=["open", "high", "low", "close", "volume"])
        validate_bars(made_up.assign(timestamp=rolled.timestamps), Interval("60"), "rollout")
    assert len(np.unique(rolled.paths[:, 0, 3])) > 20


def test_the_same_seed_draws_the_same_paths_and_no_later_bar_is_seen() -> None:
    rolled = roll()
    changed = BARS.copy()
    changed.loc[ROW + 1 :, "open":"volume"] *= 2
    for again in (roll(), roll(bars=changed), roll(bars=BARS.iloc[: ROW + 1])):
        np.testing.assert_array_equal(again.paths, rolled.paths)
        np.testing.assert_array_equal(again.point, rolled.point)
    assert not np.array_equal(roll(seed=1).paths, rolled.paths)
    np.testing.assert_allclose(roll(seed=1, num_paths=2).point, rolled.point, rtol=1e-4)


def test_quantiles_are_those_of_the_paths() -> None:
    rolled = roll()
    low, middle, high = rolled.quantiles([0.1, 0.5, 0.9])
    np.testing.assert_allclose(middle, np.median(rolled.paths, axis=0))
    assert (low <= middle).all()
    assert (middle <= high).all()
    assert (rolled.paths[:, 7, 3] <= high[7, 3]).mean() == pytest.approx(0.9, abs=0.03)


def test_draws_have_the_distribution_that_the_answers_describe() -> None:
    described = experiment()
    model = trained(described)
    answers, before = np.zeros((20_000, 10, 4), np.float32), np.tile(candles_of(BARS.iloc[:1]), (20_000, 1))
    answers[:, 6] = 0.5, -1.0, 3.0, -2.0  # of the body: location, log scale, degrees of freedom, ties
    answers[:, 7] = 5.0, 0.0, 3.0, 0.4
    drawn = sample_next_candles(model, answers, before, np.random.default_rng(0))
    bodies = np.log(drawn[:, 3] / drawn[:, 0]) / model.standardiser.target_std[6].item()
    assert (bodies == 0).mean() == pytest.approx(1 / (1 + np.exp(2.0)), abs=0.01)
    expected = scipy.stats.t(FEWEST_DEGREES + np.log1p(np.exp(3.0)), 0.5, SMALLEST_SCALE + np.exp(-1.0))
    levels = [0.02, 0.1, 0.5, 0.9, 0.98]
    np.testing.assert_allclose(np.quantile(bodies[bodies != 0], levels), expected.ppf(levels), atol=0.05)
    no_wick = drawn[:, 1] == drawn[:, [0, 3]].max(axis=1)
    assert no_wick.mean() == pytest.approx(1 / (1 + np.exp(-0.4)), abs=0.01)


def test_what_can_not_be_rolled_out_is_refused() -> None:
    described = experiment(features=("candle", "rsi_14", "range_3"))
    with pytest.raises(ConfigError) as refused:
        rollout(described, trained(described), load(described), ROW, 5, 0, 0)
    assert str(refused.value) == (
        "panel.features: rsi_14, range_3 can't be told of made-up candles; candle, candle_moves and calendar can, and "
        "a run with no other features can be rolled out"
    )

    described = experiment(distribution="point")
    model = trained(described)
    with pytest.raises(ConfigError) as refused:
        rollout(described, model, load(described), ROW, 5, 1, 0)
    assert str(refused.value) == (
        "model.distribution: a model that learned points alone has no sample paths; train with student_t, or leave "
        "--paths out"
    )
    assert rollout(described, model, load(described), ROW, 5, 0, 0).point.shape == (5, 5)
    with pytest.raises(DataError) as lacking:
        rollout(described, model, load(described), 3, 5, 0, 0)
    assert str(lacking.value) == (
        "S: no forecast at 1970-01-01T03:00:00Z: it needs 4 bars before it without an outage; choose another bar, or "
        "fetch more"
    )

    returns = validate({"data": {"symbols": ["S"]}}, "test")
    other = build_model(returns, fit_scaler(load(described).panel, Rows(0, 300)))
    with pytest.raises(ConfigError) as refused:
        rollout(returns, other, load(described), ROW, 5, 0, 0)
    assert str(refused.value) == "model.family: returns forecasts no candles; roll out a run of candles"
