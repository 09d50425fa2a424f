"""The simulated market: the same bars however they are fetched, the traits it claims, and a rule of known strength."""

import itertools
from functools import cache

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from flashtrader.interval import Interval
from flashtrader.market.bars import Bars, validate_bars
from flashtrader.market.sources import Span
from flashtrader.market.sources.simulated import (
    DRIFT_BARS,
    GENESIS_MS,
    HORIZONS_BARS,
    JUMP_VOLUME,
    KAPPA,
    PAGE_BARS,
    REGIME_BARS,
    SLOT_BARS,
    SimulatedSource,
)

HOURLY = Interval("60")
HOUR_MS = 3_600_000
NUM_BARS = 200_000
END_MS = GENESIS_MS + NUM_BARS * HOUR_MS
SYMBOLS = ("BTCUSDT", "ETHUSDT")


def source(*, noise_only: bool = False, seed: int = 0) -> SimulatedSource:
    return SimulatedSource(noise_only=noise_only, seed=seed, now_ms=END_MS)


@cache
def market(symbol: str, *, noise_only: bool = False, seed: int = 0) -> Bars:
    exchange = source(noise_only=noise_only, seed=seed)
    pages = list(exchange.pages(symbol, HOURLY, exchange.history(symbol, HOURLY)))
    return pd.concat([page.bars for page in reversed(pages)], ignore_index=True)


def log_returns(bars: Bars, horizon_bars: int = 1) -> NDArray[np.float64]:
    """Return (T - horizon,) returns over the bars after each."""
    closes = np.log(bars["close"].to_numpy())
    return closes[horizon_bars:] - closes[:-horizon_bars]


def correlation(forecast: NDArray[np.float64], outcome: NDArray[np.float64]) -> float:
    return float(np.corrcoef(forecast[: len(outcome)], outcome)[0, 1])


def sampling_error(horizon_bars: int) -> float:
    """Return the standard error of a correlation with returns that overlap."""
    return float(np.sqrt(horizon_bars / NUM_BARS))


def announced(bars: Bars) -> NDArray[np.int64]:
    """Return where a bar has far more volume than its neighbours and moves far: what a reader of the bars can see."""
    spike = bars["volume"] / bars["volume"].rolling(48, center=True, min_periods=1).median()
    return np.flatnonzero((spike > 0.35 * JUMP_VOLUME) & (abs(np.log(bars["close"] / bars["open"])) > 0.01))


