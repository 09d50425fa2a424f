"""What several processes train is what one trains, up to the rounding of float32 sums in another order.

That is 1e-4 of a loss, of a gradient's length and of a weight; at weights near 0, where AdamW's steps are no shorter,
2e-5.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from experiments import tiny
from flashtrader.config import (
    Experiment,
    TrainingConfig,
    load_config,
    to_yaml,
)
from flashtrader.errors import ConfigError, DataError, DivergedError, TrainingError
from flashtrader.files import read_json_lines
from flashtrader.models.families import build_model
from flashtrader.models.model import unit_scaler
from flashtrader.models.weights import load_tensors
from flashtrader.panel.loading import panel_shape
from flashtrader.run import Run
from flashtrader.training import torchrun
from flashtrader.training.distributed import Team, team
from flashtrader.training.loop import resume_training, train_model
from flashtrader.training.torchrun import join
from panels import random_bars, store_bars
from processes import in_processes

pytestmark = pytest.mark.distributed

SMOKE = Path(__file__).parents[2] / "configs" / "smoke"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two markets, one of which misses a bar here and there: segments differ in how many labels they have."""
    data_dir = tmp_path_factory.mktemp("data")
    bars = random_bars(600, seed=0)
    store_bars(data_dir, "AAA", bars)
    missing = np.random.default_rng(0).choice(np.arange(1, 599), 150, replace=False)
    store_bars(data_dir, "BBB", random_bars(600, seed=1).drop(index=bars.index[missing]))
    return data_dir


def experiment(**training: Any) -> Experiment:
    settings = {
        "batch_size": 4,
        "max_steps": 6,
        "evaluate_every": 3,
        "clip_norm": 0.1,
        "plain_models": ("persistence",),
    }
    return tiny(model={"width": 16, "layers": 2, "dropout": 0.0}, **(settings | training))


def portfolio(loss: str, mixing: str, **training: Any) -> Experiment:
    """Forecasts each market's return, or answers with weights, whose Sharpe ratio is no mean over the bars."""
    settings = experiment(**training).model_dump()
    settings["model"] |= {"family": "portfolio", "mixing": mixing}
    settings["training"]["loss"] = loss
    if loss == "sharpe":
        settings["panel"]["target"] = {"kind": "fill_return"}
        settings["policy"] = {"kind": "weights"}
    return Experiment.model_validate(settings)


def train(experiment: Experiment, data_dir: Path, runs_dir: Path, stop_after: int | None = None) -> None:
    def watch(metrics: dict[str, Any]) -> None:
        if metrics["step"] == stop_after:
            raise ZeroDivisionError

    with join(experiment.training):
        train_model(experiment, data_dir, runs_dir, watch)


def resume(experiment: Experiment, data_dir: Path, run: Run) -> None:
    with join(experiment.training):
        resume_training(experiment, data_dir, run, lambda _: None)


def assert_same(found: Run, expected: Run) -> None:
    for name in ("best", "last"):
        (ours, _), (theirs, _) = (load_tensors(run.checkpoints / f"{name}.safetensors") for run in (found, expected))
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            if not key.startswith("random."):
                torch.testing.assert_close(
                    ours[key], tensor, rtol=1e-4, atol=2e-5, msg=lambda text, key=key: f"{key}: {text}"
                )
    rows, expected_rows = (read_json_lines(run.metrics) for run in (found, expected))
    assert [row.keys() for row in rows] == [row.keys() for row in expected_rows]
    for row, expected_row in zip(rows, expected_rows, strict=True):
        del row["bars_per_second"], expected_row["bars_per_second"]
        assert row == pytest.approx(expected_row, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("size", "shared"),
    [
        (2, experiment(distributed="ddp", accumulate=2)),
        (2, portfolio("sharpe", "joint", distributed="fsdp", accumulate=2)),
        (4, experiment(distributed="fsdp", context_parallel=2)),
        (4, portfolio("mse", "factorised", distributed="ddp", context_parallel=4)),
    ],
    ids=["ddp", "fsdp-sharpe", "fsdp-context", "ddp-context-factorised"],
)
def test_several_processes_train_what_one_trains(data_dir: Path, tmp_path: Path, size: int, shared: Experiment) -> None:
    train(shared, data_dir, tmp_path / "alone")
    assert in_processes(size, train, shared, data_dir, tmp_path / "shared") == [None] * size
    run = Run(tmp_path / "shared" / "tiny-001")
    assert_same(run, Run(tmp_path / "alone" / "tiny-001"))
    assert run.manifest["processes"] == size


