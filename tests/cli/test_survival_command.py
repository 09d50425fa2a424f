"""What `train` says and how it exits when stopped, killed, out of memory or without a disk; and what runs then."""

import errno
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from command import Command
from flashtrader.errors import TrainingError
from flashtrader.files import read_json_lines
from flashtrader.forecasting import forecast
from flashtrader.run import Run
from flashtrader.training import checkpoint, single
from flashtrader.training.trainer import Trainer
from panels import random_bars
from place import Place

SETTINGS: dict[str, Any] = {
    "data": {"source": "file", "symbols": ["AAA", "BBB"], "interval": "60"},
    "panel": {"features": ["log_return", "rsi_5"], "target": {"horizon_bars": 4}},
    "split": {"validation": 0.2, "test": 0.2},
    "model": {"context_bars": 8, "width": 8, "layers": 1, "heads": 2},
    "training": {
        "segment_bars": 48,
        "batch_size": 2,
        "max_steps": 4,
        "evaluate_every": 2,
        "checkpoint_every": 1,
        "device": "cpu",
        "plain_models": [],
    },
}
NUMBERS = {signal.SIGINT: ("interrupted", 130), signal.SIGTERM: ("terminated", 143)}


@pytest.fixture
def place(tmp_path: Path, flashtrader: Command) -> Place:
    bars = {symbol: random_bars(400, seed) for seed, symbol in enumerate(SETTINGS["data"]["symbols"])}
    return Place(tmp_path, flashtrader, SETTINGS, bars)


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Any) -> None:
    """Let something happen within a step."""
    loss = Trainer._loss

    def disturbed(self: Trainer, *batch: Any) -> torch.Tensor:
        return (act() if self.progress.step + 1 == step else None) or loss(self, *batch)

    monkeypatch.setattr(Trainer, "_loss", disturbed)


