import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fake_source import FIRST_MS, HOUR, hours, market_bars
from flashtrader.errors import DataError
from flashtrader.market.book_ledger import BookLedger, Break, Run
from flashtrader.market.book_store import read_book_ledger
from flashtrader.market.funding_store import read_answered
from flashtrader.market.ledger import Failure, Gap, Ledger
from flashtrader.market.profile import Profile
from flashtrader.market.spans import Span, minus, union
from flashtrader.market.store import read_ledger

PART = "bars-20240131T1200Z.parquet"

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
        (hours(0, 9),), (Failure(hours(9, 12), "refused"),), (PART,), (PART,), True, 7, FIRST_MS, FIRST_MS, (gap,)
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


SPAN = {"start": "2020-09-13T15:00:00Z", "end": "2020-09-13T17:00:00Z"}
BARS = Ledger((hours(0, 9),), parts=(PART,)).to_json()
BOOKS = BookLedger((Run(0, 1, 2, Break("began", "so")),), ("books-20240131T120000000Z.parquet",)).to_json()
[RUN] = BOOKS["runs"]
ASIDE = "set it aside with `flashtrader fetch --check --repair`"
NONSENSE: list[tuple[object, str]] = [
    ([], "all of it: input should be a valid dictionary"),
    ({}, "examined: field required"),
    (BARS | {"examined": "yes"}, "examined: input should be a valid boolean"),
    (BARS | {"rows": 2**70}, "rows: input should be less than 9223372036854775808"),
    (BARS | {"rows": -1}, "rows: input should be greater than or equal to 0"),
    (BARS | {"rows": 1.5}, "rows: input should be a valid integer"),
    (BARS | {"first": 5}, "first: should be a time such as 2024-01-31T12:00:00Z"),
    (BARS | {"first": "NaT"}, "first: should be a time such as 2024-01-31T12:00:00Z"),
    (BARS | {"last": "2020-13-13T15:00:00Z"}, 'last: month out of range in datetime string "2020-13-13T15:00:00"'),
    (BARS | {"answered": [SPAN, None]}, "answered.1: input should be a valid dictionary"),
    (BARS | {"failed": [SPAN]}, "failed.0.error: field required"),
    (
        BARS | {"gaps": [SPAN | {"bars": 2, "reason": ["outage"], "evidence": ""}]},
        "gaps.0.reason: input should be 'no_trades', 'outage' or 'fetch_failed'",
    ),
    (BARS | {"parts": ["abc"]}, "parts.0: 'abc' is not the name of a part"),
    (BARS | {"parts": [PART, f"../../{PART}"]}, f"parts.1: '../../{PART}' is not the name of a part"),
    (
        BARS | {"changed": ["books-20240131T120000000Z.parquet"]},
        "changed.0: 'books-20240131T120000000Z.parquet' is not the name of a part",
    ),
    (BARS | {"parts": 3}, "parts: input should be a valid list"),
]
BOOK_NONSENSE: list[tuple[object, str]] = [
    ({"runs": 1}, "runs: input should be a valid list"),
    (BOOKS | {"parts": [PART]}, f"parts.0: '{PART}' is not the name of a part"),
    (BOOKS | {"runs": [RUN | {"first": "now"}]}, "runs.0.first: should be a time such as 2024-01-31T12:00:00Z"),
    (
        BOOKS | {"runs": [RUN | {"gap_before": []}]},
        "runs.0.gap_before: input should be 'began', 'disconnected', 'out_of_sequence', 'restarted', 'crossed', "
        "'one_sided', 'halted', 'joined' or 'unexplained'",
    ),
]


@pytest.mark.parametrize(("value", "problem"), NONSENSE)
def test_nonsense_in_a_ledger_is_named(tmp_path: Path, value: object, problem: str) -> None:
    path = tmp_path / "ledger.json"
    path.write_text(json.dumps(value))
    with pytest.raises(DataError) as refused:
        read_ledger(path)
    assert str(refused.value) == f"{path}: not a ledger ({problem}); {ASIDE}, which keeps the stored bars"


@pytest.mark.parametrize(("value", "problem"), BOOK_NONSENSE)
def test_nonsense_in_the_ledger_of_books_is_named(tmp_path: Path, value: object, problem: str) -> None:
    path = tmp_path / "ledger.json"
    path.write_text(json.dumps(value))
    with pytest.raises(DataError) as refused:
        read_book_ledger(path)
    assert str(refused.value) == (
        f"{path}: not a ledger ({problem}); {ASIDE}: it is made anew, without the reasons of gaps"
    )


def test_nonsense_in_the_ledger_of_funding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    path.write_text(json.dumps({"answered": [1]}))
    with pytest.raises(DataError) as refused:
        read_answered(path)
    assert str(refused.value) == (
        f"{path}: not a ledger (answered.0: input should be a valid dictionary); set it aside and fetch again with "
        "`flashtrader fetch --check --repair`"
    )


def test_what_is_no_json_is_no_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    path.write_text("{")
    with pytest.raises(DataError) as refused:
        read_ledger(path)
    assert str(refused.value) == (
        f"{path}: damaged, not readable as JSON (Expecting property name enclosed in double quotes: line 1 column 2 "
        f"(char 1)); {ASIDE}, which keeps the stored bars"
    )


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from([PART, *SPAN.values()]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*BARS, *SPAN, *RUN]), inner),
    max_leaves=5,
)


def changed(whole: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return the ledger with other values under some of its keys."""
    return st.dictionaries(st.sampled_from(list(whole)), values, max_size=3).map(lambda other: whole | other)


@given(changed(BARS))
def test_a_ledger_is_refused_or_means_what_it_says(value: dict[str, Any]) -> None:
    with suppress(ValidationError):
        ledger = Ledger.from_json(value)
        assert Ledger.from_json(ledger.to_json()) == ledger
        assert all("/" not in name for name in (*ledger.parts, *ledger.changed))


@given(changed(BOOKS))
def test_a_ledger_of_books_is_refused_or_means_what_it_says(value: dict[str, Any]) -> None:
    with suppress(ValidationError):
        ledger = BookLedger.from_json(value)
        assert BookLedger.from_json(ledger.to_json()) == ledger
        assert all("/" not in name for name in ledger.parts)
