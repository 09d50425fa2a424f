import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from random_bars import HOUR_MS, HOURLY, hours_with_holes, random_bars

from flashtrader.config import PanelConfig
from flashtrader.errors import ConfigError, DataError
from flashtrader.interval import Interval
from flashtrader.market.bars import resample, validate_bars
from flashtrader.panel.candles import (
    CANDLE,
    MOVES_FROM,
    SHAPE,
    build_candle_panel,
    candles_of,
    log_candles,
    merge_candles,
    next_candles,
    next_candles_of_shape,
    next_shapes,
)
from flashtrader.panel.panel import Panel

BARS = random_bars(hours_with_holes(900))
CONFIG = PanelConfig(
    features=("candle", "candle_moves", "calendar"), target={"kind": "next_candle"}, multiscale=("240", "D")
)


def build(bars: pd.DataFrame, config: PanelConfig = CONFIG) -> Panel:
    return build_candle_panel({"A": bars.reset_index(drop=True)}, HOURLY, config, with_shape=True)


def as_bars(candles: np.ndarray) -> pd.DataFrame:
    columns = pd.DataFrame(candles, columns=["open", "high", "low", "close", "volume"])
    return columns.assign(timestamp=HOUR_MS * np.arange(len(candles)))


def test_targets_are_what_leads_from_each_candle_to_the_next() -> None:
    panel, candles = build(BARS), candles_of(BARS)
    assert panel.target_names == CANDLE + SHAPE
    assert panel.target_names[panel.symbol_targets[0]] == "log_close"
    np.testing.assert_array_equal(panel.target_entities, 0)
    ends = np.isin(np.arange(len(BARS)) + 1, [*panel.run_starts, len(BARS)])
    assert 5 < ends.sum() < 100
    np.testing.assert_array_equal(np.isnan(panel.targets), np.broadcast_to(ends[:, None], panel.targets.shape))
    rows = np.flatnonzero(~ends)
    targets = panel.targets[rows].astype(np.float64)
    np.testing.assert_allclose(next_candles(candles[rows], targets[:, :5]), candles[rows + 1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        next_candles_of_shape(candles[rows], targets[:, 5:]), candles[rows + 1], rtol=1e-5, atol=1e-5
    )


def test_no_change_is_a_market_that_stands_still_at_the_close() -> None:
    candles = candles_of(BARS)
    still = candles[:, MOVES_FROM]
    np.testing.assert_allclose(next_candles(candles, np.zeros_like(candles)), still, rtol=1e-14, atol=1e-14)


def test_a_shape_is_undone() -> None:
    """Also where there is no wick, no body or no volume."""
    candles = np.array(candles_of(BARS))
    candles[1::7, 1] = candles[1::7, [0, 3]].max(axis=1)
    candles[2::7, 2] = candles[2::7, [0, 3]].min(axis=1)
    candles[3::7, :4] = candles[3::7, :1]
    candles[4::7, 4] = 0
    shapes = next_shapes(candles[:-1], candles[1:])
    assert (shapes[:, 2:4].min(axis=0) == 0).all()
    np.testing.assert_allclose(next_candles_of_shape(candles[:-1], shapes), candles[1:], rtol=1e-12, atol=1e-12)


anything = arrays(np.float64, (6, 5), elements=st.floats(-1e4, 1e4))


@given(anything)
def test_whatever_is_forecast_is_a_candle(numbers: np.ndarray) -> None:
    before = candles_of(BARS)[:6]
    for candles in (next_candles(before, numbers), next_candles_of_shape(before, numbers)):
        validate_bars(as_bars(candles), HOURLY, "forecast")


def test_a_longer_candle_is_the_newest_that_has_closed() -> None:
    """Beside a search for it, row by row, among the longer candles that have closed since the row's run began."""
    panel = build(BARS, CONFIG.model_copy(update={"features": ("candle",)}))
    assert panel.entity_names == ("A", "A 240", "A D")
    assert panel.mask[:, 0].all()
    np.testing.assert_array_equal(panel.values[:, 0], log_candles(candles_of(BARS)).astype(np.float32))
    for entity, code in enumerate(CONFIG.multiscale, start=1):
        longer = resample(BARS, HOURLY, Interval(code), CONFIG.max_gap_bars)
        closes = longer["timestamp"].to_numpy() + Interval(code).milliseconds
        logs = log_candles(candles_of(longer)).astype(np.float32)
        for row, opening in enumerate(panel.timestamps):
            run_opening = panel.timestamps[panel.run_starts[panel.run_starts <= row][-1]]
            closed = np.flatnonzero((closes <= opening + HOUR_MS) & (closes > run_opening))
            assert panel.mask[row, entity] == (len(closed) > 0)
            np.testing.assert_array_equal(panel.values[row, entity], logs[closed[-1]] if len(closed) else 0)
        assert 0.3 < panel.mask[:, entity].mean() < 1


def test_features_of_a_longer_candle_are_those_of_its_own_history() -> None:
    bars = random_bars(np.arange(200))
    days = resample(bars, HOURLY, Interval("D"))
    own = build_candle_panel({"A": days}, Interval("D"), CONFIG.model_copy(update={"multiscale": ()}), with_shape=False)
    panel = build(bars, CONFIG.model_copy(update={"multiscale": ("D",)}))
    np.testing.assert_array_equal(panel.values[23:192:24, 1], own.values[:, 0])
    np.testing.assert_array_equal(panel.mask[23:192:24, 1], own.mask[:, 0])


def test_what_comes_later_changes_no_bit_before_it() -> None:
    whole = build(BARS)
    for stop in (200, 211, 222, 350, 501, 502, 503, 504, 505, 899):
        noisy = BARS.copy()
        noisy.loc[stop:, "open":"volume"] = 3 * random_bars(np.arange(len(BARS)), seed=1).loc[stop:, "open":"volume"]
        for other in (build(BARS.iloc[:stop]), build(noisy)):
            np.testing.assert_array_equal(other.values[:stop], whole.values[:stop])
            np.testing.assert_array_equal(other.mask[:stop], whole.mask[:stop])
            np.testing.assert_array_equal(other.targets[: stop - 1], whole.targets[: stop - 1])
    assert not np.array_equal(build(noisy).values, whole.values)


def test_parts_merge_as_bars_are_resampled() -> None:
    bars = random_bars(np.arange(48))
    merged = merge_candles(candles_of(bars).reshape(2, 24, 5))
    np.testing.assert_allclose(merged, candles_of(resample(bars, HOURLY, Interval("D"))), rtol=1e-14)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"features": ("candle_moves", "candle")},
            ConfigError,
            "panel.features: family candles reads the candle itself first: begin the list with candle, then "
            "candle_moves",
        ),
        ({"multiscale": ("60",)}, ConfigError, "panel.multiscale: 60 is not longer than data.interval, 60"),
        ({"multiscale": ("15",)}, ConfigError, "panel.multiscale: 15 is not longer than data.interval, 60"),
        (
            {"multiscale": ("M",)},
            DataError,
            "panel.multiscale: no candle of interval M is whole in the 900 bars; leave it out, raise "
            "panel.max_gap_bars, or fetch more bars",
        ),
        (
            {"features": ("candle", "rsi_9000")},
            DataError,
            "A: rsi_9000 is nowhere known; its longest stretch without an outage has 168 bars: shorten the windows in "
            "panel.features, raise panel.max_gap_bars, or fetch more bars",
        ),
        (
            {"features": ("candle", "rsi_90"), "multiscale": ("D",)},
            DataError,
            "A D: rsi_90 is nowhere known; its longest stretch without an outage has 15 bars: shorten the windows in "
            "panel.features, raise panel.max_gap_bars, or fetch more bars",
        ),
    ],
)
def test_what_can_not_be_is_refused(change: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as refused:
        build(BARS, CONFIG.model_copy(update=change))
    assert str(refused.value) == message


def test_features_that_no_candle_has_together_are_refused() -> None:
    bars = random_bars(range(6)).assign(volume=[3.0, 3.0, 0, 0, 0, 0])
    with pytest.raises(DataError) as refused:
        build(bars, PanelConfig(features=("candle", "volume_ratio_2", "rsi_3"), target=CONFIG.target))
    assert str(refused.value) == (
        "A: the whole of panel.features is nowhere known; its longest stretch without an outage has 6 bars: shorten "
        "the windows in panel.features, raise panel.max_gap_bars, or fetch more bars"
    )


def test_a_market_without_bars_is_refused() -> None:
    with pytest.raises(DataError) as refused:
        build(BARS.iloc[:0])
    assert str(refused.value) == ("A: no bars in the period asked for; fetch them, or change data.start and data.end")