def test_a_run_goes_on_with_another_number_of_processes(data_dir: Path, tmp_path: Path) -> None:
    alone, shared = experiment(), experiment(distributed="fsdp")
    train(alone, data_dir, tmp_path / "whole")
    whole = Run(tmp_path / "whole" / "tiny-001")

    stopped = in_processes(2, train, shared, data_dir, tmp_path / "first-shared", 4)
    assert [type(error) for error in stopped] == [ZeroDivisionError] * 2
    first_shared = Run(tmp_path / "first-shared" / "tiny-001")
    resume(alone, data_dir, first_shared)
    assert_same(first_shared, whole)

    with pytest.raises(ZeroDivisionError):
        train(alone, data_dir, tmp_path / "first-alone", 4)
    first_alone = Run(tmp_path / "first-alone" / "tiny-001")
    assert in_processes(2, resume, shared, data_dir, first_alone) == [None] * 2
    assert_same(first_alone, whole)


def test_members_are_trained_one_after_the_other_by_all_processes(data_dir: Path, tmp_path: Path) -> None:
    shared = experiment(seeds=(1, 2), distributed="ddp")
    train(shared, data_dir, tmp_path / "alone")
    assert in_processes(2, train, shared, data_dir, tmp_path / "shared") == [None] * 2
    for name in ("seed-1", "seed-2"):
        assert_same(*(Run(tmp_path / place / "tiny-001").member(name) for place in ("shared", "alone")))


def refuse() -> None:
    raise ConfigError("the writer's refusal")


def talk() -> None:
    """What one process tells the others, and how they find out that they differ."""
    with join(TrainingConfig(distributed="ddp", device="cpu")) as together:
        assert together.from_writer(lambda: f"from {together.rank}") == "from 0"
        assert together.largest(together.rank) == together.size - 1
        together.check_same_bars({"AAA": {"rows": 600}})
        with pytest.raises(DataError):
            together.check_same_bars({"AAA": {"rows": 600 + together.rank}})
        with pytest.raises(ConfigError, match="the writer's refusal"):
            together.from_writer(refuse)
    assert team().size == 1


def test_processes_agree_and_notice_where_their_bars_differ() -> None:
    assert in_processes(2, talk) == [None] * 2


def test_other_bars_than_the_writers_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Team, "from_writer", lambda *_: {"AAA": {"rows": 601}})
    with pytest.raises(DataError) as refused:
        Team().check_same_bars({"AAA": {"rows": 600}})
    assert str(refused.value) == (
        "the stored bars are not the same in all processes; give a --data-dir that all machines share, or copy the "
        "first one's to the others"
    )


def lose_one() -> None:
    with join(TrainingConfig(distributed="ddp", device="cpu")) as together:
        if together.rank == 1:
            raise RuntimeError("can't allocate memory")
        together.largest(0)


def test_a_lost_process_is_told_from_one_that_has_no_memory() -> None:
    left, lost = in_processes(2, lose_one)
    assert type(left) is TrainingError
    assert (type(lost), str(lost)) == (RuntimeError, "can't allocate memory")


def test_what_is_left_of_a_group_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("TORCHELASTIC_RUN_ID", "test")):
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError) as left, join(TrainingConfig(device="cpu")):
        raise dist.DistBackendError(
            "[/gloo/pair.cc:537] Read error [::1]:64: closed. This is …\nException raised from …"
        )
    assert str(left.value) == (
        "the processes can't go on together: Read error [::1]:64: closed; where one of them was lost, torchrun "
        "--max-restarts goes on from the last checkpoint by itself, and so does: flashtrader train --resume RUN"
    )


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError) as refused:
        torchrun._take_gpu(0, 4)
    assert str(refused.value) == (
        "training.device: 4 processes on a machine with 2 GPUs; start one for each, or set it to cpu"
    )


def begin_again() -> str:
    """Be refused, and be started again by the same launch."""
    config = TrainingConfig(distributed="ddp", device="cpu")
    with pytest.raises(DivergedError), join(config):
        raise DivergedError("the loss is not a number")
    with pytest.raises(DivergedError) as again, join(config):
        pass
    return str(again.value)


