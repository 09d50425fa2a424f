"""A training that is killed, stopped, damaged or refused by the disk goes on as if nothing had happened."""

import errno
import logging
import os
import re
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import store_two_markets, tiny, watch_nothing
from flashtrader.config import (
    Experiment,
)
from flashtrader.errors import ConfigError, DataError, DivergedError, TrainingError
from flashtrader.files import read_json_lines
from flashtrader.models.weights import load_tensors
from flashtrader.registry import Status, summarise
from flashtrader.run import Run
from flashtrader.training import checkpoint, single, trainer
from flashtrader.training.loop import resume_training, train_model
from flashtrader.training.tracking import MetricsLog
from flashtrader.training.trainer import Trainer

STEPS = 8


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_two_markets(tmp_path_factory.mktemp("data"), 400)


def experiment(**training: Any) -> Experiment:
    settings = {"max_steps": STEPS, "checkpoint_every": 2, "plain_models": ("ridge",)}
    return tiny(**(settings | training))


def at_step(step: int, act: Any) -> Any:
    def watch(metrics: dict[str, Any]) -> None:
        if metrics["step"] == step:
            act()

    return watch


def kill() -> None:
    raise ZeroDivisionError


def outcome(run: Run) -> dict[str, Any]:
    """Return all that came of a training but how long it took."""
    tensors = {name: load_tensors(run.checkpoints / f"{name}.safetensors")[0] for name in ("best", "last")}
    rows = read_json_lines(run.metrics)
    return {
        "tensors": {f"{of}.{name}": tensor.tolist() for of, each in tensors.items() for name, tensor in each.items()},
        "metrics": [{name: value for name, value in row.items() if name != "bars_per_second"} for row in rows],
        "weights": run.manifest["weights"],
    }


