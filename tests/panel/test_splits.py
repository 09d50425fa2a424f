import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_bars import HOUR_MS, MONDAY_MS, small_panel

from flashtrader.config import BacktestConfig, DataConfig, Experiment, PanelConfig, SplitConfig
from flashtrader.errors import ConfigError
from flashtrader.manifest import Boundaries
from flashtrader.panel.splits import Rows, Split, split_at, split_by_time, split_into_folds


def recorded(split: Split) -> Boundaries:
    """Return what a manifest tells of a split."""
    return Boundaries.model_validate(json.loads(json.dumps(split.describe())))


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
    assert split_at(panel, recorded(split)) == split


@pytest.mark.parametrize(
    ("target", "fill", "reach"),
    [
        ({"kind": "log_return", "horizon_bars": 24}, "next_open", 25),
        ({"kind": "log_return", "horizon_bars": 24}, "close", 24),
        ({"kind": "fill_return"}, "next_open", 2),
    ],
)
def test_a_decision_reaches_as_far_as_its_label_or_its_position(target: object, fill: str, reach: int) -> None:
    """Filled at the open of bar 1 and held for 24, a position ends at the open of bar 25."""
    weights = {"family": "portfolio"}, {"loss": "sharpe"}, {"kind": "weights"}
    learned = dict(zip(("model", "training", "policy"), weights, strict=True)) if reach == 2 else {}
    experiment = Experiment(
        data=DataConfig(symbols=("A",)), panel=PanelConfig(target=target), backtest=BacktestConfig(fill=fill), **learned
    )
    assert experiment.reach_bars == reach


def test_training_may_begin_later_than_the_history() -> None:
    config = SplitConfig(train="2024-01-01T10:00", validation="2024-01-02", test="2024-01-03T12:00")
    panel = small_panel(range(72), 2)
    split = split_by_time(panel, config, 2)
    assert (split.train, split.validation, split.test) == (Rows(10, 22), Rows(24, 58), Rows(60, 72))
    assert split_at(panel, recorded(split)) == split
    with pytest.raises(ConfigError) as refused:
        split_by_time(panel, SplitConfig(train="2024-01-01T22:00", validation="2024-01-02", test="2024-01-03"), 2)
    assert str(refused.value) == (
        "split.validation: the training part would hold 2 of the 72 bars, but what comes of a decision stays inside it "
        "only with more than 2 (the target and the entry reach 2 bars ahead, split.embargo_bars is 0); move the "
        "boundary or fetch more bars"
    )


def walk(**walk_forward: object) -> SplitConfig:
    embargo_bars = walk_forward.pop("embargo_bars", 0)
    return SplitConfig(walk_forward=walk_forward, embargo_bars=embargo_bars)


def rows_of(folds: list[Split]) -> list[tuple[tuple[int, int], ...]]:
    return [tuple((rows.start, rows.stop) for rows in (fold.train, fold.validation, fold.test)) for fold in folds]


def test_folds_by_hand() -> None:
    """Of 20 bars and a reach of 1: tests of 4 bars from bar 9 on, the third one cut short by the end at bar 20."""
    panel, parts = small_panel(range(20), 1), {"train": 6, "validation": 3, "test": 4}
    assert rows_of(split_into_folds(panel, walk(**parts), 1)) == [
        ((0, 5), (6, 8), (9, 13)),
        ((0, 9), (10, 12), (13, 17)),
        ((0, 13), (14, 16), (17, 20)),
    ]
    assert rows_of(split_into_folds(panel, walk(**parts, mode="rolling", embargo_bars=1), 1)) == [
        ((0, 4), (6, 7), (9, 13)),
        ((4, 8), (10, 11), (13, 17)),
        ((8, 12), (14, 15), (17, 20)),
    ]


def test_the_last_fold_has_an_outcome_and_runs_to_the_end() -> None:
    parts = {"train": 6, "validation": 3, "test": 4}
    for num_rows, last in ((17, (13, 17)), (18, (13, 18)), (19, (17, 19))):
        folds = split_into_folds(small_panel(range(num_rows), 1), walk(**parts), 1)
        assert (folds[-1].test.start, folds[-1].test.stop) == last


