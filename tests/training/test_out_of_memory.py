"""What a training says before its memory runs out, and when it does."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flashtrader.config import Experiment, load_config
from flashtrader.errors import TrainingError, is_out_of_memory
from flashtrader.models.families import build_model
from flashtrader.models.model import GridModel
from flashtrader.panel.scaling import Scaler
from flashtrader.training import memory
from flashtrader.training.budget import estimate, untrained_model
from flashtrader.training.distributed import Team
from flashtrader.training.memory import describe_need, enough_memory_for, explained, free_bytes, step_peak_bytes

SMOKE = Path(__file__).parents[2] / "configs" / "smoke" / "returns.yaml"
ON_GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
ON_CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to")


def needed(*changes: str) -> int:
    experiment = load_config(SMOKE, changes)
    num_bytes = step_peak_bytes(experiment, untrained_model(experiment))
    assert num_bytes is not None
    return num_bytes


def described(free: int | None, *changes: str) -> str:
    experiment = load_config(SMOKE, changes)
    return describe_need(experiment, untrained_model(experiment), free)


@pytest.mark.parametrize("error", [MemoryError(), ON_CPU, ON_GPU], ids=["numpy", "cpu", "gpu"])
def test_running_out_of_memory_names_what_to_lower_and_nothing_else_does(error: Exception) -> None:
    with pytest.raises(TrainingError, match=r"^lower something$"), explained(lambda: "lower something"):
        raise error
    with pytest.raises(RuntimeError, match="of another kind"), explained(lambda: "lower something"):
        raise RuntimeError("of another kind")


def test_the_tensors_of_the_failed_step_are_let_go_of() -> None:
    """So that whoever catches the error can go on with less."""
    released = []

    class Held:
        def __del__(self) -> None:
            released.append(True)

    def fail() -> None:
        held = Held()
        assert held
        raise MemoryError

    with pytest.raises(TrainingError), explained(lambda: f"{len(released)} released"):
        fail()
    assert released == [True]


def test_the_advice_is_the_first_smaller_step_that_fits() -> None:
    half, quarter = (
        ("training.batch_size=2", "training.accumulate=2"),
        ("training.batch_size=1", "training.accumulate=4"),
    )
    assert needed(*quarter) < needed(*half) < needed()
    step = f"a step of training.batch_size 4 and training.segment_bars 128 needs about {mib(needed())}"
    halved = f"with training.batch_size=2 and training.accumulate=2 it would need about {mib(needed(*half))}"
    assert described(needed(*half) - 1) == (
        f"{step}, and {mib(needed(*half) - 1)} were free; with training.batch_size=1 and training.accumulate=4 it "
        f"would need about {mib(needed(*quarter))}"
    )
    assert described(needed() * 2) == f"{step}, and {mib(needed() * 2)} were free; {halved}"
    assert described(None) == f"{step}; {halved}"


def test_where_no_batch_fits_the_segment_is_shortened_and_then_the_model() -> None:
    one = ("training.batch_size=1", "training.accumulate=4")
    shorter = needed(*one, "training.segment_bars=64")
    step = f"a step of training.batch_size 4 and training.segment_bars 128 needs about {mib(needed())}"
    assert described(shorter + 1) == (
        f"{step}, and {mib(shorter + 1)} were free; with training.batch_size=1 and training.accumulate=4 and "
        f"training.segment_bars=64 it would need about {mib(shorter)}"
    )
    assert described(0) == f"{step}, and 0.0 MiB were free; lower model.width, model.layers or model.context_bars"


def test_a_model_of_another_library_has_no_estimate_and_still_a_hint() -> None:
    assert described(2**31, "model.backbone=hf", "model.attention=auto", "model.context_bars=null") == (
        "a step of training.batch_size 4 and training.segment_bars 128 needs more than there is, and 2.0 GiB were "
        "free; lower one of them"
    )


def test_a_step_that_will_not_fit_is_warned_of_before_it_is_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = load_config(SMOKE)
    model = untrained_model(experiment)
    for free, warnings in ((needed() + 1, 0), (needed() - 1, 1)):
        monkeypatch.setattr(memory, "free_bytes", lambda _device, free=free: free)
        with caplog.at_level(logging.WARNING), enough_memory_for(experiment, model, tmp_path):
            assert len(caplog.messages) == warnings
    halved = needed("training.batch_size=2", "training.accumulate=2")
    assert caplog.messages == [
        f"{tmp_path}: a step of training.batch_size 4 and training.segment_bars 128 needs about {mib(needed())}, and "
        f"{mib(needed() - 1)} were free; with training.batch_size=2 and training.accumulate=2 it would need about "
        f"{mib(halved)}"
    ]


def test_a_step_for_no_such_machine_is_refused_before_the_system_ends_the_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = load_config(SMOKE)
    free = needed() // 4
    monkeypatch.setattr(memory, "free_bytes", lambda _device: free)
    model = untrained_model(experiment)
    with pytest.raises(TrainingError) as refused, enough_memory_for(experiment, model, tmp_path):
        pytest.fail("a step was made")
    assert str(refused.value) == f"{tmp_path}: {described(free)}"
    with pytest.raises(TrainingError) as refused:
        estimate(experiment)
    assert str(refused.value) == f"--dry-run: {described(free)}"
    assert caplog.messages == []


def test_each_process_of_a_team_has_room_for_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = load_config(SMOKE)
    model, free = untrained_model(experiment), needed() // 4
    monkeypatch.setattr(memory, "free_bytes", lambda _device: free)
    monkeypatch.setattr(memory, "team", lambda: Team(size=8))
    with enough_memory_for(experiment, model, tmp_path):
        pass


def test_a_model_that_no_machine_holds_is_told_of_by_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    told = "model.width 65536 and model.layers 2 make 103,082,426,370 parameters, whose training needs "
    told += "1,536.0 GiB for them alone"
    wide = load_config(SMOKE, ["model.width=65536"])
    monkeypatch.setattr(memory, "free_bytes", lambda _device: 2**34)
    with pytest.raises(TrainingError) as refused:
        untrained_model(wide)
    assert str(refused.value) == f"{told}, and 16.0 GiB were free; lower one of them"
    monkeypatch.setattr(memory, "free_bytes", lambda _device: None)
    monkeypatch.setattr(memory, "build_model", fails_at_the_second())
    with pytest.raises(TrainingError) as refused:
        untrained_model(wide)
    assert str(refused.value) == f"out of memory: {told}; lower one of them"


def fails_at_the_second() -> Callable[[Experiment, Scaler], GridModel]:
    """The first one takes no memory."""
    calls = []

    def build(*arguments: Any) -> GridModel:
        calls.append(arguments)
        if len(calls) == 2:
            raise ON_CPU
        return build_model(*arguments)

    return build


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_free_memory_of_a_cpu_is_what_the_system_leaves() -> None:
    free = free_bytes(torch.device("cpu"))
    assert free is not None
    assert 0 < free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="needs ulimit -v to hold")
def test_an_allocation_that_the_system_refuses_is_one_line_with_what_to_lower(tmp_path: Path) -> None:
    """A real one, in a process that may map a gigabyte more than it has."""
    script = f"""
import resource, sys
from pathlib import Path
import torch
from flashtrader.config import load_config
from flashtrader.errors import TrainingError
from flashtrader.training.budget import Rehearsal, untrained_model
from flashtrader.training.distributed import Team
from flashtrader.training.memory import enough_memory_for, proc_bytes
experiment = load_config(Path({str(SMOKE)!r}), ["training.batch_size=4096"])
model = untrained_model(experiment)
most = proc_bytes("self/status", "VmSize") + 2**30
resource.setrlimit(resource.RLIMIT_AS, (most, most))
try:
    with enough_memory_for(experiment, model, Path("runs/tiny-001")):
        Rehearsal(experiment, model)()
except TrainingError as error:
    print(error)
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
    )
    assert ran.stdout.startswith("runs/tiny-001: out of memory: a step of training.batch_size 4096 ")
    assert "GiB were free; with training.batch_size=" in ran.stdout
    assert "Traceback" not in ran.stderr
    assert ran.stderr.startswith("runs/tiny-001: a step of training.batch_size 4096 ")


def test_other_errors_are_not_taken_for_it() -> None:
    assert not is_out_of_memory(ValueError("out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))


def mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB"
