"""How a training stops: by itself, asked to by a signal, or because it can't go on."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

FINISHED = ("completed", "early")
"""How a training stops that went as far as it was to go."""
STOPPED_BY: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
"""How one stops that was asked to, and can go on later; SIGTERM is a cluster's warning."""


class Terminated(KeyboardInterrupt):
    """SIGTERM outside of the steps."""


@dataclass
class StopRequest:
    """What a signal asked for."""

    reason: str | None = None
    """One of STOPPED_BY."""


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Yield what the first SIGINT or SIGTERM asks for, so that a step is never cut in two; a second one kills."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(number: int, _frame: FrameType | None) -> None:
        request.reason = STOPPED_BY[number]
        signal.signal(number, previous[number])

    previous = {number: signal.getsignal(number) for number in STOPPED_BY}
    for number in previous:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM raise Terminated, as SIGINT raises KeyboardInterrupt; in the main thread."""

    def terminate(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