def test_pages_are_newest_first_and_answer_all_of_the_span() -> None:
    exchange = source()
    history = exchange.history("X", HOURLY)
    assert history == Span(GENESIS_MS, END_MS)
    pages = list(exchange.pages("X", HOURLY, history))
    assert [len(page.bars) for page in pages] == [PAGE_BARS] * (NUM_BARS // PAGE_BARS)
    for newer, older in itertools.pairwise(pages):
        assert older.answered.end_ms == newer.answered.start_ms
    for page in pages:
        assert page.answered == Span(page.bars["timestamp"].iloc[0], page.bars["timestamp"].iloc[-1] + HOUR_MS)
    assert (pages[-1].answered.start_ms, pages[0].answered.end_ms) == (history.start_ms, history.end_ms)
    assert list(exchange.pages("X", HOURLY, Span(END_MS, END_MS + HOUR_MS))) == []
    assert list(exchange.pages("X", HOURLY, Span(GENESIS_MS - HOUR_MS, GENESIS_MS))) == []


def test_a_bar_is_the_same_however_it_is_fetched() -> None:
    whole = market("BTCUSDT")
    for start, stop in ((0, 1), (7, 1_234), (60_001, 60_002), (399, 402)):
        span = Span(GENESIS_MS + start * HOUR_MS, GENESIS_MS + stop * HOUR_MS)
        for now_ms in (span.end_ms, span.end_ms + 1, END_MS + 12_345):
            [page] = SimulatedSource(now_ms=now_ms).pages("BTCUSDT", HOURLY, span)
            pd.testing.assert_frame_equal(page.bars, whole.iloc[start:stop].reset_index(drop=True), check_exact=True)


def test_the_bar_of_this_moment_is_never_there() -> None:
    for now_ms in (GENESIS_MS + 5 * HOUR_MS, GENESIS_MS + 6 * HOUR_MS - 1):
        assert SimulatedSource(now_ms=now_ms).history("X", HOURLY).end_ms == GENESIS_MS + 5 * HOUR_MS
    assert not SimulatedSource(now_ms=GENESIS_MS - 1).history("X", HOURLY)
    now_ms = pd.Timestamp.now("UTC").value // 1_000_000
    assert 0 <= now_ms - SimulatedSource().history("X", Interval("1")).end_ms < 120_000


@pytest.mark.parametrize("code", ["1", "60", "D", "W", "M"])
def test_bars_of_every_interval_are_valid(code: str) -> None:
    interval = Interval.parse(code)
    exchange = SimulatedSource(now_ms=GENESIS_MS + min(3_000 * interval.milliseconds, 20 * 366 * 86_400_000))
    history = exchange.history("X", interval)
    [page] = exchange.pages("X", interval, history)
    bars = validate_bars(page.bars, interval, code)
    assert (np.diff(interval.index(bars["timestamp"].to_numpy())) == 1).all()
    assert bars["open"].iloc[1:].tolist() == bars["close"].iloc[:-1].tolist()


def test_seeds_symbols_and_intervals_are_markets_of_their_own() -> None:
    returns = log_returns(market("BTCUSDT"))
    assert abs(correlation(returns, log_returns(market("BTCUSDT", seed=1)))) < 0.02
    assert abs(correlation(returns, log_returns(market("ETHUSDT")))) > 0.2
    assert market("BTCUSDT")["close"].iloc[0] != market("ETHUSDT")["close"].iloc[0]


def test_returns_have_heavy_tails_and_clustered_volatility() -> None:
    returns = pd.Series(log_returns(market("BTCUSDT")))
    calm = np.delete(returns.to_numpy(), announced(market("BTCUSDT"))[1:] - 1)
    assert pd.Series(calm).kurt() > 3
    assert abs(returns.autocorr(1)) < 0.02
    clustering = [returns.abs().autocorr(lag) for lag in (1, 24, 72)]
    assert clustering[0] > clustering[1] > clustering[2] > 0.02


def test_symbols_move_together_and_know_one_season() -> None:
    bars = market("BTCUSDT")
    hours = bars["timestamp"].to_numpy()[1:] // HOUR_MS % 24
    size = pd.Series(np.abs(log_returns(bars))).groupby(hours).mean()
    volume = bars["volume"].iloc[1:].groupby(hours).mean()
    for by_hour in (size, volume):
        assert by_hour.idxmax() in (13, 14, 15, 16, 17)
        assert by_hour.max() > 1.5 * by_hour.min()
    assert 0.35 < correlation(log_returns(bars), log_returns(market("ETHUSDT"))) < 0.45
    assert correlation(bars["volume"].to_numpy()[1:], np.abs(log_returns(bars))) > 0.4


def test_ranges_are_those_of_a_random_walk() -> None:
    bars = market("BTCUSDT")
    squared_range = np.log(bars["high"] / bars["low"]) ** 2
    # Parkinson (1980): the expected squared range of a random walk is 4 ln 2 times its variance.
    assert squared_range.mean() / (4 * np.log(2) * log_returns(bars).var()) == pytest.approx(1, abs=0.15)


def test_announcements_stand_out_in_all_symbols_at_once() -> None:
    found = [set(announced(market(symbol)).tolist()) for symbol in SYMBOLS]
    num_true = NUM_BARS // SLOT_BARS
    assert len(found[0] & found[1]) > 0.95 * num_true
    for positions in found:
        assert len(positions) < 1.15 * num_true
    both = sorted(found[0] & found[1])
    moves = [np.sign(market(symbol)["close"] - market(symbol)["open"]).iloc[both].to_numpy() for symbol in SYMBOLS]
    assert (moves[0] == moves[1]).mean() > 0.99
    assert abs(moves[0].mean()) < 4 / np.sqrt(len(both)), "up and down are equally likely"


@pytest.mark.parametrize("horizon_bars", HORIZONS_BARS)
@pytest.mark.parametrize("symbol", SYMBOLS)
def test_the_best_forecast_reaches_the_stated_coefficient(symbol: str, horizon_bars: int) -> None:
    bars = market(symbol)
    forecast = source().best_forecast(symbol, HOURLY, bars["timestamp"].to_numpy(), horizon_bars)
    outcome = log_returns(bars, horizon_bars)
    stated = source().truth(symbol, HOURLY)["best_information_coefficient"][str(horizon_bars)]
    assert correlation(forecast, outcome) == pytest.approx(stated, abs=3 * sampling_error(horizon_bars))
    slope = np.cov(forecast[: len(outcome)], outcome)[0, 1] / forecast.var()
    assert slope == pytest.approx(1, abs=3 * sampling_error(horizon_bars) / stated), "an expectation, not a scale"


def test_the_best_forecast_is_the_rule_as_written() -> None:
    bars = market("BTCUSDT").iloc[:4_000]
    forecast = source().best_forecast("BTCUSDT", HOURLY, bars["timestamp"].to_numpy(), 24)
    sigma = source().truth("BTCUSDT", HOURLY)["sigma"]
    for bar in announced(bars):
        move = np.sign(bars["close"].iloc[bar] - bars["open"].iloc[bar])
        drifts = np.repeat([0, 1, 0], [1 + REGIME_BARS - DRIFT_BARS, DRIFT_BARS, 24])
        ahead = np.convolve(drifts, np.ones(24))[24:][:REGIME_BARS][: len(forecast) - bar]
        np.testing.assert_allclose(forecast[bar : bar + REGIME_BARS], -move * KAPPA * sigma * ahead)
    assert len(announced(bars)) == 10
    assert (forecast != 0).mean() == pytest.approx((DRIFT_BARS + 23) / SLOT_BARS, abs=0.02)


def test_strength_is_realistic_bar_by_bar_and_clear_over_a_day() -> None:
    best = source().truth("BTCUSDT", HOURLY)["best_information_coefficient"]
    assert best["1"] < 0.08
    assert 0.3 < best["24"] < 0.35


def test_following_or_fading_the_price_finds_less_than_half_of_it() -> None:
    bars = market("BTCUSDT")
    best = source().truth("BTCUSDT", HOURLY)["best_information_coefficient"]["24"]
    for lookback_bars in (1, 6, 24, 96, 168, 320):
        past, future = log_returns(bars, lookback_bars), log_returns(bars, 24)
        assert abs(correlation(past[:-24], future[lookback_bars:])) < best / 2


def test_only_the_drift_is_missing_in_the_noise_only_twin() -> None:
    bars, twin = market("BTCUSDT"), market("BTCUSDT", noise_only=True)
    assert bars["volume"].tolist() == twin["volume"].tolist()
    drift = log_returns(bars) - log_returns(twin)
    expected = source().best_forecast("BTCUSDT", HOURLY, bars["timestamp"].to_numpy(), 1)[:-1]
    np.testing.assert_allclose(drift, expected, atol=1e-9)
    assert source(noise_only=True).name == "simulated-noise"


@pytest.mark.parametrize("horizon_bars", HORIZONS_BARS)
def test_nothing_forecasts_the_twin(horizon_bars: int) -> None:
    twin = market("BTCUSDT", noise_only=True)
    timestamps = twin["timestamp"].to_numpy()
    rule = source().best_forecast("BTCUSDT", HOURLY, timestamps, horizon_bars)
    assert abs(correlation(rule, log_returns(twin, horizon_bars))) < 3 * sampling_error(horizon_bars)
    exchange = source(noise_only=True)
    assert not exchange.best_forecast("BTCUSDT", HOURLY, timestamps, horizon_bars).any()
    assert exchange.truth("BTCUSDT", HOURLY)["best_information_coefficient"][str(horizon_bars)] == 0
