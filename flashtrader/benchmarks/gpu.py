"""Everything that only a CUDA machine can answer, in one unattended run without a network: `scripts/gpu_check`.

Every section runs in a process of its own, so that one that fails, hangs, or leaves the device in error is reported,
and the others still run. Each leaves SECTION.json; results.json and results.md hold all that are done. Needs PyTorch
and NumPy; the tests need pytest and the package's dependencies, and say so where they are missing.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashtrader.attention import BACKENDS, AttentionPattern, attend, choose, flash, unsupported
from flashtrader.attention.cost import AttentionShape, attention_cost
from flashtrader.benchmarks.attention import LENGTHS, bench_attention, fastest_backend, measure_rows
from flashtrader.benchmarks.machine import machine, measure_speeds, median_seconds
from flashtrader.benchmarks.peak_memory import PeakMemory
from flashtrader.files import read_json, write_json, write_text
from flashtrader.models.grid import GridShape, GridTransformer

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch", "triton", "numpy", "flash-attn", "flash-attn-4", "fa3-fwd", "xformers", "nvidia-cutlass-dsl")
_COMPARED_QUERIES = 1_024
"""Last queries that parity is checked on: against float64 the matrix of all would not fit at 131,072 tokens."""


@dataclass(frozen=True)
class Sizes:
    """How much a run does: `FULL` on a GPU, `REHEARSAL` to see on any machine that every section runs."""

    device: str
    dtypes: tuple[torch.dtype, ...]
    lengths: tuple[int, ...]
    parity_lengths: tuple[int, ...]
    window: int
    heads: int
    head_dim: int
    seconds: float
    training: GridShape
    training_bars: int
    grids: tuple[tuple[str, int, int, int], ...]
    """Name, entities, steps and the window in steps."""


FULL = Sizes(
    device="cuda",
    dtypes=(torch.bfloat16, torch.float16),
    lengths=LENGTHS,
    parity_lengths=(512, 2_048, 8_192, 32_768, 131_072),
    window=1_024,
    heads=16,
    head_dim=128,
    seconds=3.0,
    training=GridShape(entities=1, width=768, layers=14, heads=12, context_bars=4_096, dropout=0.0, backend="auto"),
    training_bars=16_384,
    grids=(("100 assets × 2,048 bars", 100, 2_048, 64), ("50 levels × 2 sides × 1,000 snapshots", 100, 1_000, 64)),
)
"""14 blocks of width 768 have 99 million parameters."""
REHEARSAL = Sizes(
    device="cpu",
    dtypes=(torch.float32,),
    lengths=(32, 64),
    parity_lengths=(64,),
    window=16,
    heads=2,
    head_dim=16,
    seconds=0.01,
    training=GridShape(entities=1, width=32, layers=2, heads=2, context_bars=16, dropout=0.0, backend="auto"),
    training_bars=64,
    grids=(("4 assets × 16 bars", 4, 16, 4), ("2 levels × 2 sides × 10 snapshots", 4, 10, 4)),
)

# Sections -----------------------------------------------------------------------------------------------------------


def versions(sizes: Sizes) -> dict[str, Any]:
    """Return the machine, the driver, and every package that computes attention."""
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            installed[package] = "not installed"
    kernels = {}
    for name, build in (
        ("version 2", flash.VERSION_2),
        ("version 3", flash.VERSION_3),
        ("version 3, forward", flash.VERSION_3_FORWARD),
        ("version 4", flash.VERSION_4),
    ):
        found = flash.load(build)
        kernels[name] = found if isinstance(found, str) else build.module
    return {
        "machine": asdict(machine(torch.device(sizes.device))),
        "driver": _output("nvidia-smi", "--query-gpu=name,driver_version,memory.total,power.limit", "--format=csv"),
        "commit": _output("git", "rev-parse", "HEAD"),
        "python": sys.version,
        "platform": platform.platform(),
        "packages": installed,
        "flash_attn": kernels,
    }


def tests(sizes: Sizes) -> dict[str, Any]:
    """Run `pytest -m gpu`, or for a rehearsal only collect its tests; raises RuntimeError when a test fails."""
    arguments = ["-q", "-m", "gpu", "-p", "no:cacheprovider", *([] if sizes is FULL else ["--collect-only"])]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    tail = (done.stdout + done.stderr).splitlines()[-30:]
    if done.returncode:
        raise RuntimeError(f"pytest ended with {done.returncode}:\n" + "\n".join(tail))
    return {"rows": [{"summary": tail[-1] if tail else ""}], "output": tail}


def attention(sizes: Sizes) -> dict[str, Any]:
    """Measure every backend and reference by length, causal and windowed, forward and with the backward pass."""
    measured = bench_attention(
        lengths=sizes.lengths,
        patterns=(AttentionPattern(), AttentionPattern(window_steps=sizes.window)),
        seconds=sizes.seconds,
        device=sizes.device,
        dtype=sizes.dtypes[0],
        heads=sizes.heads,
        head_dim=sizes.head_dim,
        on_row=_say,
    )
    return measured.to_json()


def parity(sizes: Sizes) -> dict[str, Any]:
    """Return each backend's largest error against float64, beside that of plain attention in the same dtype.

    A backend computes the whole sequence. Only its last queries get a gradient, so plain attention of those alone has
    the exact output and gradients, and needs no matrix of all queries. Errors beyond twice plain attention's are named.
    """
    rows: list[dict[str, Any]] = []
    for length in sizes.parity_lengths:
        for pattern in (AttentionPattern(), AttentionPattern(window_steps=sizes.window)):
            for dtype in sizes.dtypes:
                for row in _parity_rows(length, pattern, dtype, sizes):
                    _say(row)
                    rows.append(row)
    beyond = [row for row in rows if row.get("within_twice_plain") is False]
    found: dict[str, Any] = {"rows": rows, "compared_queries": _COMPARED_QUERIES}
    if beyond:
        found["error"] = f"beyond twice the error of plain attention: {json.dumps(beyond)}"
    return found


def _parity_rows(length: int, pattern: AttentionPattern, dtype: torch.dtype, sizes: Sizes) -> Iterator[dict[str, Any]]:
    generator = torch.Generator(sizes.device).manual_seed(0)
    heads = 2  # the float64 matrix of 1,024 queries and 131,072 keys takes 1 GB a head
    q, k, v, dout = (
        torch.randn(1, length, heads, sizes.head_dim, device=sizes.device, dtype=dtype, generator=generator)
        for _ in range(4)
    )
    last = min(length, _COMPARED_QUERIES)
    dout[:, :-last] = 0
    q_last, dout_last = q[:, -last:], dout[:, -last:]
    exact = _outputs("naive", q_last.double(), k.double(), v.double(), dout_last.double(), pattern, last)
    plain = _errors(_outputs("naive", q_last, k, v, dout_last, pattern, last), exact)
    call = {"length": length, "pattern": str(pattern), "dtype": str(dtype).removeprefix("torch.")}
    for backend in BACKENDS:
        row = call | {"backend": backend}
        if (reason := unsupported(q.detach().requires_grad_(), k, pattern, backend)) is not None:
            yield row | {"no_number": reason}
            continue
        try:
            errors = _errors(_outputs(backend, q, k, v, dout, pattern, last), exact)
        except Exception as error:  # the other backends are still to be compared
            yield row | {"no_number": f"failed: {type(error).__name__}: {error}"}
            continue
        within = all(errors[name] <= 2 * plain[name] + 1e-6 for name in errors)
        yield row | {"error_against_float64": errors, "of_plain": plain, "within_twice_plain": within}


def _outputs(
    backend: str, q: Tensor, k: Tensor, v: Tensor, dout: Tensor, pattern: AttentionPattern, last: int
) -> dict[str, Tensor]:
    """Return output and gradients, of the queries the last ones."""
    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    out = attend(q, k, v, pattern, backend)
    dq, dk, dv = torch.autograd.grad(out, (q, k, v), dout)
    return {"out": out.detach()[:, -last:], "dq": dq[:, -last:], "dk": dk, "dv": dv}


def _errors(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    return {name: float((value.double() - exact[name]).abs().max()) for name, value in found.items()}


def training(sizes: Sizes) -> dict[str, Any]:
    """Return tokens a second and model FLOPs utilisation of whole training steps.

    Utilisation is the arithmetic of the model (6 per parameter and token, and attention's 3 times 4·D for each visible
    pair; nothing that is computed twice) over the device's measured matrix rate. Chowdhery et al. 2022, appendix B.
    """
    device, dtype = torch.device(sizes.device), sizes.dtypes[0]
    shape, bars = sizes.training, sizes.training_bars
    model = GridTransformer(shape).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens = torch.randn(1, bars, 1, shape.width, device=device)

    def step() -> None:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            hidden = model(tokens)
        hidden.float().square().mean().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    seconds = median_seconds(step, device, sizes.seconds * 5)
    peak_bytes = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    parameters = sum(weight.numel() for weight in model.parameters())
    call = AttentionShape(1, bars, bars, shape.heads, shape.width // shape.heads, dtype)
    attention_flops = 3 * shape.layers * attention_cost("naive", call, model.pattern).useful_flops
    flops = 6 * parameters * bars + attention_flops
    rate = measure_speeds(device, dtype).matrix_tflops_per_second * 1e12
    q_BNHD = torch.empty(1, bars, shape.heads, call.head_dim, device=device, dtype=dtype, requires_grad=True)
    choice = choose(q_BNHD, q_BNHD, model.pattern)
    row = {
        "parameters": parameters,
        "bars": bars,
        "context_bars": shape.context_bars,
        "attention": choice.backend,
        "milliseconds_per_step": seconds * 1e3,
        "bars_per_second": bars / seconds,
        "model_tflops_per_second": flops / seconds / 1e12,
        "model_flops_utilisation": flops / seconds / rate,
        "peak_bytes": peak_bytes,
    }
    return {"rows": [row], "passed_over": choice.passed_over}


def grids(sizes: Sizes) -> dict[str, Any]:
    """Return time and memory of attention over whole grids of assets or order book levels, with a window."""
    device, dtype = torch.device(sizes.device), sizes.dtypes[0]
    rows = []
    with PeakMemory(device) as memory:
        for name, entities, steps, window in sizes.grids:
            pattern = AttentionPattern(window_steps=window, entities_per_step=entities)
            length = entities * steps
            shape = AttentionShape(1, length, length, sizes.heads // 2, sizes.head_dim // 2, dtype)
            backend = fastest_backend(shape, pattern, device)
            measured = measure_rows([shape], pattern, (backend,), "training", memory, 10 * sizes.seconds)
            rows += [{"grid": name} | asdict(row) for row in measured]
    return {"rows": rows}


SECTIONS: dict[str, tuple[Callable[[Sizes], dict[str, Any]], int]] = {
    "versions": (versions, 300),
    "tests": (tests, 1_800),
    "parity": (parity, 1_800),
    "training": (training, 900),
    "grids": (grids, 900),
    "attention": (attention, 3_600),
}
"""What runs, in this order, and the seconds after which it is given up."""

# The run ------------------------------------------------------------------------------------------------------------


def main() -> int:
    """Run every section; return 0 if all did, else 1."""
    parser = argparse.ArgumentParser(prog="gpu_check", description="Measure and check everything on a CUDA machine.")
    parser.add_argument("folder", type=Path, help="where JSON and the page are written")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU: does every section run?")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="of these, separated by commas")
    parser.add_argument("--one", choices=SECTIONS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    sizes = REHEARSAL if asked.rehearse else FULL
    if asked.one:
        return _run_here(asked.one, sizes, asked.folder)
    names = asked.sections.split(",")
    if unknown := [name for name in names if name not in SECTIONS]:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    if not asked.rehearse and not torch.cuda.is_available():
        parser.error("PyTorch sees no CUDA device here; --rehearse runs tiny sizes on the CPU")
    results = {}
    for name in names:
        _say(f"== {name}")
        started = time.perf_counter()
        results[name] = _run_apart(name, asked.folder, asked.rehearse)
        results[name]["seconds"] = round(time.perf_counter() - started, 1)
        _say(f"== {name}: {results[name].get('error', 'done')}")
        write_json(asked.folder / "results.json", results)  # what is done stays, whatever comes next
        write_text(asked.folder / "results.md", _page(results, asked.rehearse))
    return 1 if any("error" in result for result in results.values()) else 0


def _run_apart(name: str, folder: Path, rehearse: bool) -> dict[str, Any]:
    """Run a section in a process of its own and return what it left, or why it left nothing."""
    path = folder / f"{name}.json"
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "flashtrader.benchmarks.gpu", str(folder.absolute()), "--one", name]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    limit_s = SECTIONS[name][1]
    try:
        done = subprocess.run(
            command + ["--rehearse"] * rehearse, cwd=ROOT, env=environment, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"given up after {limit_s} s"}
    if not path.exists():
        return {"error": f"its process ended with {done.returncode} and left no result"}
    result: dict[str, Any] = read_json(path)
    return result


def _run_here(name: str, sizes: Sizes, folder: Path) -> int:
    try:
        result = SECTIONS[name][0](sizes)
    except Exception as error:  # reported, and the other sections still run
        traceback.print_exc()
        result = {"error": f"{type(error).__name__}: {error}"}
    write_json(folder / f"{name}.json", result)
    return 1 if "error" in result else 0


def _say(line: object) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _output(*command: str) -> str:
    """Return what a program prints, or why there is nothing."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({error})"