@settings(max_examples=80, deadline=None)
@given(
    num_rows=st.integers(60, 120),
    train=st.integers(12, 20),
    validation=st.integers(12, 20),
    test=st.integers(1, 20),
    shorter=st.integers(0, 19),
    mode=st.sampled_from(["expanding", "rolling"]),
    reach=st.integers(1, 8),
    embargo=st.integers(0, 3),
)
def test_folds_cover_the_future_and_never_learn_from_it(
    num_rows: int, train: int, validation: int, test: int, shorter: int, mode: str, reach: int, embargo: int
) -> None:
    step = max(1, test - shorter)
    config = walk(train=train, validation=validation, test=test, step=step, mode=mode, embargo_bars=embargo)
    panel = small_panel(range(num_rows), reach)
    folds = split_into_folds(panel, config, reach)

    # Each bar from the first test on is in the test part of the newest fold that has begun: no hole, and no overlap.
    starts = [fold.test.start for fold in folds]
    assert starts == list(range(train + validation, train + validation + step * len(folds), step))
    assert all(fold.test.stop >= begins for fold, begins in zip(folds, [*starts[1:], num_rows], strict=True))
    assert all(fold.test.stop == min(fold.test.start + test, num_rows) for fold in folds[:-1])
    assert folds[-1].test.stop == num_rows
    assert starts[-1] + reach < num_rows <= starts[-1] + step + reach

    for fold in folds:
        validation_start, test_start = fold.test.start - validation, fold.test.start
        assert fold.validation.start == validation_start
        assert fold.train.start == (test_start - validation - train if mode == "rolling" else 0)
        # The outcome of the last label lies before the next part, with the embargo between.
        assert fold.train.stop - 1 + reach == validation_start - 1 - embargo
        assert fold.validation.stop - 1 + reach == test_start - 1 - embargo

    whole = split_by_time(panel, config, reach)
    assert (whole.train, whole.validation) == (folds[0].train, folds[0].validation)
    assert whole.test == Rows(starts[0], num_rows)
    assert split_at(panel, recorded(whole)) == whole


def test_a_fold_is_the_split_of_its_own_dates() -> None:
    """Which is how each is trained: on bars that end where its test does."""
    folds = split_into_folds(small_panel(range(60), 2), walk(train=20, validation=8, test=9, mode="rolling"), 2)
    assert len(folds) == 4
    for fold in folds:
        train, validation, test = (
            f"2024-01-{1 + row // 24:02}T{row % 24:02}:00"
            for row in (fold.train.start, fold.validation.start, fold.test.start)
        )
        alone = small_panel(range(fold.test.stop), 2)
        assert split_by_time(alone, SplitConfig(train=train, validation=validation, test=test), 2) == fold


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            (30, 10, 5),
            "split.walk_forward: one fold takes 43 bars (train 30, validation 10, and 3 until the first outcome of the "
            "test), and there are 42; shorten the parts or fetch more bars",
        ),
        (
            (2, 10, 5),
            "split.walk_forward.train: what comes of a decision stays inside 2 bars only with more than 2 (the target "
            "and the entry reach 2 bars ahead, split.embargo_bars is 0); raise it",
        ),
        (
            (30, 2, 5),
            "split.walk_forward.validation: what comes of a decision stays inside 2 bars only with more than 2 (the "
            "target and the entry reach 2 bars ahead, split.embargo_bars is 0); raise it",
        ),
    ],
)
def test_a_history_or_a_part_too_short_for_a_fold(parts: tuple[int, int, int], message: str) -> None:
    train, validation, test = parts
    config = walk(train=train, validation=validation, test=test)
    with pytest.raises(ConfigError) as refused:
        split_into_folds(small_panel(range(42), 2), config, 2)
    assert str(refused.value) == message


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
    longer = split_at(small_panel(range(10, 150), 2), split.boundaries)
    assert (longer.train, longer.validation, longer.test) == (Rows(0, 48), Rows(50, 68), Rows(70, 140))
    later = split_at(small_panel(range(90, 110), 2), split.boundaries)
    assert [len(rows) for rows in (later.train, later.validation, later.test)] == [0, 0, 20]


@pytest.mark.parametrize(
    ("num_rows", "config", "part", "needed"),
    [
        (20, {"validation": 0.3, "test": 0.1}, "test: the test part would hold 2", 2),
        (20, {"validation": 0.1, "test": 0.3}, "validation: the validation part would hold 2", 2),
        (20, {"validation": 0.5, "test": 0.45}, "validation: the training part would hold 1", 2),
        (20, {"validation": 0.3, "test": 0.3, "embargo_bars": 4}, "validation: the validation part would hold 6", 6),
        (20, {"validation": "2020-01-01", "test": "2024-01-01T12:00"}, "validation: the training part would hold 0", 2),
        (20, {"validation": "2024-01-01T08:00", "test": "2025-01-01"}, "test: the test part would hold 0", 2),
        (20, {"validation": "2025-01-01", "test": "2026-01-01"}, "validation: the validation part would hold 0", 2),
        (1, {}, "validation: the training part would hold 1", 2),
    ],
)
def test_a_part_too_short_for_a_target(num_rows: int, config: dict[str, object], part: str, needed: int) -> None:
    split = SplitConfig(**config)
    with pytest.raises(ConfigError) as refused:
        split_by_time(small_panel(range(num_rows), 2), split, 2)
    assert str(refused.value) == (
        f"split.{part} of the {num_rows} bars, but what comes of a decision stays inside it only with more than "
        f"{needed} (the target and the entry reach 2 bars ahead, split.embargo_bars is {split.embargo_bars}); move the "
        "boundary or fetch more bars"
    )


def test_rows_count() -> None:
    assert len(Rows(3, 10)) == len(np.arange(10)[3:10])
