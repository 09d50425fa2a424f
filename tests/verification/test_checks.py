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


def test_an_error_that_nobody_foresaw_is_a_failed_check_that_names_it(tmp_path: Path) -> None:
    def divides(_subject: Subject) -> Iterator[Check]:
        yield Check("before", "a look", "passed", figures={"part": 1 / len(list(tmp_path.iterdir()))})

    checks = list(carry_out([divides, honest], subject(tmp_path)))
    assert [check.outcome for check in checks] == ["failed", "passed", "skipped"]
    assert checks[0].reason.startswith("ZeroDivisionError: ")


def test_every_directory_is_new_and_empty(tmp_path: Path) -> None:
    made = [subject(tmp_path).directory(name) for name in ("data", "run", "data")]
    assert len(set(made)) == 3
    assert not any(list(path.iterdir()) for path in made)