# The page -----------------------------------------------------------------------------------------------------------

_HIDDEN = {"batch"}


def _page(results: dict[str, dict[str, Any]], rehearsed: bool) -> str:
    """Return all results as Markdown: a table for each section's rows, everything else as JSON."""
    parts = ["# What a GPU measured\n"]
    if rehearsed:
        parts.append("A rehearsal with tiny sizes on a CPU: it shows that the sections run, and no speed.\n")
    for name, result in results.items():
        parts.append(f"## {name}\n\n{result['seconds']:g} s.\n")
        if "error" in result:
            parts.append(f"**Failed.**\n\n```\n{result['error']}\n```\n")
        if rows := result.get("rows"):
            parts.append(_table(rows))
        facts = {key: value for key, value in result.items() if key not in ("rows", "seconds", "error")}
        if facts:
            parts.append(f"```json\n{json.dumps(facts, indent=2, ensure_ascii=False)}\n```\n")
    return "\n".join(parts)


def _table(rows: list[dict[str, Any]]) -> str:
    columns = [
        key
        for key in dict.fromkeys(key for row in rows for key in row)
        if key not in _HIDDEN and any(row.get(key) is not None for row in rows)
    ]
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(key)) for key in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(of)}" for key, of in value.items())
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else " ".join(str(value).split()).replace("|", "/")


if __name__ == "__main__":
    sys.exit(main())
