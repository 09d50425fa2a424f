"""Every picture draws every kind of result, and shows what it should."""

import hashlib
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import QuadMesh

from flashtrader.report.plots import (
    plot_drawdown,
    plot_equity,
    plot_forecast_outcome,
    plot_loss_curves,
    plot_monthly_returns,
    plot_positions,
    write_png,
)
from flashtrader.report.summaries import Curve, drawdown

HOUR_MS = 3_600_000
START_MS = 1_640_995_200_000
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _curve(equity, step_ms=HOUR_MS):
    return Curve(START_MS + np.arange(len(equity)) * step_ms, np.asarray(equity, dtype=np.float64))


def _walk(num_bars, volatility=0.01, seed=0):
    return 1e5 * np.exp(np.cumsum(np.random.default_rng(seed).normal(size=num_bars) * volatility))


CURVES = {
    "a walk": _walk(2_000),
    "one bar": [1e5],
    "two bars": [1e5, 9e4],
    "flat": [1e5] * 50,
    "ruin": [1e5, 5e4, -3e3],
    "ruin to nothing": [1e5, 0.0],
    "many decades": np.geomspace(1e5, 1e-20, 400),
}


@pytest.mark.parametrize("equity", CURVES.values(), ids=CURVES.keys())
def test_every_curve_draws(equity, tmp_path):
    strategy, references = _curve(equity), {"Buy and hold": _curve(_walk(max(60, len(equity)), seed=1))}
    for name, figure in {
        "equity": plot_equity(strategy, references),
        "drawdown": plot_drawdown(strategy, references),
        "months": plot_monthly_returns(strategy),
    }.items():
        image = write_png(figure, tmp_path / f"{name}.png")
        assert image.startswith(PNG_SIGNATURE)
        assert (tmp_path / f"{name}.png").read_bytes() == image


@pytest.mark.parametrize("num_days", [1, 3, 6, 12, 20, 28, 40, 55, 90, 400])
def test_times_on_the_axis_keep_apart_where_a_month_ends(num_days):
    opened = np.datetime64("2024-02-26", "h") + np.arange(num_days * 24)
    (axes,) = plot_equity(Curve(opened.astype("datetime64[ms]").astype(np.int64), _walk(len(opened))), {}).axes
    axes.figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
    assert len(boxes) >= 2
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


@pytest.mark.parametrize(("num_bars", "num_symbols"), [(1, 1), (2, 3), (60, 2), (3_000, 16), (700, 100)])
def test_positions_draw_for_any_number_of_bars_and_symbols(num_bars, num_symbols, tmp_path):
    weights = np.random.default_rng(0).normal(size=(num_bars, num_symbols)) / num_symbols
    symbols = [f"S{number}" for number in range(num_symbols)]
    figure = plot_positions(_curve(np.ones(num_bars)).timestamps, weights, symbols)
    assert write_png(figure, tmp_path / "positions.png").startswith(PNG_SIGNATURE)
    strips = figure.axes[1]
    assert [label.get_text() for label in strips.get_yticklabels()] == symbols
    (mesh,) = (artist for artist in strips.collections if isinstance(artist, QuadMesh))
    assert mesh.get_array().mean() == pytest.approx(weights.mean(), abs=2 / num_bars)


def test_no_position_at_all_draws(tmp_path):
    figure = plot_positions(_curve(np.ones(10)).timestamps, np.zeros((10, 2)), ["A", "B"])
    assert write_png(figure, tmp_path / "positions.png").startswith(PNG_SIGNATURE)


def test_a_crash_of_one_minute_in_a_million_stays_in_the_drawdown():
    equity = _walk(1_000_000, 1e-5)
    equity[654_321] *= 0.4
    figure = plot_drawdown(_curve(equity, 60_000), {})
    assert figure.axes[0].lines[0].get_ydata().min() == drawdown(equity).min() < -0.55


@pytest.mark.parametrize(("equity", "scale"), [([1e5, 2.9e5], "linear"), ([1e5, 3.1e5], "log"), ([1e5, 0.0], "linear")])
def test_the_log_scale_comes_when_it_pays_and_can(equity, scale):
    assert plot_equity(_curve(equity), {}).axes[0].get_yscale() == scale


