import pytest

from command import Command


@pytest.fixture
def flashtrader(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capfd)
