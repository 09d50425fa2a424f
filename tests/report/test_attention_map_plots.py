"""Every picture of attention draws whatever the model's size, and shows the weights against an even share."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import QuadMesh

from flashtrader.report.attention_map_plots import plot_ages, plot_bar, plot_entities, plot_levels
from flashtrader.report.plots import write_png

HOUR_MS = 3_600_000
START_MS = 1_640_995_200_000
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _shares(*shape: int, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).random(shape) ** 6 + 1e-9
    return drawn / drawn.sum(axis=-1, keepdims=True)


def _times(num_bars: int) -> np.ndarray:
    return START_MS + np.arange(num_bars) * HOUR_MS


def _draws(figure, path: Path) -> bool:
    return write_png(figure, path).startswith(PNG_SIGNATURE)


@pytest.mark.parametrize(("layers", "heads", "seen"), [(1, 1, 1), (1, 1, 2), (2, 4, 384), (3, 8, 2048)])
def test_ages_draw(layers, heads, seen, tmp_path):
    by_age = {f"layer {layer}": _shares(heads, seen) for layer in range(1, layers + 1)}
    figure = plot_ages(by_age, num_bars=12)
    assert _draws(figure, tmp_path / "ages.png")
    axes = figure.axes[0]
    assert axes.get_title(loc="left").endswith(", mean of 12 bars")
    assert [label.get_text() for label in axes.get_yticklabels()] == list(by_age)
    assert axes.get_xlim() == (0.5 - seen, 0.5)


def test_a_head_that_looks_everywhere_alike_is_even_and_the_bar_itself_stands_right():
    even, itself = np.full((1, 50), 1 / 50), np.zeros((1, 50))
    itself[0, 0] = 1
    figure = plot_ages({"layer 1": np.concatenate([even, itself])}, num_bars=1)
    (mesh,) = (artist for artist in figure.axes[0].collections if isinstance(artist, QuadMesh))
    drawn = np.asarray(mesh.get_array())
    np.testing.assert_allclose(drawn[0], 1)
    assert drawn[1].argmax() == 49
    assert drawn[1].max() == mesh.get_clim()[1], "fifty times an even share is drawn as the end of the scale"


def test_few_bars_are_each_counted_once():
    axes = plot_ages({"layer 1": _shares(2, 4)}, num_bars=1).axes[0]
    shown = [place for place in axes.get_xticks() if -3.5 <= place <= 0.5]
    assert shown == [-3, -2, -1, 0]


def test_an_attention_that_sees_fewer_bars_ends_where_the_others_end():
    figure = plot_ages({"layer 1": _shares(2, 30), "layer 2": _shares(2, 10)}, num_bars=1)
    meshes = [artist for artist in figure.axes[0].collections if isinstance(artist, QuadMesh)]
    left, right = zip(
        *((mesh.get_coordinates()[0, 0, 0], mesh.get_coordinates()[0, -1, 0]) for mesh in meshes), strict=True
    )
    assert left == (-29.5, -9.5)
    assert right == (0.5, 0.5)


@pytest.mark.parametrize(("num_bars", "seen", "num_symbols"), [(1, 1, 1), (2, 2, 1), (63, 32, 4), (9_000, 2_048, 20)])
def test_a_bar_draws(num_bars, seen, num_symbols, tmp_path):
    prices = {f"S{symbol}": np.exp(_shares(num_bars, seed=symbol)) for symbol in range(num_symbols)}
    prices["S0"][:-1:3] = np.nan
    figure = plot_bar(_times(num_bars), prices, {"layer 1": _shares(4, seen)}, _shares(num_bars))
    assert _draws(figure, tmp_path / "bar.png")


def test_a_bar_without_any_price_draws(tmp_path):
    figure = plot_bar(_times(9), {"A": np.full(9, np.nan)}, {"layer 1": _shares(1, 5)}, _shares(9))
    assert _draws(figure, tmp_path / "bar.png")


def test_what_the_rollout_hardly_reaches_is_left_out():
    rollout = np.zeros(1_000)
    rollout[:200] = 1 / 200
    figure = plot_bar(_times(1_000), {"A": np.ones(1_000)}, {"layer 1": _shares(1, 50)}, rollout)
    first, last = figure.axes[2].get_xlim()
    assert (last - first) * 24 == pytest.approx(198)


@pytest.mark.parametrize(("num_layers", "num_entities"), [(1, 2), (2, 6), (3, 40), (5, 100)])
def test_entities_draw(num_layers, num_entities, tmp_path):
    names = [f"SYM{entity}" for entity in range(num_entities)]
    by_entity = {f"layer {layer}": _shares(num_entities, num_entities) for layer in range(num_layers)}
    figure = plot_entities(by_entity, names, num_bars=3)
    assert _draws(figure, tmp_path / "entities.png")
    drawn = [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible() and axes.get_title(loc="left")]
    assert drawn == list(by_entity)
    assert all(axes.yaxis_inverted() for axes in figure.axes[:num_layers]), "the first entity stands on top"
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert shown == names if num_entities <= 6 else len(shown) <= 13


@pytest.mark.parametrize("depth", [1, 5, 50])
def test_levels_draw(depth, tmp_path):
    names = [f"bid {level}" for level in range(depth, 0, -1)] + [f"ask {level}" for level in range(1, depth + 1)]
    figure = plot_levels({"layer 1": _shares(2, 2 * depth), "rollout": _shares(1, 2 * depth)}, names, num_bars=1)
    assert _draws(figure, tmp_path / "levels.png")
