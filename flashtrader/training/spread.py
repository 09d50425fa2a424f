"""Trainings that don't need each other, spread over the processes of a machine or over a Ray cluster.

Each has a process of its own: one that runs out of memory takes no other with it. They report through the files of
their runs, which every machine sees, and answer only with what went wrong.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any, Literal, Protocol

import torch

from flashtrader.errors import ConfigError, FlashtraderError, first_line
from flashtrader.training.stopping import stop_request, terminable
from flashtrader.training.tracking import Metrics

Task = Callable[[Callable[[Metrics], None]], object]
"""What is done elsewhere; it takes what is to be called after every step. Pickled on the way."""

_LOOK_SECONDS = 0.5
_RETRIES = 3  # of a task whose machine was lost: each goes on from its last checkpoint


@dataclass(frozen=True)
class Spread:
    """How trainings are spread."""

    engine: Literal["processes", "ray"] = "processes"
    workers: int = 2
    """Trainings at a time."""

    @property
    def threads(self) -> int:
        """Threads of each: this process's own, divided among those of its machine. Other numbers round otherwise."""
        return max(1, torch.get_num_threads() // self.workers) if self.engine == "processes" else 1


@dataclass(frozen=True)
class Finish:
    """How a spreading ended."""

    failures: Mapping[str, str]
    """Why each task that failed did, by its name."""
    stopped: str | None
    """By what signal all of it was asked to stop, if it was: interrupted or terminated."""

    @property
    def outcome(self) -> str:
        """How trainings that ended so stopped, all together; after a failure what is left can be gone on with."""
        return self.stopped or ("interrupted" if self.failures else "completed")

    @property
    def told(self) -> str:
        """What failed, and why, in words."""
        return "not trained: " + "; ".join(f"{name}: {why}" for name, why in self.failures.items())


class _Engine(Protocol):
    def run(self, task: Task) -> str | None:
        """Do a task elsewhere; return why it failed, if it did. Called in a thread for each worker."""

    def stop(self) -> None:
        """Ask what runs to save and end, and begin nothing more."""

    def kill(self) -> None:
        """End what runs."""


def spread(tasks: Mapping[str, Task], over: Spread, look: Callable[[], None]) -> Finish:
    """Do named tasks, so many at a time, until all are done or a signal asks to stop; `look` is called all along.

    One that fails leaves the others alone. The first SIGINT or SIGTERM has those that run save and end, a second one
    kills them. Raises ConfigError where the engine is not there.
    """
    engine: _Engine = _Ray(over) if over.engine == "ray" else _Processes(over)
    failures: dict[str, str] = {}
    with ThreadPoolExecutor(over.workers) as threads, stop_request() as request:
        waiting: dict[Future[str | None], str] = {
            threads.submit(engine.run, task): name for name, task in tasks.items()
        }
        asked = False
        try:
            while waiting:
                done, _ = wait(waiting, _LOOK_SECONDS, FIRST_COMPLETED)
                for future in done:
                    name = waiting.pop(future)
                    if (why := future.result()) is not None:
                        failures[name] = why
                look()
                if request.reason and not asked:
                    asked = True
                    engine.stop()
        except BaseException:
            engine.kill()
            raise
    return Finish(failures, request.reason)


def _attempt(task: Task, watch: Callable[[Metrics], None], threads: int, directory: Path) -> str | None:
    """Do a task in a process of its own, where paths begin at a directory; return why it failed, on one line."""
    torch.set_num_threads(threads)
    os.chdir(directory)
    try:
        with terminable():
            task(watch)
    except FlashtraderError as error:
        return str(error)
    except KeyboardInterrupt:
        return None
    except Exception as error:  # of a process that nobody watches: told where somebody does
        return f"unexpected {type(error).__name__}: {error}; train it without --workers, with --debug, to see where"
    return None


class _Processes:
    """A process for each task on this machine."""

    def __init__(self, over: Spread) -> None:
        # Forked from a process that has loaded everything and begun nothing: neither threads nor a GPU's context.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["flashtrader.training.loop"])
        heeded = signal.signal(signal.SIGINT, signal.SIG_IGN)  # by that process, too, from its first moment on
        forkserver.ensure_running()
        signal.signal(signal.SIGINT, heeded)
        self._threads = over.threads
        self._places: SimpleQueue[int] = SimpleQueue()
        for place in range(over.workers):
            self._places.put(place)
        self._running: set[BaseProcess] = set()
        self._stopping = False
        self._lock = Lock()

    def run(self, task: Task) -> str | None:
        place = self._places.get()
        answer, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_in_process, args=(task, sender, self._threads, Path.cwd(), place))
        with self._lock:
            if self._stopping:
                return None
            try:
                process.start()
            except (OSError, EOFError) as error:
                self._places.put(place)
                return f"its process could not be begun ({first_line(error)}); use fewer --workers"
            self._running.add(process)
        sender.close()  # so that the process's end is the end of what it says
        try:
            why: str | None = answer.recv()
        except EOFError:
            why = None if self._stopping else "its process was killed, for want of memory perhaps; use fewer --workers"
        process.join()
        with self._lock:
            self._running.remove(process)
        self._places.put(place)
        return why

    def stop(self) -> None:
        with self._lock:
            self._stopping = True
            for process in self._running:
                process.terminate()

    def kill(self) -> None:
        with self._lock:
            self._stopping = True
            for process in self._running:
                process.kill()


def _in_process(task: Task, answer: Connection, threads: int, directory: Path, place: int) -> None:
    # Ctrl-C reaches all processes of a terminal; the first one passes it on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if torch.cuda.is_available():
        torch.cuda.set_device(place % torch.cuda.device_count())
    answer.send(_attempt(task, _end_with_parent, threads, directory))


def _end_with_parent(_metrics: Metrics) -> None:
    """End this process where the one that began it is gone, and may have been begun again."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(1)


class _Ray:
    """A task of a Ray cluster for each; RAY_ADDRESS says which, without it Ray begins one on this machine."""

    def __init__(self, over: Spread) -> None:
        try:
            import ray
        except ImportError:
            raise ConfigError(
                "--engine ray: Ray is not installed; pip install 'flashtrader[cluster]', or leave --engine out"
            ) from None
        self._ray: Any = ray
        try:
            ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError) as error:
            reason = first_line(error)
            raise ConfigError(f"--engine ray: no cluster ({reason}); set RAY_ADDRESS to one that runs") from None
        gpus = min(1, int(ray.cluster_resources().get("GPU", 0)))
        self._attempt = ray.remote(num_cpus=over.threads, num_gpus=gpus, max_retries=_RETRIES)(_on_cluster)
        self._threads = over.threads
        self._running: set[Any] = set()
        self._stopping = False
        self._lock = Lock()

    def run(self, task: Task) -> str | None:
        with self._lock:
            if self._stopping:
                return None
            reference = self._attempt.remote(task, self._threads, Path.cwd())
            self._running.add(reference)
        try:
            why: str | None = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            why = None if self._stopping else f"lost by Ray: {first_line(error)}"
        with self._lock:
            self._running.remove(reference)
        return why

    def stop(self) -> None:
        with self._lock:
            self._stopping = True
            for reference in self._running:
                self._ray.cancel(reference)

    def kill(self) -> None:
        self._stopping = True
        self._ray.shutdown()


def _on_cluster(task: Task, threads: int, directory: Path) -> str | None:
    return _attempt(task, lambda _metrics: None, threads, directory)  # which all machines share, under the same path