def test_what_no_restart_can_mend_is_not_tried_again() -> None:
    assert in_processes(2, begin_again) == ["the loss is not a number"] * 2


@pytest.mark.parametrize("name", ["candles", "hf", "orderbook", "portfolio", "portfolio-weights", "returns"])
def test_every_weight_gets_a_gradient_as_ddp_waits_for_all(name: str) -> None:
    if name == "hf":
        pytest.importorskip("transformers")
    described = load_config(SMOKE / f"{name}.yaml")
    shape = panel_shape(described)
    model = build_model(described, unit_scaler(shape)).train()
    mask = torch.ones(1, 16, shape.entities, dtype=torch.bool)
    model(torch.randn(*mask.shape, shape.features), mask).square().sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_each_process_has_a_stream_of_random_numbers_of_its_own_at_each_step() -> None:
    def draw(rank: int, step: int) -> float:
        Team(rank=rank, size=2).seed_step(seed=0, step=step)
        return torch.rand(()).item()

    assert len({draw(0, 0), draw(1, 0), draw(0, 1), draw(1, 1)}) == 4
    assert draw(1, 1) == draw(1, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {},
            "training.distributed: none, but torchrun started 6 processes, which would train 6 times the same; set it "
            "to ddp or fsdp, or start one process",
        ),
        (
            {"distributed": "ddp"},
            "training.batch_size: 8 segments can't be shared evenly by 6 processes; make it a "
            "multiple of 6, or start another number",
        ),
        (
            {"distributed": "fsdp", "context_parallel": 2},
            "training.batch_size: 8 segments can't be shared evenly by 3 groups of 2 processes; make it a multiple of "
            "3, or start another number",
        ),
        (
            {"distributed": "ddp", "context_parallel": 4},
            "training.context_parallel: 6 processes can't be divided into groups of 4; start another number, or change "
            "it",
        ),
    ],
)
def test_a_config_that_so_many_can_not_share_is_refused(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], message: str
) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "6"), ("TORCHELASTIC_RUN_ID", "test")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as refusal, join(TrainingConfig(**settings)):
        pass
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"context_parallel": 2},
            "context_parallel needs processes to share a segment; set distributed to ddp or fsdp",
        ),
        (
            {"context_parallel": 5, "distributed": "ddp"},
            r"segment_bars \(48\) must be a multiple of context_parallel \(5\)",
        ),
        (
            {"context_parallel": 8, "distributed": "ddp"},
            "training.context_parallel: of 8 processes each holds 6 bars of a segment, fewer than the 7 earlier ones "
            "that a window of 8 sees; lower it or model.context_bars, or raise training.segment_bars",
        ),
    ],
)
def test_stretches_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment(**settings)


def ranks(launcher: int) -> dict[int, int]:
    """Return the process of each rank that a launcher has started."""
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"PPid:\t{launcher}\n" in (directory / "status").read_text():
                environment = (directory / "environ").read_bytes().decode().split("\0")
                found |= {
                    int(text.removeprefix("RANK=")): int(directory.name)
                    for text in environment
                    if text.startswith("RANK=")
                }
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the process to kill in /proc")
def test_a_killed_process_is_survived(data_dir: Path, tmp_path: Path) -> None:
    shared = experiment(distributed="ddp", max_steps=60, evaluate_every=10, checkpoint_every=5)
    config = tmp_path / "tiny.yaml"
    config.write_text(to_yaml(shared))
    arguments = ("--config", config, "--data-dir", data_dir, "--runs-dir", tmp_path / "shared", "--json")
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1")
    launched = subprocess.Popen(
        [str(part) for part in (*launcher, "-m", "flashtrader", "train", *arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    run = Run(tmp_path / "shared" / "tiny-001")
    while len(read_json_lines(run.metrics)) < 12:
        assert launched.poll() is None, launched.communicate()
        time.sleep(0.005)
    os.kill(ranks(launched.pid)[1], signal.SIGKILL)
    out, err = launched.communicate(timeout=120)
    assert launched.returncode == 0, err
    assert json.loads(out)["steps"] == 60
    (resumed,) = run.manifest["resumed"]
    assert 10 <= resumed["after_step"] < 60
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["tiny-001"]
    train(shared, data_dir, tmp_path / "alone")
    assert_same(run, Run(tmp_path / "alone" / "tiny-001"))
