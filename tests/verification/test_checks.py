"""What attacks yield, with the time that each took; one that breaks off has not passed."""

from collections.abc import Iterator
from pathlib import Path

from flashtrader.errors import DataError
from flashtrader.run import Run
from flashtrader.verification.checks import Check, Subject, carry_out


def subject(scratch: Path) -> Subject:
    return Subject(Run(Path("none")), Path("none"), scratch)


def honest(_subject: Subject) -> Iterator[Check]:
    yield Check("first", "a look", "passed")
    yield Check("second", "another look", "skipped", "nothing to see")


def broken_off(_subject: Subject) -> Iterator[Check]:
    yield Check("before", "a look", "passed")
    raise DataError("no bars; fetch them")


def test_an_attack_that_breaks_off_fails_and_the_next_goes_on(tmp_path: Path) -> None:
    checks = list(carry_out([broken_off, honest], subject(tmp_path)))
    assert [(check.name, check.outcome) for check in checks] == [
        ("before", "passed"),
        ("broken off", "failed"),
        ("first", "passed"),
        ("second", "skipped"),
    ]
    assert checks[1].reason == "no bars; fetch them"
    assert all(check.seconds >= 0 for check in checks)
    assert any(check.seconds > 0 for check in checks)


def test_every_directory_is_new_and_empty(tmp_path: Path) -> None:
    made = [subject(tmp_path).directory(name) for name in ("data", "run", "data")]
    assert len(set(made)) == 3
    assert not any(list(path.iterdir()) for path in made)
