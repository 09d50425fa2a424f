import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_bars import HOUR_MS, MONDAY_MS, small_panel

from flashtrader.config import SplitConfig
from flashtrader.errors import ConfigError, DataError
from flashtrader.panel.splits import Rows, split_at, split_by_time


def test_ten_bars_by_hand() -> None:
    """Rows 0–5, 6–7 and 8–9. A target of one bar from row 5 ends in row 6, from row 7 in row 8: both are purged."""
    split = split_by_time(small_panel(range(10), 1), SplitConfig(validation=0.2, test=0.2), 1)
    assert (split.train, split.validation, split.test) == (Rows(0, 5), Rows(6, 7), Rows(8, 10))
    assert split.boundaries.validation_start_ms == MONDAY_MS + 6 * HOUR_MS
    assert split.boundaries.test_start_ms == MONDAY_MS + 8 * HOUR_MS
    assert split.boundaries.end_ms == MONDAY_MS + 10 * HOUR_MS


def test_the_embargo_widens_the_purge() -> None:
    config = SplitConfig(validation=0.3, test=0.3, embargo_bars=1)
    split = split_by_time(small_panel(range(10), 1), config, 1)
    assert (split.train, split.validation, split.test) == (Rows(0, 2), Rows(4, 5), Rows(7, 10))


@settings(max_examples=50, deadline=None)
@given(
    num_rows=st.integers(60, 120),
    validation=st.floats(0.2, 0.4),
    test=st.floats(0.2, 0.4),
    horizon=st.integers(1, 8),
    embargo=st.integers(0, 3),
)
def test_no_target_reaches_into_the_next_part(
    num_rows: int, validation: float, test: float, horizon: int, embargo: int
) -> None:
    panel = small_panel(range(num_rows), horizon)
    config = SplitConfig(validation=validation, test=test, embargo_bars=embargo)
    split = split_by_time(panel, config, horizon)
    assert split.train.start == 0
    assert split.train.stop - 1 + horizon + embargo == split.validation.start - 1
    assert split.validation.stop - 1 + horizon + embargo == split.test.start - 1
    assert split.test.stop == num_rows
    assert abs(len(split.test) - test * num_rows) <= 0.5
    assert split_at(panel, json.loads(json.dumps(split.describe()))) == split


def test_dates_are_boundaries() -> None:
    config = SplitConfig(validation="2024-01-02", test="2024-01-03T12:00")
    split = split_by_time(small_panel(range(72), 2), config, 2)
    assert (split.train, split.validation, split.test) == (Rows(0, 22), Rows(24, 58), Rows(60, 72))


def test_dates_within_a_hole_begin_with_the_next_bar() -> None:
    config = SplitConfig(validation="2024-01-02", test="2024-01-03T12:00")
    split = split_by_time(small_panel([*range(20), *range(30, 72)], 2), config, 2)
    assert (split.train, split.validation, split.test) == (Rows(0, 18), Rows(20, 48), Rows(50, 62))


def test_the_boundaries_divide_other_data_by_time() -> None:
    split = split_by_time(small_panel(range(100), 2), SplitConfig(validation=0.2, test=0.2), 2)
    longer = split_at(small_panel(range(10, 150), 2), split.describe())
    assert (longer.train, longer.validation, longer.test) == (Rows(0, 48), Rows(50, 68), Rows(70, 140))
    later = split_at(small_panel(range(90, 110), 2), split.describe())
    assert [len(rows) for rows in (later.train, later.validation, later.test)] == [0, 0, 20]


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"validation": 0.3, "test": 0.1}, "split.test: the test part would hold 2 of the 20 bars"),
        ({"validation": 0.1, "test": 0.3}, "split.validation: the validation part would hold 2 of the 20 bars"),
        ({"validation": 0.5, "test": 0.45}, "split.validation: the training part would hold 1 of the 20 bars"),
        ({"validation": 0.3, "test": 0.3, "embargo_bars": 4}, "split.embargo_bars 4"),
        ({"validation": "2020-01-01", "test": "2024-01-01T12:00"}, "the training part would hold 0"),
        ({"validation": "2024-01-01T08:00", "test": "2025-01-01"}, "the test part would hold 0"),
        ({"validation": "2025-01-01", "test": "2026-01-01"}, "the validation part would hold 0"),
    ],
)
def test_a_part_too_short_for_a_target(config: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=r"^split\..* move the boundary or fetch more bars") as error:
        split_by_time(small_panel(range(20), 2), SplitConfig(**config), 2)
    assert key in str(error.value)


def test_one_bar_is_too_few() -> None:
    with pytest.raises(ConfigError, match="would hold 1 of the 1 bars"):
        split_by_time(small_panel(range(1), 2), SplitConfig(), 2)


def test_a_damaged_record_is_an_error() -> None:
    recorded = split_by_time(small_panel(range(100), 2), SplitConfig(), 2).describe()
    for broken in ({**recorded, "test_start_ms": "soon"}, {k: recorded[k] for k in recorded if k != "test_start_ms"}):
        with pytest.raises(DataError, match=r"split\.test_start_ms is missing or no whole number"):
            split_at(small_panel(range(100), 2), broken)
    for missing in (None, 3, []):
        with pytest.raises(DataError, match=r"manifest\.json: split is missing"):
            split_at(small_panel(range(100), 2), missing)


def test_rows_count() -> None:
    assert len(Rows(3, 10)) == len(np.arange(10)[3:10])
