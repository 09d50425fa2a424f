"""Tasks spread over processes: what fails, what is killed, what is asked to stop."""

import os
import signal
import sys
import threading
import time
from functools import partial
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flashtrader.errors import ConfigError, TrainingError
from flashtrader.training.spread import Spread, spread
from flashtrader.training.stopping import stop_request

TWO = Spread(workers=2)


def note(path: Path, _watch: Any) -> None:
    path.write_text(f"{os.getpid()} {torch.get_num_threads()}")


def refuse(_watch: Any) -> None:
    raise TrainingError("bars are missing")


def crash(_watch: Any) -> None:
    raise ZeroDivisionError("by nought")


def die(_watch: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def until_asked(began: Path, ended: Path, _watch: Any) -> None:
    with stop_request() as request:
        began.touch()
        while request.reason is None:
            time.sleep(0.01)
        ended.write_text(request.reason)


def nothing() -> None:
    pass


def test_each_task_has_a_process_and_one_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    names = ("one", "two")
    tasks = {"refused": refuse, "crashed": crash, "killed": die} | {
        name: partial(note, tmp_path / name) for name in names
    }
    finish = spread(tasks, TWO, nothing)
    assert finish.stopped is None
    assert finish.failures == {
        "refused": "bars are missing",
        "crashed": "unexpected ZeroDivisionError: by nought; train it without --workers, with --debug, to see where",
        "killed": "its process was killed, for want of memory perhaps; use fewer --workers",
    }
    told = [(tmp_path / name).read_text().split() for name in names]
    assert len({told[0][0], told[1][0], str(os.getpid())}) == 3
    assert {threads for _, threads in told} == {str(TWO.threads)}


def test_ctrl_c_is_not_for_the_process_that_begins_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one of the terminal's, and loads for seconds, in which it would end with a traceback."""
    before, seen = signal.getsignal(signal.SIGINT), []
    monkeypatch.setattr(forkserver, "ensure_running", lambda: seen.append(signal.getsignal(signal.SIGINT)))
    spread({}, TWO, nothing)
    assert seen == [signal.SIG_IGN]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ConnectionRefusedError(111, "Connection refused"), "[Errno 111] Connection refused"), (EOFError(), "EOFError")],
)
def test_a_process_that_can_t_be_begun_is_told_of(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def refuse_to_start(_process: Any) -> None:
        raise error

    monkeypatch.setattr(ForkServerProcess, "start", refuse_to_start)
    finish = spread(dict.fromkeys("abc", crash), TWO, nothing)
    assert finish.failures == dict.fromkeys("abc", f"its process could not be begun ({reason}); use fewer --workers")


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_a_signal_lets_what_runs_end_in_order_and_begins_nothing_more(
    tmp_path: Path, number: signal.Signals, reason: str
) -> None:
    def ask() -> None:
        if not asked.is_set() and all((tmp_path / f"began-{name}").exists() for name in "ab"):
            asked.set()
            os.kill(os.getpid(), number)

    asked = threading.Event()
    tasks: dict[str, Any] = {name: partial(until_asked, tmp_path / f"began-{name}", tmp_path / name) for name in "ab"}
    finish = spread(tasks | {"third": partial(note, tmp_path / "third")}, TWO, ask)
    assert (finish.stopped, finish.failures) == (reason, {})
    assert [(tmp_path / name).read_text() for name in "ab"] == ["terminated"] * 2
    assert not (tmp_path / "third").exists()


def test_the_threads_are_divided_among_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert [Spread(workers=workers).threads for workers in (1, 2, 3, 16)] == [8, 4, 2, 1]


def test_an_engine_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError) as refused:
        spread({}, Spread("ray"), nothing)
    assert str(refused.value) == (
        "--engine ray: Ray is not installed; pip install 'flashtrader[cluster]', or leave --engine out"
    )


def test_a_cluster_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.\nPlease start one.")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    with pytest.raises(ConfigError) as refused:
        spread({}, Spread("ray"), nothing)
    assert str(refused.value) == (
        "--engine ray: no cluster (Could not find any running Ray instance.); set RAY_ADDRESS to one that runs"
    )
