from pathlib import Path

import pytest

import fuzz

INPUTS = 12


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> fuzz.Place:
    return fuzz.Place(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_a_dozen_spoiled_inputs_are_read_or_refused(place: fuzz.Place, target: str) -> None:
    ended = [fuzz.one_input(target, number, 7, place) for number in range(INPUTS)]
    assert [told for _, told in ended if told] == []
    assert {outcome for outcome, _ in ended} <= {"accepted", "refused"}


def test_a_crash_a_hang_and_a_broken_promise_are_told(
    place: fuzz.Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def crash(*_: object) -> None:
        raise KeyError("a key")

    def hang(*_: object) -> None:
        while True:
            pass

    monkeypatch.setattr(fuzz, "LIMIT_S", 0.05)
    for name, target, outcome in (
        ("crash", crash, "crash"),
        ("hang", hang, "hang"),
        ("promise", lambda *_: fuzz.promise(False, "a promise"), "crash"),
    ):
        monkeypatch.setitem(fuzz.TARGETS, name, target)
        assert fuzz.one_input(name, 0, 0, place)[0] == outcome
