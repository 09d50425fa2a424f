"""Every picture draws every kind of result, and shows what it should."""

import hashlib
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from flashtrader.report.plots import WIDTH_INCHES, plot_loss_curves, time_axis, write_png

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("num_days", [1, 3, 6, 12, 20, 28, 40, 55, 90, 400])
def test_times_on_the_axis_keep_apart_where_a_month_ends(num_days):
    opened = np.datetime64("2024-02-26", "h") + np.arange(num_days * 24)
    axes = Figure(figsize=(WIDTH_INCHES, 3)).subplots()
    time_axis(axes, opened.astype("datetime64[ms]").astype(np.int64))
    axes.figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
    assert len(boxes) >= 2
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


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
        figure = plot_loss_curves(LOSSES["steps and evaluations"])
        return hashlib.sha256(write_png(figure, tmp_path / "loss.png")).hexdigest()

    first = digest()
    with mpl.rc_context({"font.size": 30, "axes.grid": False, "timezone": "Asia/Tokyo"}):
        assert digest() == first
