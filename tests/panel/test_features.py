import numpy as np
import pandas as pd
import pytest
from random_bars import EVERY_FEATURE, HOUR_MS, HOURLY, MONDAY_MS, hours_with_holes, random_bars

from flashtrader.errors import ConfigError
from flashtrader.panel.features import History, expand_features, find_features
from flashtrader.panel.outages import stretch_starts
from flashtrader.panel.rolling import rolling_mean

BARS = random_bars(hours_with_holes(700))
FEATURES = find_features(EVERY_FEATURE)


def compute(name: str, bars: pd.DataFrame) -> np.ndarray:
    starts = stretch_starts(bars["timestamp"].to_numpy(), HOURLY, max_gap_bars=3)
    return FEATURES.get(name, next(iter(find_features([name]).values())))(History(bars, starts))


def closes(*prices: float) -> pd.DataFrame:
    return random_bars(np.arange(len(prices))).assign(close=np.array(prices, float))


def test_the_bars_of_these_tests_have_outages() -> None:
    assert len(stretch_starts(BARS["timestamp"].to_numpy(), HOURLY, max_gap_bars=3)) > 5


@pytest.mark.parametrize("name", FEATURES)
def test_a_cut_history_gives_the_same_rows_bit_for_bit(name: str) -> None:
    full = compute(name, BARS)
    assert np.isfinite(full).any()
    for stop in [1, 2, 23, 24, 25, 26, 48, 49, *range(60, len(BARS), 37)]:
        np.testing.assert_array_equal(compute(name, BARS.iloc[:stop].reset_index(drop=True)), full[:stop])


@pytest.mark.parametrize("name", FEATURES)
def test_noise_in_the_future_changes_nothing_before_it(name: str) -> None:
    full = compute(name, BARS)
    for row in range(30, len(BARS), 101):
        noisy = BARS.copy()
        noise = random_bars(np.arange(len(BARS)), seed=row) * 7
        noisy.loc[row + 1 :, "open":"volume"] = noise.loc[row + 1 :, "open":"volume"]
        changed = compute(name, noisy)
        np.testing.assert_array_equal(changed[: row + 1], full[: row + 1])


@pytest.mark.parametrize("name", FEATURES)
def test_no_window_spans_an_outage(name: str) -> None:
    full = compute(name, BARS)
    starts = stretch_starts(BARS["timestamp"].to_numpy(), HOURLY, max_gap_bars=3)
    for start, stop in zip(starts, [*starts[1:], len(BARS)], strict=True):
        np.testing.assert_array_equal(compute(name, BARS.iloc[start:stop].reset_index(drop=True)), full[start:stop])


def test_missing_bars_up_to_the_limit_are_bridged_and_not_counted() -> None:
    bridged, without = random_bars([0, 1, 2, 6, 7, 8]), random_bars(range(6))
    for name in ("log_return", "volatility_4", "price_ratio_4", "rsi_3"):
        np.testing.assert_array_equal(compute(name, bridged), compute(name, without))
    outage = random_bars([0, 1, 2, 7, 8, 9])
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(compute("log_return", outage))), [0, 3])


def test_rolling_features_agree_with_pandas() -> None:
    bars = random_bars(range(500))
    returns = np.log(bars["close"]).diff()
    change = bars["close"].diff()
    gain, loss = change.clip(lower=0).rolling(6).mean(), (-change).clip(lower=0).rolling(6).mean()
    log_range = np.log(bars["high"] / bars["low"])
    for name, expected in {
        "log_return": returns,
        "volatility_24": returns.rolling(24).std(),
        "volatility_499": returns.rolling(499).std(),
        "range_7": np.sqrt((log_range**2).rolling(7).mean() / (4 * np.log(2))),
        "volume_ratio_24": np.log1p(bars["volume"] / bars["volume"].rolling(24).mean()),
        "price_ratio_5": np.log(bars["close"] / bars["close"].rolling(5).mean()),
        "rsi_mean_6": 100 * gain / (gain + loss),
    }.items():
        np.testing.assert_allclose(compute(name, bars), expected, rtol=1e-9, atol=1e-12, err_msg=name)


