"""What the tests of the sources share."""

import threading

import pytest

from flashtrader.market.http import RateLimiter


class FakeTime:
    """A clock that only sleeping moves, so that waits of minutes take no time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.slept.append(seconds)
            self.now += seconds


@pytest.fixture
def fake_time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def limiter(fake_time: FakeTime) -> RateLimiter:
    """A limiter that holds nobody up, whose pauses and backoffs pass at once."""
    return RateLimiter(1_000_000, 1.0, clock=fake_time, sleep=fake_time.sleep)