def fail(error: BaseException) -> Any:
    def act(*_: object) -> None:
        raise error

    return act


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_within_a_step_saves_says_how_to_go_on_and_exits_as_shells_expect(
    place: Place, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    word, exit_code = NUMBERS[number]
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda: os.kill(os.getpid(), number))
        stopped = place.command("train", "--config", place.config, *place.places())
    assert stopped.exit_code == exit_code
    assert stopped.err.splitlines()[-1] == (
        f"{word} after 3 steps, which are saved; go on with: flashtrader train --resume {place.run}"
    )
    assert place("runs", "show", "tiny-001")["status"] == "interrupted"
    assert place("train", "--resume", place.run)["steps"] == 4


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_before_the_first_step_stops_in_order(
    place: Place, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def interrupted(*_: object) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr(single, "prepare", interrupted)
    stopped = place.command("train", "--config", place.config, *place.places())
    assert stopped.exit_code == NUMBERS[number][1]
    assert stopped.err.splitlines()[-1] == ("stopped before a step was made; nothing is lost: the same command goes on")


def test_a_second_ctrl_c_stops_within_a_step_and_says_from_where_the_run_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        at_step(patch, 3, twice)
        stopped = place.command("train", "--config", place.config, *place.places())
    assert stopped.exit_code == 130
    assert stopped.err.splitlines()[-1] == (
        "stopped within a step; the run goes on from its last checkpoint with: flashtrader train --resume RUN"
    )
    assert place("train", "--resume", place.run)["steps"] == 4


def test_a_training_that_diverged_is_one_line_and_listed_as_such(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    at_step(monkeypatch, 3, lambda: torch.tensor(torch.nan, requires_grad=True))
    line = place.fails(1, "train", "--config", place.config)
    first, last = re.findall(r"1970-01-\d\dT\d\d:00:00Z", line)
    assert line == (
        f"{place.run}: the loss is not a number any more at step 3 (segments that begin from {first} to {last}); lower "
        "training.learning_rate or training.clip_norm, or look at those bars; of the best weights, those of step 2 are "
        "kept"
    )
    assert place("runs", "show", "tiny-001")["status"] == "diverged"
    assert place("predict")["bars"] == 80


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["numpy", "gpu", "cpu"],
)
def test_running_out_of_memory_says_what_to_lower(
    place: Place, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    at_step(monkeypatch, 2, fail(error))
    line = place.fails(1, "train", "--config", place.config)
    assert re.sub(r"[\d,.]+ [MG]iB", "…", line) == (
        f"{place.run}: out of memory: a step of training.batch_size 2 and training.segment_bars 48 needs about …, and "
        "… were free; with training.batch_size=1 and training.accumulate=2 it would need about …"
    )


def test_running_out_of_memory_while_forecasting_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place("train", "--config", place.config)
    monkeypatch.setattr(forecast, "output_rows", fail(torch.OutOfMemoryError("CUDA out of memory.")))
    assert place.fails(1, "predict") == (
        f"{place.run}: out of memory while forecasting 80 bars: the model reads 256 bars at once, of 2 symbols; close "
        "what else uses the memory, forecast with --split latest, or train one with a smaller model.context_bars or "
        "model.width"
    )


def test_running_out_of_memory_elsewhere_is_a_line_too(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single, "prepare", fail(MemoryError("Unable to allocate 9 TiB for an array")))
    assert place.fails(1, "train", "--config", place.config) == (
        "out of memory (Unable to allocate 9 TiB for an array); ask for less at once: fewer bars, symbols or features, "
        "smaller batches"
    )


def test_a_full_disk_is_one_line_and_the_training_goes_on_once_there_is_room(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoint.save_tensors

    def refused(path: Path, tensors: Any, facts: dict[str, Any]) -> None:
        if facts["progress"]["step"] == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save(path, tensors, facts)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_tensors", refused)
        assert place.fails(1, "train", "--config", place.config) == (
            f"{place.run / 'checkpoints' / 'last.safetensors'}: No space left on device, at step 3; what was saved "
            f"before is whole: make room, then go on with: flashtrader train --resume {place.run}"
        )
    assert place("train", "--resume", place.run)["steps"] == 4
    assert [row["step"] for row in read_json_lines(place.run / "metrics.jsonl")] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "arguments",
    [("train", "--resume", "tiny-001"), ("predict",), ("backtest",), ("verify",)],
    ids=lambda words: words[0],
)
def test_a_run_that_another_process_is_at_work_in_is_left_to_it(
    unspoiled: Place, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setattr("flashtrader.run._PATIENCE_SECONDS", 0.1)
    with Run(unspoiled.run).alone():
        assert unspoiled.fails(1, *arguments) == (
            f"{unspoiled.run}: another process trains this run or writes results into it; wait for its end, or stop "
            "it, and give the command again"
        )
        listed = unspoiled.command.succeeds("runs", "--runs-dir", unspoiled.root / "runs", "--json").json["runs"]
        assert [run["run"] for run in listed] == ["tiny-001"]


def test_a_run_belongs_to_its_training_from_its_beginning_to_its_end(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = []

    def look() -> None:
        with pytest.raises(TrainingError, match="another process trains this run"), Run(place.run).alone():
            pass
        refused.append(True)

    monkeypatch.setattr("flashtrader.run._PATIENCE_SECONDS", 0.05)
    with monkeypatch.context() as patch:
        at_step(patch, 1, look)
        place("train", "--config", place.config, "--set", "training.max_steps=2")
        at_step(patch, 3, look)
        place("train", "--resume", "tiny-001", "--set", "training.max_steps=4")
    assert len(refused) == 2
    assert place("predict")["bars"] == 80


def test_a_run_without_a_manifest_breaks_no_command(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed as it was made; and a directory in which there is nothing at all."""
    with monkeypatch.context() as patch:
        patch.setattr(Run, "write_manifest", fail(MemoryError()))
        place.fails(1, "train", "--config", place.config)
    (place.root / "runs" / "tiny-002").mkdir()
    listed = place.command.succeeds("runs", "--runs-dir", place.root / "runs", "--json").json["runs"]
    assert [(run["run"], run["status"]) for run in listed] == [("tiny-001", "unfinished")]
    assert place.fails(2, "predict") == (
        f"no trained run in {place.root}/runs; make one with `flashtrader train --config …`, or give --run"
    )
    assert place.fails(1, "predict", "--run", "tiny-001") == (
        f"{place.run}: nothing was trained in it; if its training was killed, begin it with: flashtrader train "
        f"--resume {place.run}"
    )
    assert place.fails(2, "train", "--resume", "tiny-002") == f"no run 'tiny-002' here or in {place.root}/runs"
    resumed = place.command.succeeds("train", "--resume", "tiny-001", *place.places(), "--json")
    assert resumed.json["steps"] == 4
    assert place("train", "--config", place.config)["run"].endswith("tiny-003")


def test_a_run_without_a_checkpoint_says_so_to_predict_and_begins_anew(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 1, fail(MemoryError()))
        place.fails(1, "train", "--config", place.config)
    assert place.fails(1, "predict") == (
        f"{place.run}/checkpoints/best.safetensors: no such checkpoint; if the training was stopped before its "
        "first one, go on with `train --resume`, else restore a copy"
    )
    assert place("train", "--resume", place.run)["steps"] == 4