def test_a_reference_that_outlives_the_strategy_is_drawn_to_its_end():
    axes = plot_equity(_curve([1e5, -1.0]), {"Buy and hold": _curve(_walk(500))}).axes[0]
    assert axes.get_xlim()[1] == axes.lines[1].get_xdata()[-1]
    assert "Ruined" in {text.get_text() for text in axes.get_legend().get_texts()}


def test_many_references_have_a_colour_each_and_leave_the_picture_its_width():
    figure = plot_equity(_curve(_walk(500)), {f"Reference {seed}": _curve(_walk(500, seed=seed)) for seed in range(6)})
    figure.canvas.draw()
    axes = figure.axes[0]
    assert len({line.get_color() for line in axes.lines}) == 7
    assert axes.get_position().width > 0.75


def test_months_show_their_returns_in_percent():
    days = np.arange("2022-11-30", "2023-01-02", dtype="datetime64[D]").astype("datetime64[ms]").astype(np.int64)
    equity = np.full(len(days), 1e5)
    equity[1:] *= 1.05
    texts = {text.get_text() for text in plot_monthly_returns(Curve(days, equity)).axes[0].texts}
    assert texts == {"0.0", "5.0"}


FORECASTS = {
    "none": (np.empty((0, 2)), np.empty((0, 2))),
    "no outcome": (np.ones((5, 2)), np.full((5, 2), np.nan)),
    "one": (np.ones((1, 1)), np.ones((1, 1))),
    "all equal": (np.zeros((400, 1)), np.random.default_rng(0).normal(size=(400, 1))),
    "many": (np.random.default_rng(1).normal(size=(900, 3)), np.random.default_rng(2).normal(size=(900, 3))),
}


@pytest.mark.parametrize(("forecasts", "outcomes"), FORECASTS.values(), ids=FORECASTS.keys())
def test_forecasts_of_any_number_draw(forecasts, outcomes, tmp_path):
    figure = plot_forecast_outcome(forecasts, outcomes)
    assert write_png(figure, tmp_path / "forecast_outcome.png").startswith(PNG_SIGNATURE)


def test_the_correlation_is_in_the_title():
    forecasts = np.random.default_rng(0).normal(size=(500, 2))
    title = plot_forecast_outcome(forecasts, -forecasts).axes[0].get_title(loc="left")
    assert title.endswith("IC \N{MINUS SIGN}1.000")


LOSSES = {
    "nothing yet": [],
    "one step": [{"step": 1, "train_loss": 0.5}],
    "no number": [{"step": 1, "train_loss": None}, {"step": 2, "train_loss": float("nan"), "validation_loss": None}],
    "steps and evaluations": [{"step": step, "train_loss": 1 / step} for step in range(1, 20)]
    + [{"step": step, "validation_loss": (step - 10) ** 2 / 100, "validation_ic": 0.01} for step in (5, 10, 15)],
}


@pytest.mark.parametrize("rows", LOSSES.values(), ids=LOSSES.keys())
def test_loss_curves_draw(rows, tmp_path):
    assert write_png(plot_loss_curves(rows), tmp_path / "loss.png").startswith(PNG_SIGNATURE)


def test_loss_curves_name_the_best_evaluation():
    (label,) = (
        text.get_text()
        for text in plot_loss_curves(LOSSES["steps and evaluations"]).axes[0].get_legend().get_texts()
        if "best" in text.get_text()
    )
    assert label == "Validation, best 0.0000 at step 10"


def test_the_same_picture_is_the_same_bytes_whatever_the_reader_has_set(tmp_path):
    def digest():
        figure = plot_equity(_curve(_walk(500)), {"Buy and hold": _curve(_walk(500, seed=1))})
        return hashlib.sha256(write_png(figure, tmp_path / "equity.png")).hexdigest()

    first = digest()
    with mpl.rc_context({"font.size": 30, "axes.grid": False, "timezone": "Asia/Tokyo"}):
        assert digest() == first
