"""How far a call raises the memory in use.

On CUDA the allocator counts. On Linux the kernel does, in a process of its own: there the C library takes every block
of a page or more from the kernel and gives it back at once, so that the rise of the high-water mark of resident memory
is what the call held at most, to about a tenth of a megabyte. A call that the system ends for want of memory ends that
process.
"""

import gc
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Self

import torch

Call = Callable[[], object]


class PeakMemory:
    """Measures calls on one device; a context, as it may hold a process."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown()

    def bytes_of(self, prepare: Callable[..., Call], *arguments: object) -> int | None:
        """Return the peak of the call that `prepare(*arguments)` makes, above what it was given to work on.

        The two are sent to another process, so `prepare` is a module's function. None where it can't be measured.
        Raises MemoryError.
        """
        if self.device.type == "cuda":
            call = prepare(*arguments)
            call()  # the first call of a library leaves workspaces behind, and a compiled one its compilation's
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            call()
            torch.cuda.synchronize(self.device)
            return torch.cuda.max_memory_allocated(self.device) - before
        if self.device.type != "cpu" or sys.platform != "linux":
            return None
        if self.pool is None:
            self.pool = _start_process()
        try:
            return self.pool.submit(_peak_resident_bytes, prepare, *arguments).result()
        except BrokenProcessPool:
            self.pool = None
            raise MemoryError("not enough memory: the system ended the process that measured") from None


def _start_process() -> ProcessPoolExecutor:
    """Return one process whose C library never keeps a block of a page or more, as its environment tells it to."""
    name, outer = "MALLOC_MMAP_THRESHOLD_", os.environ.get("MALLOC_MMAP_THRESHOLD_")
    pool = ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (torch.get_num_threads(),))
    os.environ[name] = "4096"
    try:
        pool.submit(os.getpid).result()
    finally:
        if outer is None:
            del os.environ[name]
        else:
            os.environ[name] = outer
    return pool


def _peak_resident_bytes(prepare: Callable[..., Call], *arguments: object) -> int | None:
    call = prepare(*arguments)
    call()
    gc.collect()
    before = _resident_bytes("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:  # a container that does not allow to set the mark back
        return None
    call()
    return max(0, _resident_bytes("VmHWM") - before)


def _resident_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
