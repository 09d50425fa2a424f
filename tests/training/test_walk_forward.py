"""Runs of several models: of walk-forward folds, of seeds, and of both."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments import SYMBOLS, store_two_markets, tiny, watch_nothing
from flashtrader.config import (
    Experiment,
    SplitConfig,
)
from flashtrader.errors import ConfigError, DataError, TrainingError
from flashtrader.files import read_json_lines
from flashtrader.models.weights import load_tensors
from flashtrader.run import Run, find_run
from flashtrader.training import single
from flashtrader.training.loop import resume_training, train_model
from flashtrader.training.spread import Spread
from flashtrader.training.summary import SeedSpread
from flashtrader.training.trainer import Trainer
from panels import HOUR_MS, random_bars, store_bars

NAMES = ["fold-01-seed-3", "fold-01-seed-4", "fold-02-seed-3", "fold-02-seed-4"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_two_markets(tmp_path_factory.mktemp("data"), 400)


def experiment(*, family: str = "returns", walk: dict[str, Any] | None = None, **training: Any) -> Experiment:
    parts = {"train": 200, "validation": 60, "test": 80, "mode": "rolling", **(walk or {})}
    settings = {"max_steps": 6, "evaluate_every": 3, "plain_models": ("ridge",), "seeds": (3, 4)}
    return tiny(split={"walk_forward": parts}, model={"family": family}, **(settings | training))


def interrupt_once() -> Callable[[dict[str, Any]], None]:
    """Return what asks this process to stop at the first step that it sees."""
    to_do = [signal.SIGINT]

    def watch(_metrics: dict[str, Any]) -> None:
        if to_do:
            os.kill(os.getpid(), to_do.pop())

    return watch


def tensors(run: Run, name: str) -> dict[str, torch.Tensor]:
    return load_tensors(run.checkpoints / f"{name}.safetensors")[0]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def whole(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_model(experiment(), data_dir, tmp_path_factory.mktemp("whole"), watch_nothing).run


def test_the_run_holds_a_run_of_each_fold_and_seed(whole: Run) -> None:
    manifest = whole.manifest
    assert [(member["name"], member["status"]) for member in manifest["members"]] == [
        (name, "completed") for name in NAMES
    ]
    assert sorted(path.name for path in (whole.path / "members").iterdir()) == NAMES
    assert [fold["test_start_ms"] // HOUR_MS for fold in manifest["folds"]] == [260, 340]
    assert [fold["train_start_ms"] // HOUR_MS for fold in manifest["folds"]] == [0, 80]
    boundaries = whole.read_manifest().split
    assert (boundaries.test_start_ms, boundaries.end_ms) == (260 * HOUR_MS, 400 * HOUR_MS)
    assert boundaries.reach_bars == 3
    losses = [member["validation_loss"] for member in manifest["members"]]
    assert manifest["training"]["validation_loss"] == pytest.approx(np.mean(losses))
    assert manifest["training"]["steps"] == 24
    assert manifest["data"]["AAA"]["rows"] == 400
    assert find_run(whole.path.parent) == whole


def test_plain_models_stand_beside_each_fold_once(whole: Run) -> None:
    assert [whole.member(name).plain_model("ridge").is_file() for name in NAMES] == [True, False, True, False]
    first, second = (whole.member(name).manifest["plain_models"]["ridge"] for name in (NAMES[0], NAMES[2]))
    mean = (first["validation_loss"] + second["validation_loss"]) / 2
    assert whole.manifest["plain_models"]["ridge"]["validation_loss"] == pytest.approx(mean)


def test_a_member_trained_alone_from_its_config_is_the_same(whole: Run, data_dir: Path, tmp_path: Path) -> None:
    for name in (NAMES[1], NAMES[2]):
        member = whole.member(name)
        alone = train_model(member.experiment, data_dir, tmp_path, watch_nothing).run
        assert alone.name == f"tiny-{name}-001"
        assert same(tensors(alone, "last"), tensors(member, "last"))
        assert alone.manifest["split"] == member.manifest["split"]
        assert alone.manifest["data"] == member.manifest["data"]


def test_no_member_learns_from_a_bar_of_its_test(whole: Run, data_dir: Path, tmp_path: Path) -> None:
    """The first fold is the same where every bar from its test on is another."""
    for seed, symbol in enumerate(SYMBOLS):
        bars, noise = random_bars(400, seed), random_bars(400, 50 + seed)
        store_bars(tmp_path / "data", symbol, bars.where(bars["timestamp"] < 260 * HOUR_MS, noise).astype(bars.dtypes))
    other = train_model(experiment(), tmp_path / "data", tmp_path / "runs", watch_nothing).run
    assert [same(tensors(whole.member(name), "best"), tensors(other.member(name), "best")) for name in NAMES] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(("member", "step"), [(2, 1), (2, 5), (3, 4)])
def test_a_killed_run_goes_on_bit_for_bit_with_the_member_it_was_in(
    whole: Run, data_dir: Path, tmp_path: Path, member: int, step: int
) -> None:
    """Before a member's first checkpoint, which is made at step 3, and after it."""

    def kill(metrics: dict[str, Any]) -> None:
        if (metrics["member"], metrics["step"]) == (member, step):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train_model(experiment(), data_dir, tmp_path, kill)
    run = Run(tmp_path / "tiny-001")
    statuses = [member["status"] for member in run.manifest["members"]]
    assert statuses == ["completed"] * (member - 1) + ["waiting"] * (5 - member)
    trained: list[tuple[int, int]] = []
    summary = resume_training(
        experiment(), data_dir, run, lambda metrics: trained.append((metrics["member"], metrics["step"]))
    )
    assert summary.stopped == "completed"
    assert trained[0] == (member, 4 if step > 3 else 1)
    for name in NAMES:
        for which in ("best", "last"):
            assert same(tensors(run.member(name), which), tensors(whole.member(name), which))
        steps = [row["step"] for row in read_json_lines(run.member(name).metrics)]
        assert steps == list(range(1, 7))
    ours, theirs = run.manifest, whole.manifest
    for manifest in (ours, theirs):
        for entry in (*manifest["members"], *manifest["plain_models"].values()):
            entry.pop("seconds")
    assert (ours["members"], ours["plain_models"], ours["weights"]) == (
        theirs["members"],
        theirs["plain_models"],
        theirs["weights"],
    )


