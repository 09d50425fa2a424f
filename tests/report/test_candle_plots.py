"""The pictures of candle forecasts draw every kind of result, and show what it says."""

import numpy as np
import pytest

from flashtrader.report.candle_plots import plot_calibration, plot_candle_forecasts, plot_fan
from flashtrader.report.plots import write_png
from flashtrader.report.summaries import Curve

MINUTE_MS = 60_000
FEATURES = ("open", "high", "low", "close", "volume")
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def times(num_bars, first=0):
    return (first + np.arange(num_bars, dtype=np.int64)) * MINUTE_MS


def labels(axes):
    return {text.get_text() for text in axes.get_legend().get_texts()}


@pytest.mark.parametrize("num_bars", [1, 20_000])
def test_forecasts_draw_and_show_the_newest_bars(num_bars, tmp_path):
    generator = np.random.default_rng(0)
    levels = tuple(generator.lognormal(4, 1, (2, num_bars, 5)))
    changes = tuple(generator.normal(scale=0.01, size=(2, num_bars, 5)))
    figure = plot_candle_forecasts(times(num_bars), levels, changes, FEATURES, [0.1, 0.2, 0.3, -0.4, float("nan")])
    assert write_png(figure, tmp_path / "candles.png").startswith(PNG_SIGNATURE)
    level, change = figure.axes[6:8]
    forecast, came = level.lines
    np.testing.assert_array_equal(forecast.get_ydata(), levels[0][-120:, 3])
    np.testing.assert_array_equal(came.get_ydata(), levels[1][-120:, 3])
    assert level.get_ylabel() == "Close"
    assert [text.get_text() for text in change.texts] == ["R² \N{MINUS SIGN}0.400"]
    assert 1 <= len(change.lines[0].get_xdata()) <= 8_000


def test_an_open_that_never_moves_draws(tmp_path):
    still = np.zeros((300, 5))
    figure = plot_candle_forecasts(times(300), (still + 9, still + 9), (still, still), FEATURES, [float("nan")] * 5)
    assert write_png(figure, tmp_path / "candles.png").startswith(PNG_SIGNATURE)


def test_a_fan_begins_at_the_last_close_and_shows_what_came(tmp_path):
    before = Curve(times(30), np.linspace(90, 100, 30))
    spread = np.array([-2, -1, 0, 1, 2])[:, None] * np.arange(1, 11)
    after = Curve(times(7, 30), np.full(7, 101.0))
    figure = plot_fan(before, times(10, 30), LEVELS, 100 + spread, np.full(10, 100.5), after)
    assert write_png(figure, tmp_path / "rollout.png").startswith(PNG_SIGNATURE)
    (axes,) = figure.axes
    assert labels(axes) == {"90% of paths", "50% of paths", "Point path", "What came"}
    outer, inner = (band.get_paths()[0].get_extents() for band in axes.collections)
    assert (outer.y0, outer.y1, inner.y0, inner.y1) == (80, 120, 90, 110)
    point = next(line for line in axes.lines if line.get_label() == "Point path")
    assert point.get_ydata()[0] == 100
    assert len(point.get_ydata()) == 11


def test_a_fan_without_paths_or_future_draws_the_point_path(tmp_path):
    nothing = Curve(times(0), np.empty(0))
    figure = plot_fan(Curve(times(1), np.ones(1)), times(3, 1), (), np.empty((0, 3)), np.ones(3), nothing)
    assert write_png(figure, tmp_path / "rollout.png").startswith(PNG_SIGNATURE)
    assert labels(figure.axes[0]) == {"Point path"}


def test_uniform_ranks_are_flat_and_the_unknown_left_out(tmp_path):
    pit = np.tile((np.arange(1_000) + 0.5) / 1_000, (5, 1)).T
    pit[:, 1] /= 2
    pit[:10, 0] = np.nan
    pit[:, 4] = np.nan
    figure = plot_calibration(pit, FEATURES)
    assert write_png(figure, tmp_path / "calibration.png").startswith(PNG_SIGNATURE)
    flat, low, *_, none = (axes.patches[-1].get_data().values for axes in figure.axes)
    np.testing.assert_allclose(flat, 1, atol=0.25)
    np.testing.assert_allclose(low, [2] * 10 + [0] * 10)
    np.testing.assert_array_equal(none, 0)
