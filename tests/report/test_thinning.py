"""Thinned series keep what a reader would miss."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashtrader.report.thinning import bucket_means, bucket_starts, thin


@given(st.integers(1, 3_000), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_thinned_rows_keep_ends_and_extremes_in_order(num_rows, num_buckets, seed):
    values = np.random.default_rng(seed).normal(size=num_rows)
    rows = thin(values, num_buckets)
    assert (np.diff(rows) > 0).all()
    assert rows[0] == 0
    assert rows[-1] == num_rows - 1
    assert values[rows].min() == values.min()
    assert values[rows].max() == values.max()
    assert len(rows) <= 4 * num_buckets


def test_a_crash_of_one_bar_in_a_million_is_drawn():
    values = np.ones(1_000_000)
    values[777_777] = 0.5
    rows = thin(values)
    assert 777_777 in rows
    assert len(rows) <= 6_000


def test_every_stretch_keeps_its_own_extremes():
    values = np.random.default_rng(0).normal(size=10_007)
    rows = thin(values, 100)
    starts = bucket_starts(len(values), 100)
    for start, end in zip(starts, [*starts[1:], 10_007], strict=True):
        drawn, everything = values[rows[(rows >= start) & (rows < end)]], values[start:end]
        assert (drawn.min(), drawn.max()) == (everything.min(), everything.max())


def test_unknown_values_are_no_extremes():
    values = np.full(10_000, np.nan)
    values[[4_321, 8_765]] = -1, 1
    assert {4_321, 8_765} <= set(thin(values, 10).tolist())


@pytest.mark.parametrize(("num_rows", "num_buckets"), [(1, 5), (7, 3), (1_000_000, 600)])
def test_stretches_are_of_nearly_equal_length_and_average_to_the_whole(num_rows, num_buckets):
    starts = bucket_starts(num_rows, num_buckets)
    lengths = np.diff(np.append(starts, num_rows))
    assert len(starts) == min(num_rows, num_buckets)
    assert lengths.max() - lengths.min() <= 1
    values = np.random.default_rng(1).normal(size=num_rows)
    means = bucket_means(values, starts)
    assert (means * lengths).sum() == pytest.approx(values.sum())
    assert means[0] == pytest.approx(values[: lengths[0]].mean())
