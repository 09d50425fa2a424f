from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from flashtrader.market.spans import Span, iso_time, minus, union

spans = st.lists(st.builds(Span, st.integers(0, 30), st.integers(0, 30)), max_size=6)


def times(several: Iterable[Span]) -> set[int]:
    return {time for span in several for time in range(span.start_ms, span.end_ms)}


def assert_fewest(result: tuple[Span, ...]) -> None:
    assert all(result)
    assert all(left.end_ms < right.start_ms for left, right in pairwise(result))


@given(spans)
def test_union_holds_the_same_times(several: list[Span]) -> None:
    assert times(union(several)) == times(several)
    assert_fewest(union(several))


@given(spans, spans)
def test_minus_is_the_difference_of_sets(wanted: list[Span], taken: list[Span]) -> None:
    assert times(minus(wanted, taken)) == times(wanted) - times(taken)
    assert_fewest(minus(wanted, taken))


@given(spans, spans)
def test_what_is_left_and_what_was_taken_make_the_whole(wanted: list[Span], taken: list[Span]) -> None:
    assert union([*minus(wanted, taken), *wanted, *taken]) == union([*wanted, *taken])


def test_any_time_has_a_text() -> None:
    assert iso_time(1_600_000_000_000) == "2020-09-13T12:26:40Z"
    assert iso_time(-(2**63) + 1)