@pytest.fixture(scope="module")
def undisturbed(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return outcome(train_model(experiment(), data_dir, tmp_path_factory.mktemp("runs"), watch_nothing).run)


def killed(data_dir: Path, runs_dir: Path, step: int) -> Run:
    with pytest.raises(ZeroDivisionError):
        train_model(experiment(), data_dir, runs_dir, at_step(step, kill))
    return Run(runs_dir / "tiny-001")


def first_step_on_resuming(data_dir: Path, run: Run) -> int:
    steps: list[int] = []
    resume_training(experiment(), data_dir, run, lambda metrics: steps.append(metrics["step"]))
    return steps[0]


def test_checkpoints_come_as_often_as_asked(data_dir: Path, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    run = killed(data_dir, tmp_path, 7)
    assert first_step_on_resuming(data_dir, run) == 7
    assert outcome(run) == undisturbed


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_as_the_best_weights_are_written_leaves_none_that_the_run_knows_nothing_of(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    seldom = experiment(evaluate_every=1, checkpoint_every=100)
    whole = train_model(seldom, data_dir, tmp_path / "whole", watch_nothing).run
    _, step, *_ = (row["step"] for row in read_json_lines(whole.metrics) if row["best"])
    save = trainer.save_tensors

    def killed_at(path: Path, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        if facts["step"] == step and when == "before":
            kill()
        save(path, tensors, facts)
        if facts["step"] == step:
            kill()

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_tensors", killed_at)
        with pytest.raises(ZeroDivisionError):
            train_model(seldom, data_dir, tmp_path, watch_nothing)
    run = Run(tmp_path / "tiny-001")
    ended = resume_training(experiment(evaluate_every=1, max_steps=1), data_dir, run, watch_nothing)
    assert (ended.steps, ended.best_step) == (step, step)
    assert load_tensors(run.checkpoints / "best.safetensors")[1]["step"] == step
    resume_training(seldom, data_dir, run, watch_nothing)
    assert outcome(run) == outcome(whole)


def test_a_file_system_without_links_keeps_a_copy_of_the_checkpoint_before(
    data_dir: Path, tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    monkeypatch.setattr(os, "link", refuse)
    run = killed(data_dir, tmp_path, 7)
    assert load_tensors(run.checkpoints / "previous.safetensors")[1]["progress"]["step"] == 4
    (run.checkpoints / "last.safetensors").unlink()
    assert first_step_on_resuming(data_dir, run) == 5
    assert outcome(run) == undisturbed


@pytest.mark.parametrize("damage", ["flipped in a weight", "flipped in the facts", "cut off", "missing"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    data_dir: Path, tmp_path: Path, undisturbed: dict[str, Any], caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    run = killed(data_dir, tmp_path, 7)
    last = run.checkpoints / "last.safetensors"
    content = bytearray(last.read_bytes())
    content[content.index(b'\\"step\\": 6') + 10 if damage == "flipped in the facts" else -3] ^= 1
    if damage == "missing":
        last.unlink()
    else:
        last.write_bytes(content[:-100] if damage == "cut off" else content)
    with caplog.at_level(logging.WARNING):
        assert first_step_on_resuming(data_dir, run) == 5
    said = [f"{last} is damaged; training goes on from the checkpoint before it, previous.safetensors"]
    assert [record.message for record in caplog.records] == ([] if damage == "missing" else said)
    assert outcome(run) == undisturbed


@pytest.mark.parametrize("damage", ["damaged", "missing"])
def test_no_checkpoint_that_is_not_whole_takes_the_place_of_the_whole_one_before(
    data_dir: Path, tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    run = killed(data_dir, tmp_path, 7)
    last = run.checkpoints / "last.safetensors"
    last.write_bytes(b"nothing of the kind") if damage == "damaged" else last.unlink()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_tensors", full)
        with pytest.raises(TrainingError, match=r"No space left on device, at step 6"):
            resume_training(experiment(), data_dir, run, watch_nothing)
    assert first_step_on_resuming(data_dir, run) == 5
    assert outcome(run) == undisturbed


def test_a_config_edited_in_the_run_is_refused_like_any_other_change(data_dir: Path, tmp_path: Path) -> None:
    run = killed(data_dir, tmp_path, 7)
    edited = experiment(learning_rate=0.5)
    run.write_config(edited)
    with pytest.raises(ConfigError, match=r"training\.learning_rate can't change when a run goes on"):
        resume_training(edited, data_dir, run, watch_nothing)


@pytest.mark.parametrize("line", ["{}", '{"step": "1"}', '{"step": 1, "train_loss": "low"}'])
def test_metrics_that_are_none_are_an_error_that_names_the_line(data_dir: Path, tmp_path: Path, line: str) -> None:
    run = killed(data_dir, tmp_path, 7)
    run.metrics.write_text(f"{line}\n")
    with pytest.raises(DataError) as refused:
        resume_training(experiment(), data_dir, run, watch_nothing)
    assert str(refused.value) == f"{run.metrics}: line 1: not the numbers of a step; take the line out"


def test_two_damaged_checkpoints_are_an_error_that_names_the_newer(data_dir: Path, tmp_path: Path) -> None:
    run = killed(data_dir, tmp_path, 7)
    for name in ("last", "previous"):
        (run.checkpoints / f"{name}.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(TrainingError) as refused:
        resume_training(experiment(), data_dir, run, watch_nothing)
    assert str(refused.value) == (
        f"{run.checkpoints}/last.safetensors: damaged checkpoint (Error while deserializing header: header too "
        "large); restore it from a copy, or train again"
    )


def test_what_was_killed_before_its_first_checkpoint_begins_at_step_0(
    data_dir: Path, tmp_path: Path, undisturbed: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    run = killed(data_dir, tmp_path, 1)
    assert first_step_on_resuming(data_dir, run) == 1
    assert outcome(run) == undisturbed
    assert caplog.messages == [f"{run.path}: killed before its first checkpoint; it begins at step 0"]


def test_what_was_killed_before_its_manifest_begins_at_step_0_and_breaks_nothing(
    data_dir: Path, tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(single, "save_plain", lambda *_: kill())
        with pytest.raises(ZeroDivisionError):
            train_model(experiment(), data_dir, tmp_path, watch_nothing)
    run = Run(tmp_path / "tiny-001")
    assert not run.has_begun
    assert summarise(run.path).status is Status.UNFINISHED
    assert first_step_on_resuming(data_dir, run) == 1
    assert outcome(run) == undisturbed


def test_a_backtest_without_a_model_is_not_trained_into(data_dir: Path, tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.write_config(experiment())
    (tmp_path / "backtest.json").write_text("{}")
    with pytest.raises(ConfigError) as refused:
        resume_training(experiment(), data_dir, run, watch_nothing)
    assert str(refused.value) == f"{run.path}: a backtest without a model, which can't go on; train one with --config"


def test_what_a_killed_process_left_half_written_is_cleared_away(data_dir: Path, tmp_path: Path) -> None:
    run = killed(data_dir, tmp_path, 3)
    part = run.checkpoints / ".last.safetensors.abc123.part"
    part.write_bytes(b"half of")
    resume_training(experiment(), data_dir, run, watch_nothing)
    assert not part.exists()


@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_a_signal_saves_before_it_stops(
    data_dir: Path, tmp_path: Path, undisturbed: dict[str, Any], number: signal.Signals, word: str
) -> None:
    summary = train_model(experiment(), data_dir, tmp_path, at_step(2, lambda: os.kill(os.getpid(), number)))
    assert (summary.stopped, summary.steps) == (word, 3)
    assert summarise(summary.run.path).status is Status.INTERRUPTED
    assert first_step_on_resuming(data_dir, summary.run) == 4
    assert outcome(summary.run) == undisturbed


@pytest.mark.parametrize(("what", "factor"), [("loss", torch.inf), ("gradient", 1e30)])
def test_a_training_that_diverged_says_so_and_keeps_its_best_weights(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, factor: float
) -> None:
    def diverge(self: Trainer, *_: object) -> torch.Tensor:
        loss = sum(weight.sum() for weight in self.model.parameters())
        return loss * (factor if self.progress.step == 5 else 1.0)

    monkeypatch.setattr(Trainer, "_loss", diverge)
    with pytest.raises(DivergedError) as diverged:
        train_model(experiment(), data_dir, tmp_path, watch_nothing)
    run = Run(tmp_path / "tiny-001")
    first, last = re.findall(r"1970-01-\d\dT\d\d:00:00Z", str(diverged.value))
    assert str(diverged.value) == (
        f"{run.path}: the {what} is not a number any more at step 6 (segments that begin from {first} to {last}); "
        "lower training.learning_rate or training.clip_norm, or look at those bars; of the best weights, those of step "
        "4 are kept"
    )
    assert summarise(run.path).status is Status.DIVERGED
    assert load_tensors(run.checkpoints / "best.safetensors")[1]["step"] == 4


def test_a_member_that_diverged_stops_the_run_and_says_so(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(self: Trainer, *_: object) -> torch.Tensor:
        loss = sum(weight.sum() for weight in self.model.parameters())
        return loss * (torch.nan if self.config.seed == 2 else 1.0)

    monkeypatch.setattr(Trainer, "_loss", diverge)
    with pytest.raises(DivergedError) as diverged:
        train_model(experiment(seeds=(1, 2, 3)), data_dir, tmp_path, watch_nothing)
    run = Run(tmp_path / "tiny-001")
    first, last = re.findall(r"1970-01-\d\dT\d\d:00:00Z", str(diverged.value))
    assert str(diverged.value) == (
        f"{run.path}/members/seed-2: the loss is not a number any more at step 1 (segments that begin from {first} to "
        f"{last}); lower training.learning_rate or training.clip_norm, or look at those bars; of the best weights, "
        "none were saved yet"
    )
    assert [member["status"] for member in run.manifest["members"]] == ["completed", "diverged", "waiting"]
    assert summarise(run.path).status is Status.DIVERGED


def test_a_validation_loss_out_of_all_proportion_stops(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([0.5, 900.0, 1100.0])
    monkeypatch.setattr(trainer, "validation_loss", lambda *_: next(losses))
    with pytest.raises(DivergedError) as diverged:
        train_model(experiment(evaluate_every=1), data_dir, tmp_path, watch_nothing)
    assert str(diverged.value) == (
        f"{tmp_path}/tiny-001: the validation loss is 1100 at step 3, and was 0.5 at best; lower "
        "training.learning_rate or training.clip_norm; of the best weights, those of step 1 are kept"
    )


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Let the system refuse to write more into a file, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_refuses_a_checkpoint_is_one_line_and_costs_nothing(
    data_dir: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    run = killed(data_dir, tmp_path, 5)
    with (
        files_no_larger_than((run.checkpoints / "last.safetensors").stat().st_size // 2),
        pytest.raises(TrainingError) as refused,
    ):
        resume_training(experiment(), data_dir, run, watch_nothing)
    assert str(refused.value) == (
        f"{run.checkpoints / 'last.safetensors'}: File too large, at step 6; what was saved before is whole: make "
        f"room, then go on with: flashtrader train --resume {run.path}"
    )
    assert not list(run.path.rglob("*.part"))
    assert first_step_on_resuming(data_dir, run) == 5
    assert outcome(run) == undisturbed


def test_a_full_disk_that_cuts_a_line_of_the_metrics_costs_nothing(
    data_dir: Path, tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = MetricsLog.write

    def fill(self: MetricsLog, metrics: dict[str, Any]) -> None:
        if metrics["step"] == 7:
            self._lines.write('{"step": 7, "train_')
            self._lines.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", fill)
        with pytest.raises(TrainingError) as refused:
            train_model(experiment(), data_dir, tmp_path, watch_nothing)
    run = Run(tmp_path / "tiny-001")
    assert str(refused.value) == (
        f"{run.path}: No space left on device, at step 7; what was saved before is whole: make room, then go on with: "
        f"flashtrader train --resume {run.path}"
    )
    assert first_step_on_resuming(data_dir, run) == 7
    assert outcome(run) == undisturbed
