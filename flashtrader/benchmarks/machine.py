"""The machine that a figure was measured on: its names, how fast it multiplies and copies, what each memory holds."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from flashtrader.training.memory import proc_bytes

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Machine:
    """What the figures were measured on."""

    cpu: str
    cores: int
    threads: int
    device: str
    torch: str
    cuda: str | None
    python: str
    platform: str


@dataclass(frozen=True)
class MemoryLevel:
    """One level of a device's memory."""

    name: str
    bytes: int
    is_on_chip: bool = False
    """Whether a kernel works in it: what M is in the IO model."""


@dataclass(frozen=True)
class Speeds:
    """What the device reaches at best in this very run, to hold a kernel's figures against."""

    matrix_tflops_per_second: float
    """Of one large matrix product in the dtype of the run."""
    copied_bytes_per_second: float
    """Read and written by copying one large block of device memory."""


def machine(device: torch.device) -> Machine:
    """Return what this process runs on."""
    on_cuda = device.type == "cuda"
    return Machine(
        cpu=_cpu_name(),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name(device) if on_cuda else device.type,
        torch=torch.__version__,
        cuda=torch.version.cuda if on_cuda else None,
        python=platform.python_version(),
        platform=platform.platform(),
    )


def measure_speeds(device: torch.device, dtype: torch.dtype) -> Speeds:
    """Measure a square matrix product and a copy, both far larger than the caches; about a second on a CPU core."""
    on_cuda = device.type == "cuda"
    size = 8192 if on_cuda else 2048
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    block = torch.zeros(1 << 30 if on_cuda else 1 << 27, dtype=torch.uint8, device=device)
    target = torch.empty_like(block)
    product_seconds = median_seconds(lambda: left @ right, device, seconds=0.5)
    copy_seconds = median_seconds(lambda: target.copy_(block), device, seconds=0.2)
    return Speeds(2 * size**3 / product_seconds / 1e12, 2 * block.numel() / copy_seconds)


def median_seconds(call: Callable[[], object], device: torch.device, seconds: float, repeats: int = 20) -> float:
    """Return the median duration of a call, after one that is not counted.

    Calls are repeated as long as the next is expected to end within `seconds`, at least once and at most `repeats`
    times.
    """
    _finish(call(), device)
    durations: list[float] = []
    while len(durations) < repeats and (not durations or sum(durations) + durations[-1] < seconds):
        started = time.perf_counter()
        _finish(call(), device)
        durations.append(time.perf_counter() - started)
    return statistics.median(durations)


def _finish(_result: object, device: torch.device) -> None:
    """Wait for what a call has started."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory_levels(device: torch.device) -> tuple[MemoryLevel, ...]:
    """Return the device's memories from the smallest to the largest, those that the system tells of."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        levels = [
            MemoryLevel("shared memory of a multiprocessor", properties.shared_memory_per_multiprocessor, True),
            MemoryLevel("L2 cache", properties.L2_cache_size),
            MemoryLevel("device memory", properties.total_memory),
        ]
    else:
        levels = _caches()
        total = proc_bytes("meminfo", "MemTotal")
        levels += [] if total is None else [MemoryLevel("RAM", total)]
    return tuple(level for level in levels if level.bytes > 0)


def _caches() -> list[MemoryLevel]:
    """Return the first core's data caches, as Linux describes them; L2 is the largest that a core has to itself."""
    caches = []
    for folder in sorted(_CACHES.glob("index*")):
        try:
            level, kind, size = (
                (folder / name).read_text(encoding="ascii").strip() for name in ("level", "type", "size")
            )
        except OSError:
            continue
        if kind != "Instruction":
            name = f"L{level}{'d' if kind == 'Data' else ''} cache"
            number = int(size.rstrip("KMG")) * _UNITS.get(size[-1], 1)
            caches.append(MemoryLevel(name, number, is_on_chip=level == "2"))
    return caches


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