def test_an_interrupt_stops_all_and_resuming_trains_the_rest(data_dir: Path, tmp_path: Path, whole: Run) -> None:
    def interrupt(metrics: dict[str, Any]) -> None:
        if (metrics["member"], metrics["step"]) == (2, 4):
            os.kill(os.getpid(), signal.SIGINT)

    stopped = train_model(experiment(), data_dir, tmp_path, interrupt)
    assert stopped.stopped == "interrupted"
    run = stopped.run
    assert [member["status"] for member in run.manifest["members"]] == ["completed", "interrupted", *["waiting"] * 2]
    assert resume_training(experiment(), data_dir, run, watch_nothing).stopped == "completed"
    assert all(same(tensors(run.member(name), "last"), tensors(whole.member(name), "last")) for name in NAMES)


def test_a_ctrl_c_outside_of_a_step_stops_in_order(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(settings: Experiment, *arguments: Any) -> Any:
        if settings.name.startswith("tiny-fold-02"):
            raise KeyboardInterrupt
        return {}

    monkeypatch.setattr(single, "fit_plain_models", fit)
    summary = train_model(experiment(seeds=()), data_dir, tmp_path, watch_nothing)
    assert summary.stopped == "interrupted"
    assert [member["status"] for member in summary.run.manifest["members"]] == ["completed", "waiting"]


def test_spread_over_processes_the_members_are_the_same_bit_for_bit(data_dir: Path, tmp_path: Path, whole: Run) -> None:
    seen: list[tuple[int, int]] = []
    summary = train_model(
        experiment(),
        data_dir,
        tmp_path,
        lambda metrics: seen.append((metrics["member"], metrics["step"])),
        Spread(workers=2),
    )
    assert summary.stopped == "completed"
    for name in NAMES:
        for which in ("best", "last"):
            assert same(tensors(summary.run.member(name), which), tensors(whole.member(name), which))
    assert sorted(seen) == [(member, step) for member in range(1, 5) for step in range(1, 7)]
    ours, theirs = summary.run.manifest, whole.manifest
    assert (ours["weights"], ours["split"], ours["folds"]) == (theirs["weights"], theirs["split"], theirs["folds"])
    for manifest in (ours, theirs):
        for entry in (*manifest["members"], *manifest["plain_models"].values()):
            entry.pop("seconds")
    assert (ours["members"], ours["plain_models"]) == (theirs["members"], theirs["plain_models"])


def test_a_member_that_fails_elsewhere_leaves_the_others_trained(data_dir: Path, tmp_path: Path, whole: Run) -> None:
    """Its checkpoint is damaged; once that is gone, the run goes on with this member alone."""
    run = train_model(experiment(), data_dir, tmp_path, interrupt_once()).run
    for path in run.member(NAMES[0]).checkpoints.glob("*.safetensors"):
        path.write_bytes(b"nothing")
    with pytest.raises(TrainingError) as refused:
        resume_training(experiment(), data_dir, run, watch_nothing, Spread(workers=2))
    assert str(refused.value) == (
        f"{run.path}: not trained: {NAMES[0]}: {run.path}/members/{NAMES[0]}/checkpoints/last.safetensors: damaged "
        "checkpoint (Error while deserializing header: header too small); restore it from a copy, or train again; go "
        f"on with: flashtrader train --resume {run.path}"
    )
    assert [member["status"] == "completed" for member in run.manifest["members"]] == [False, True, True, True]
    for path in run.member(NAMES[0]).checkpoints.glob("*.safetensors"):
        path.unlink()
    assert resume_training(experiment(), data_dir, run, watch_nothing, Spread(workers=2)).stopped == "completed"
    assert all(same(tensors(run.member(name), "last"), tensors(whole.member(name), "last")) for name in NAMES)


def test_an_interrupt_stops_the_members_elsewhere_which_then_go_on(data_dir: Path, tmp_path: Path, whole: Run) -> None:
    """With a warm start, so that the folds of a seed follow each other in one process."""
    settings = {"walk": {"warm_start": True}, "max_steps": 60}
    stopped = train_model(experiment(**settings), data_dir, tmp_path / "one", interrupt_once(), Spread(workers=2))
    assert stopped.stopped == "interrupted"
    statuses = [member["status"] for member in stopped.run.manifest["members"]]
    assert "waiting" in statuses
    assert set(statuses) <= {"terminated", "waiting", "completed"}
    resumed = resume_training(experiment(**settings), data_dir, stopped.run, watch_nothing, Spread(workers=2))
    assert resumed.stopped == "completed"
    alone = train_model(experiment(**settings), data_dir, tmp_path / "two", watch_nothing).run
    assert all(same(tensors(resumed.run.member(name), "last"), tensors(alone.member(name), "last")) for name in NAMES)
    assert resumed.run.member(NAMES[2]).manifest["begins_as"] == NAMES[0]


def test_bars_fetched_since_are_left_out_and_changed_ones_refused(data_dir: Path, tmp_path: Path) -> None:
    for seed, symbol in enumerate(SYMBOLS):
        store_bars(tmp_path / "data", symbol, random_bars(400, seed))

    def interrupt(metrics: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    run = train_model(experiment(seeds=()), tmp_path / "data", tmp_path / "runs", interrupt).run
    for seed, symbol in enumerate(SYMBOLS):
        store_bars(tmp_path / "data", symbol, random_bars(500, seed)[400:].reset_index(drop=True))
        store_bars(tmp_path / "other", symbol, random_bars(400, 10 + seed))
    with pytest.raises(ConfigError, match=r"split\.walk_forward\.test can't change when a run goes on"):
        resume_training(experiment(seeds=(), walk={"test": 70}), tmp_path / "data", run, watch_nothing)
    with pytest.raises(DataError, match="the stored bars of AAA, BBB are not those that this run was trained on"):
        resume_training(experiment(seeds=()), tmp_path / "other", run, watch_nothing)
    resume_training(experiment(seeds=()), tmp_path / "data", run, watch_nothing)
    assert [fold["end_ms"] // HOUR_MS for fold in run.manifest["folds"]] == [340, 400]


def test_a_longer_training_goes_on_with_every_member(data_dir: Path, tmp_path: Path) -> None:
    run = train_model(experiment(seeds=()), data_dir, tmp_path, watch_nothing).run
    summary = resume_training(experiment(seeds=(), max_steps=9), data_dir, run, watch_nothing)
    assert [member["steps"] for member in summary.run.manifest["members"]] == [9, 9]


def test_a_warm_start_begins_with_the_best_weights_of_the_fold_before(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same seed; the scaler is the fold's own."""
    begins: dict[str, dict[str, torch.Tensor]] = {}
    train = Trainer.train

    def observed(self: Trainer, watch: Any) -> Any:
        begins[self.run.name] = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        return train(self, watch)

    monkeypatch.setattr(Trainer, "train", observed)
    run = train_model(experiment(walk={"warm_start": True}), data_dir, tmp_path, watch_nothing).run
    for seed in (3, 4):
        best, begun = tensors(run.member(f"fold-01-seed-{seed}"), "best"), begins[f"fold-02-seed-{seed}"]
        learned = [name for name in best if not name.startswith("standardiser.")]
        assert all(torch.equal(best[name], begun[name]) for name in learned)
        assert not torch.equal(best["standardiser.feature_mean"], begun["standardiser.feature_mean"])
        assert run.member(f"fold-02-seed-{seed}").manifest["begins_as"] == f"fold-01-seed-{seed}"
        cold = begins[f"fold-01-seed-{seed}"]
        assert not torch.equal(best["tokeniser.weight"], cold["tokeniser.weight"])


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_a_warm_start_from_weights_that_do_not_fit_is_refused(
    change: str, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def altered(path: Path) -> Any:
        found, facts = load_tensors(path)
        weight = found.pop("tokeniser.weight")
        return (found if change == "missing" else found | {"tokeniser.weight": weight, "extra.weight": weight}), facts

    monkeypatch.setattr("flashtrader.training.single.load_tensors", altered)
    name = {"missing": "tokeniser", "unknown": "extra"}[change]
    with pytest.raises(TrainingError) as refused:
        train_model(experiment(walk={"warm_start": True}), data_dir, tmp_path, watch_nothing)
    assert str(refused.value) == (
        f"{tmp_path}/tiny-001/members/{NAMES[0]}: its weights do not fit a warm start: {name}.weight missing or "
        "unknown; train that fold anew"
    )


def test_seeds_alone_share_one_split(data_dir: Path, tmp_path: Path) -> None:
    settings = experiment().model_copy(update={"split": SplitConfig(validation=0.2, test=0.2)})
    run = train_model(settings, data_dir, tmp_path, watch_nothing).run
    assert [member["name"] for member in run.manifest["members"]] == ["seed-3", "seed-4"]
    three, four = (run.member(name) for name in ("seed-3", "seed-4"))
    assert three.manifest["split"] == four.manifest["split"] == run.manifest["split"]
    assert not same(tensors(three, "best"), tensors(four, "best"))


def test_a_plain_model_walks_forward_without_seeds(data_dir: Path, tmp_path: Path) -> None:
    run = train_model(experiment(family="ridge"), data_dir, tmp_path, watch_nothing).run
    assert [member["name"] for member in run.manifest["members"]] == ["fold-01", "fold-02"]
    assert all((run.member(name).checkpoints / "best.safetensors").is_file() for name in ("fold-01", "fold-02"))
    assert resume_training(experiment(family="ridge"), data_dir, run, watch_nothing).stopped == "completed"


def test_a_fold_that_can_t_be_trained_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """The second fold's validation lies behind an outage, with fewer bars than the warm-up."""
    for seed, symbol in enumerate(SYMBOLS):
        bars = random_bars(420, seed)
        hours = bars["timestamp"] // HOUR_MS
        store_bars(tmp_path / "data", symbol, bars[(hours < 250) | (hours >= 270)].reset_index(drop=True))
    settings = experiment(walk={"train": 160, "validation": 30, "test": 90}, warmup_bars=40)
    with pytest.raises(ConfigError) as refused:
        train_model(settings, tmp_path / "data", tmp_path / "runs", watch_nothing)
    assert str(refused.value) == (
        "split.validation: none of the 27 validation bars has both a forecast and a known target (a history begins "
        "anew after an outage, with 40 warm-up bars); move the boundary, lower training.warmup_bars, or raise "
        "panel.max_gap_bars"
    )
    assert not (tmp_path / "runs").exists()


def test_the_spread_by_hand() -> None:
    assert SeedSpread.of([1.0, 3.0]) == SeedSpread(mean=2.0, deviation=pytest.approx(2**0.5), minimum=1.0, maximum=3.0)
    assert np.isnan(SeedSpread.of([1.0, float("nan")]).mean)
