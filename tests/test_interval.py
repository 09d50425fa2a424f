from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashtrader.errors import ConfigError
from flashtrader.interval import Interval, IntervalCode

CODES = get_args(IntervalCode)
moments = st.integers(0, 4_000_000_000_000)


def ms(text: str) -> int:
    return int(np.datetime64(text, "ms").astype(np.int64))


@given(st.sampled_from(CODES), moments)
def test_every_moment_lies_in_its_bar(code: str, moment: int) -> None:
    interval = Interval.parse(code)
    opening = interval.floor(moment)
    closing = int(interval.close(np.array([opening]))[0])
    assert opening <= moment < closing
    assert interval.floor(opening) == opening
    assert interval.floor(closing) == closing


@pytest.mark.parametrize(
    ("code", "moment", "opening"),
    [
        ("1", "2024-02-29T12:34:56", "2024-02-29T12:34"),
        ("240", "2024-02-29T15:59", "2024-02-29T12:00"),
        ("D", "2024-02-29T12:34", "2024-02-29"),
        ("W", "2024-02-29T12:34", "2024-02-26"),
        ("M", "2024-02-29T12:34", "2024-02-01"),
    ],
)
def test_bars_open_where_the_exchange_opens_them(code: str, moment: str, opening: str) -> None:
    assert Interval.parse(code).floor(ms(moment)) == ms(opening)


def test_an_hourly_year_around_the_clock_has_8760_bars() -> None:
    assert Interval("60").bars_per_year() == 8_760
    assert Interval("D").bars_per_year() == 365
    assert Interval("1").bars_per_year() == 525_600
    assert Interval("M").bars_per_year() == 12
    assert Interval("D").bars_per_year("us-equities") == 252
    assert Interval("60").bars_per_year("us-equities") == 252 * 6.5


def test_an_unknown_interval_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError) as refused:
        Interval.parse("7")
    assert str(refused.value) == (
        "unknown interval '7': choose one of 1, 3, 5, 15, 30, 60, 120, 240, 360, 720, D, W, M"
    )


@pytest.mark.parametrize(
    ("code", "longer"),
    [("1", {*CODES}), ("15", {*CODES} - {"1", "3", "5"}), ("D", {"D", "W", "M"}), ("W", {"W"}), ("M", {"M"})],
)
def test_longer_bars_consist_of_whole_shorter_ones(code: str, longer: set[str]) -> None:
    assert {other for other in CODES if Interval.parse(code).divides(Interval.parse(other))} == longer
