import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_bars import HOUR_MS, hours_with_holes, small_panel

from flashtrader.errors import ConfigError
from flashtrader.panel.segments import Segments
from flashtrader.panel.splits import Rows

PANEL = small_panel(hours_with_holes(500, seed=3))


def test_segments_are_views() -> None:
    segments = Segments(PANEL, Rows(0, 400), 20, 5)
    assert segments.values.shape == (481, 20, 1, 1)
    for windows, whole in (
        (segments.values, PANEL.values),
        (segments.mask, PANEL.mask),
        (segments.targets, PANEL.targets),
    ):
        assert np.shares_memory(windows, whole)
        np.testing.assert_array_equal(windows[7], whole[7:27])


@settings(max_examples=60, deadline=None)
@given(start=st.integers(0, 200), size=st.integers(60, 300), bars=st.integers(2, 40), warmup=st.integers(0, 38))
def test_every_segment_that_has_a_label_and_no_outage_is_there(start: int, size: int, bars: int, warmup: int) -> None:
    warmup = min(warmup, bars - 1)
    rows = Rows(start, start + size)
    step = np.diff(PANEL.timestamps) // HOUR_MS
    expected = []
    for first in range(rows.stop - bars + 1):
        last = first + bars
        labels = PANEL.targets[max(first + warmup, rows.start) : last]
        if (step[first : last - 1] <= 4).all() and np.isfinite(labels).any():
            expected.append(first)
    if expected:
        np.testing.assert_array_equal(Segments(PANEL, rows, bars, warmup).starts, expected)
    else:
        with pytest.raises(ConfigError):
            Segments(PANEL, rows, bars, warmup)


def test_a_batch_holds_its_segments_and_labels_only_what_it_may() -> None:
    segments = Segments(PANEL, Rows(50, 400), 20, 5)
    starts = segments.starts[[0, 3, 3, len(segments) - 1]]
    assert starts[0] < 50
    batch = segments.batch(starts)
    for index, start in enumerate(starts):
        window = slice(start, start + 20)
        np.testing.assert_array_equal(batch.values[index], PANEL.values[window])
        np.testing.assert_array_equal(batch.mask[index], PANEL.mask[window])
        rows = np.arange(start, start + 20)
        labelled = (np.arange(20) >= 5) & (rows >= 50) & (rows < 400)
        np.testing.assert_array_equal(batch.targets[index], np.where(labelled[:, None], PANEL.targets[window], np.nan))
        assert np.isfinite(batch.targets[index]).any()
    assert all(array.flags.c_contiguous for array in batch)
    assert np.isfinite(
        PANEL.targets[starts[0] : starts[0] + 5]
    ).any()  # the batch's labels are its own, not the panel's


def test_training_segments_see_no_row_from_the_purged_end_on() -> None:
    segments = Segments(PANEL, Rows(0, 300), 20, 5)
    assert segments.starts[-1] + 20 <= 300


def test_a_segment_longer_than_every_run_says_how_long_they_are() -> None:
    panel = small_panel([*range(30), *range(100, 150)])
    for stop, longest in ((80, 50), (55, 30)):
        with pytest.raises(ConfigError) as refused:
            Segments(panel, Rows(0, stop), longest + 1, 5)
        assert str(refused.value) == (
            f"training.segment_bars: a segment has {longest + 1} bars, but the longest stretch without an outage has "
            f"{longest} up to the end of this part; lower it, raise panel.max_gap_bars, or fetch more bars"
        )


def test_a_warm_up_that_leaves_no_label_is_an_error() -> None:
    panel = small_panel(range(30), horizon_bars=12)
    with pytest.raises(ConfigError) as refused:
        Segments(panel, Rows(0, 30), 30, 20)
    assert str(refused.value) == (
        "training.warmup_bars: behind the 20 warm-up bars of a segment of 30 no bar has a known target; lower it, "
        "shorten panel.target.horizon_bars, or fetch more bars"
    )
