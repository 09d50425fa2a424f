"""Honest runs pass every attack; a pipeline with a leak is caught; a harmless change is not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import subjects

import flashtrader.panel.loading
from flashtrader.panel.panel import Panel
from flashtrader.verification.checks import Attack, Check, Subject
from flashtrader.verification.leaks import fill_noise, future_noise, past_noise
from flashtrader.verification.mutants import MUTANTS, Mutant, mutants
from flashtrader.verification.open_bar import open_bar
from flashtrader.verification.training_leaks import training_noise, walk_forward_noise

ATTACKS: tuple[Attack, ...] = (future_noise, past_noise, fill_noise, training_noise, walk_forward_noise, open_bar)
KINDS = {
    "returns": subjects.RETURNS,
    "walk-forward": subjects.WALK_FORWARD,
    "candles": subjects.CANDLES,
    "weights": subjects.WEIGHTS,
    "book": subjects.BOOK,
}


@pytest.fixture(scope="session")
def subject_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Subject]:
    """A run of a kind, trained once."""
    return cache(lambda kind: subjects.trained_subject(tmp_path_factory.mktemp(kind), KINDS[kind]))


def carried_out(subject: Subject, *attacks: Attack) -> list[Check]:
    return [check for attack in attacks for check in attack(subject)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_honest_run_passes(kind: str, subject_of: Callable[[str], Subject]) -> None:
    checks = carried_out(subject_of(kind), *ATTACKS)
    assert not [(check.name, check.reason) for check in checks if check.failed]
    passed = {check.name for check in checks if check.outcome == "passed"}
    assert {"future noise: features", "future noise: forecasts"} <= passed
    assert all(check.reason for check in checks if check.outcome == "skipped")
    if kind != "book":
        assert {"future noise: weights", "future noise: trades", "open bar"} <= passed
        assert {"past noise: fills", "future noise: fills"} <= passed


def test_every_mutant_is_caught_by_a_run_that_can_have_it(subject_of: Callable[[str], Subject]) -> None:
    subject = subject_of("walk-forward")
    with unchanged(subject.run.path), unchanged(subject.data_dir):
        caught = {check.name for check in mutants(subject) if check.outcome == "passed"}
    for mutant in MUTANTS:
        if f"mutant: {mutant.name}" not in caught:
            subject = subject_of("candles")
            assert not mutant.missing(subject.experiment)
            with mutant.at_work():
                assert any(check.failed for check in mutant.attack(subject)), mutant.name


@pytest.mark.parametrize("kind", ["returns", "book"])
def test_a_model_that_sees_the_next_bar_is_caught_by_its_forecasts_alone(
    kind: str, subject_of: Callable[[str], Subject]
) -> None:
    (mutant,) = (mutant for mutant in MUTANTS if mutant.name == "answers that have seen the next bar")
    with mutant.at_work():
        checks = {check.name: check for check in mutant.attack(subject_of(kind))}
    assert not checks["future noise: features"].failed
    assert checks["future noise: forecasts"].failed


def test_folds_that_learn_from_no_bar_that_another_forecasts_can_leak_none(tmp_path: Path) -> None:
    short = {"split": {"walk_forward": {"train": 200, "validation": 250, "test": 200}}}
    subject = subjects.trained_subject(tmp_path, subjects.WALK_FORWARD | short)
    assert [check.outcome for check in walk_forward_noise(subject)] == ["skipped"]
    (check,) = (check for check in mutants(subject) if check.name == "mutant: bars forecast by a later fold")
    assert check.outcome == "skipped"
    assert "no fold learns" in check.reason


@pytest.mark.parametrize("family", ["persistence", "momentum"])
def test_folds_of_a_family_that_learns_nothing_can_leak_none(family: str, tmp_path: Path) -> None:
    subject = subjects.trained_subject(
        tmp_path, subjects.WALK_FORWARD | {"model": {"family": family, "context_bars": 8}}
    )
    assert [check.outcome for check in walk_forward_noise(subject)] == ["skipped"]


def test_a_mutant_that_no_attack_notices_fails_verify(
    subject_of: Callable[[str], Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    harmless = Mutant("none", past_noise, {"flashtrader.panel.loading:panel_of": lambda panel_of: panel_of})
    monkeypatch.setattr("flashtrader.verification.mutants.MUTANTS", (harmless,))
    (check,) = mutants(subject_of("returns"))
    assert check.failed
    assert "survived" in check.reason


def leaving(*checks: Check) -> Attack:
    def attack(_subject: Subject) -> Iterator[Check]:
        yield from checks

    return attack


HARMLESS = {"flashtrader.panel.loading:panel_of": lambda panel_of: panel_of}


@pytest.mark.parametrize("reason", ["it peeks, leak or no leak", "nothing changed: void"])
def test_a_check_that_fails_anyway_or_shows_nothing_catches_no_mutant(
    reason: str, subject_of: Callable[[str], Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = leaving(Check("look", "looked", "failed", reason))
    monkeypatch.setattr("flashtrader.verification.mutants.MUTANTS", (Mutant("none", attack, HARMLESS),))
    (check,) = mutants(subject_of("returns"))
    assert check.failed
    assert "survived" in check.reason


def test_a_mutant_whose_check_passes_without_it_but_is_void_with_it_survives(
    subject_of: Callable[[str], Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = iter([("passed", ""), ("failed", "they did not change: void")])

    def attack(_subject: Subject) -> Iterator[Check]:
        yield Check("look", "looked", *next(results))  # type: ignore[arg-type]

    monkeypatch.setattr("flashtrader.verification.mutants.MUTANTS", (Mutant("none", attack, HARMLESS),))
    (check,) = mutants(subject_of("returns"))
    assert "survived" in check.reason


def test_an_error_in_one_mutant_does_not_end_the_others(
    subject_of: Callable[[str], Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_subject: Subject) -> Iterator[Check]:
        raise ZeroDivisionError("by nothing")
        yield

    honest = leaving(Check("look", "looked", "passed"))
    both = (Mutant("broken", broken, HARMLESS), Mutant("none", honest, HARMLESS))
    monkeypatch.setattr("flashtrader.verification.mutants.MUTANTS", both)
    first, second = mutants(subject_of("returns"))
    assert first.failed
    assert "ZeroDivisionError: by nothing" in first.reason
    assert second.name == "mutant: none"


def test_a_harmless_change_is_not_flagged(subject_of: Callable[[str], Subject]) -> None:
    def older_and_larger(panel_of: Any) -> Callable[..., Panel]:
        def changed(*arguments: Any) -> Panel:
            panel = panel_of(*arguments)
            values = 3 * panel.values
            values[1:, :, 0] = panel.values[:-1, :, 0]
            return replace(panel, values=values)

        return changed

    change = Mutant("harmless", future_noise, {"flashtrader.panel.loading:panel_of": older_and_larger})
    with change.at_work():
        checks = carried_out(subject_of("candles"), future_noise, training_noise)
    assert not [(check.name, check.reason) for check in checks if check.failed]


def test_a_mutant_is_gone_after_its_attack() -> None:
    before = flashtrader.panel.loading.panel_of
    with MUTANTS[0].at_work():
        assert flashtrader.panel.loading.panel_of is not before
    assert flashtrader.panel.loading.panel_of is before


@contextmanager
def unchanged(directory: Path) -> Iterator[None]:
    """Hold that all files of a directory stay as they are."""

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}

    before = contents()
    assert before
    yield
    assert contents() == before


def test_an_attack_that_changes_nothing_is_void(
    subject_of: Callable[[str], Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("leaks", "training_leaks"):
        monkeypatch.setattr(
            f"flashtrader.verification.{module}.with_other_future", lambda tables, *_, **__: dict(tables)
        )
    checks = carried_out(subject_of("returns"), future_noise, training_noise)
    void = [check.name for check in checks if check.failed and "void" in check.reason]
    assert {"future noise: features", "future noise: forecasts", "future noise: training rows"} <= set(void)


def test_the_first_change_is_named() -> None:
    from flashtrader.verification.leaks import Trace

    hours = np.arange(5) * 3_600_000
    before = Trace(hours, (np.zeros((5, 2), np.float32),))
    values = np.zeros((5, 2), np.float32)
    values[3, 1] = -0.0
    after = Trace(hours, (values,))
    assert before.first_change(after, int(hours[2])) is None
    assert before.first_change(after, int(hours[3])) == "1970-01-01T03:00:00Z"