def test_rsi_by_hand() -> None:
    """Changes +1, −0.5, +1, 0, −1. The first averages, over two changes, are gain 0.5 and loss 0.25."""
    bars = closes(10, 11, 10.5, 11.5, 11.5, 10.5)
    wilder = [0.5 / 0.75, 0.75 / 0.875, 0.375 / 0.4375, 0.1875 / 0.71875]
    simple = [0.5 / 0.75, 0.5 / 0.75, 0.5 / 0.5, 0.0 / 0.5]
    np.testing.assert_allclose(compute("rsi_2", bars), [np.nan, np.nan, *(100 * np.array(wilder))], rtol=1e-14)
    np.testing.assert_allclose(compute("rsi_mean_2", bars), [np.nan, np.nan, *(100 * np.array(simple))], rtol=1e-14)


@pytest.mark.parametrize(("prices", "rsi"), [((5, 5, 5, 5), 50), ((5, 6, 7, 8), 100), ((8, 7, 6, 5), 0)])
@pytest.mark.parametrize("name", ["rsi_3", "rsi_mean_3"])
def test_rsi_at_its_ends(name: str, prices: tuple[float, ...], rsi: float) -> None:
    assert compute(name, closes(*prices))[-1] == rsi


def test_a_constant_price_has_no_volatility() -> None:
    assert compute("volatility_3", closes(7, 7, 7, 7, 7))[-1] == 0


def test_a_large_value_leaves_no_rounding_error_behind() -> None:
    values = np.array([1e16, 1.0, *[1e-9] * 8])
    means = rolling_mean(values, np.zeros(1, np.int64), 0, 3)
    np.testing.assert_array_equal(means[4:], np.full(6, (1e-9 + 1e-9 + 1e-9) / 3))


def test_volume_ratio_without_trades() -> None:
    bars = random_bars(range(6)).assign(volume=[4.0, 0.0, 0.0, 0.0, 2.0, 2.0])
    expected = [np.nan, np.log1p(0), np.log1p(0) * np.nan, np.nan, np.log1p(2), np.log1p(1)]
    np.testing.assert_array_equal(compute("volume_ratio_2", bars), expected)


def test_calendar() -> None:
    bars = random_bars([0, 6, 42])  # Monday 00:00, Monday 06:00, and a quarter of the week later, Tuesday 18:00
    assert bars["timestamp"].iloc[0] == MONDAY_MS
    assert bars["timestamp"].diff().iloc[1] == 6 * HOUR_MS
    np.testing.assert_allclose(compute("hour_sin", bars), [0, 1, -1], atol=1e-12)
    np.testing.assert_allclose(compute("hour_cos", bars), [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(compute("weekday_sin", bars), [0, np.sin(2 * np.pi / 28), 1], atol=1e-12)
    np.testing.assert_allclose(compute("weekday_cos", bars), [1, np.cos(2 * np.pi / 28), 0], atol=1e-12)


def test_the_moves_of_a_candle_are_what_the_one_before_does_not_tell() -> None:
    bars = random_bars([0, 1, 2, 30])
    log_prices, log_volume = np.log(bars[["open", "high", "low", "close"]]), np.log1p(bars["volume"])
    for name in ("open", "high", "low", "close"):
        expected = [np.nan, *(log_prices[name][1:3].to_numpy() - log_prices["close"][:2].to_numpy()), np.nan]
        np.testing.assert_array_equal(compute(f"{name}_move", bars), expected)
    np.testing.assert_array_equal(compute("close_move", bars), compute("log_return", bars))
    np.testing.assert_array_equal(compute("volume_move", bars), [np.nan, *log_volume.diff()[1:3], np.nan])


def test_names_expand_in_their_order() -> None:
    assert expand_features(["rsi_14", "calendar", "hour_sin"]) == (
        "rsi_14",
        "hour_sin",
        "hour_cos",
        "weekday_sin",
        "weekday_cos",
    )


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("volatilty_24", "volatility_24"),
        ("volatility", "volatility_24"),
        ("volume_ratio48", "volume_ratio_48"),
        ("log_return_5", "log_return"),
        ("rsi_014", "rsi_14"),
        ("rsi_-3", "rsi_3"),
        ("calender", "calendar"),
        ("rsi_٣", "rsi_24"),
        ("", "weekday_sin"),
        ("price_ratio_99999999999", "price_ratio_9999999999"),
    ],
)
def test_an_unknown_feature_names_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as refused:
        find_features([name])
    assert str(refused.value) == f"panel.features: unknown feature {name!r}; the nearest is {nearest}"


def test_a_window_of_one_bar_is_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        find_features(["volatility_1"])
    assert str(refused.value) == (
        "panel.features: volatility_1 needs a window of two bars or more, such as volatility_24"
    )
