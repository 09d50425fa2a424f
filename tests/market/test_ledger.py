import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_source import FIRST_MS, HOUR, hours, market_bars
from flashtrader.market.ledger import Failure, Gap, Ledger
from flashtrader.market.profile import Profile
from flashtrader.market.spans import Span, minus, union

events = st.lists(
    st.tuples(st.booleans(), st.integers(0, 20), st.integers(1, 10)).map(lambda e: (e[0], hours(e[1], e[1] + e[2]))),
    max_size=8,
)


@given(events)
def test_no_time_is_both_answered_and_failed(told: list[tuple[bool, Span]]) -> None:
    ledger = Ledger()
    for answered, span in told:
        ledger = ledger.with_answer(span) if answered else ledger.with_failure(span, "timed out")
    failed = [failure.span for failure in ledger.failed]
    assert ledger.answered == union(span for answered, span in told if answered)
    assert union(failed) == minus([span for _, span in told], ledger.answered)
    assert not any(one & other for i, one in enumerate(failed) for other in failed[:i])


def test_the_last_error_counts() -> None:
    ledger = Ledger().with_failure(hours(0, 10), "timed out").with_failure(hours(5, 6), "refused")
    assert {failure.span: failure.error for failure in ledger.failed} == {
        hours(0, 5): "timed out",
        hours(5, 6): "refused",
        hours(6, 10): "timed out",
    }


def test_news_make_the_examination_stale() -> None:
    bars = market_bars(5).drop(index=2)
    ledger = Ledger().with_answer(hours(0, 5)).examine(Profile.of(bars, HOUR), HOUR, "bybit", {})
    assert (ledger.rows, ledger.first_ms, ledger.last_ms) == (4, FIRST_MS, hours(4, 5).start_ms)
    assert [gap.span for gap in ledger.gaps] == [hours(2, 3)]
    for stale in (
        ledger.with_answer(hours(7, 8)),
        ledger.with_failure(hours(7, 8), "refused"),
        ledger.without([hours(0, 1)]),
    ):
        assert (stale.examined, stale.rows, stale.gaps) == (False, 0, ())


def test_json_keeps_everything() -> None:
    gap = Gap(hours(2, 4).start_ms, hours(2, 4).end_ms, 2, "outage", "because")
    ledger = Ledger(
        (hours(0, 9),), (Failure(hours(9, 12), "refused"),), ("x",), ("x",), True, 7, FIRST_MS, FIRST_MS, (gap,)
    )
    told = json.loads(json.dumps(ledger.to_json()))
    assert Ledger.from_json(told) == ledger
    assert told["gaps"] == [
        {
            "start": "2020-09-13T15:00:00Z",
            "end": "2020-09-13T17:00:00Z",
            "bars": 2,
            "reason": "outage",
            "evidence": "because",
        }
    ]
    assert Ledger.from_json(Ledger().to_json()) == Ledger()
    assert Ledger.from_json(replace(ledger, gaps=()).to_json()) != ledger


@pytest.mark.parametrize("nonsense", [None, [], {}, {"answered": [{"start": "soon"}]}])
def test_nonsense_is_refused(nonsense: object) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Ledger.from_json(nonsense)
