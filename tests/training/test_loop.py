import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments import store_two_markets, tiny, watch_nothing
from flashtrader.config import (
    SplitConfig,
)
from flashtrader.errors import ConfigError, DataError
from flashtrader.files import read_json_lines
from flashtrader.models.weights import load_tensors
from flashtrader.run import Run
from flashtrader.training.loop import resume_training, train_in, train_model
from flashtrader.training.trainer import Trainer
from panels import random_bars, store_bars


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_two_markets(tmp_path_factory.mktemp("data"), 600)


def kill_after(step: int) -> Any:
    def watch(metrics: dict[str, Any]) -> None:
        if metrics["step"] == step:
            raise ZeroDivisionError

    return watch


def weights(run: Run, name: str) -> dict[str, torch.Tensor]:
    return load_tensors(run.checkpoints / f"{name}.safetensors")[0]


def without_speed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "bars_per_second"} for row in rows]


def test_training_writes_all_that_the_run_needs(data_dir: Path, tmp_path: Path) -> None:
    summary = train_model(tiny(), data_dir, tmp_path, watch_nothing)
    rows = read_json_lines(summary.run.metrics)
    assert [row["step"] for row in rows] == list(range(1, 13))
    evaluations = [row for row in rows if "validation_loss" in row]
    assert [row["step"] for row in evaluations] == [4, 8, 12]
    assert summary.validation_loss == min(row["validation_loss"] for row in evaluations)
    assert summary.stopped == "completed"
    manifest = summary.run.manifest
    assert manifest["data"]["AAA"]["rows"] == 600
    assert manifest["split"]["test_start_ms"] == 480 * 3_600_000
    assert manifest["attention"]["backend"].startswith("sdpa")
    assert manifest["training"]["best_step"] == summary.best_step
    assert "standardiser.feature_mean" in weights(summary.run, "best")


def test_what_another_process_has_trained_meanwhile_is_not_trained_again(data_dir: Path, tmp_path: Path) -> None:
    run = train_model(tiny(), data_dir, tmp_path, watch_nothing).run
    trained = run.metrics.read_bytes()
    train_in(tiny(), data_dir, run, watch_nothing)
    assert run.metrics.read_bytes() == trained


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
@pytest.mark.parametrize("killed_after", [1, 6, 9])
def test_a_resumed_run_equals_one_that_never_stopped(
    data_dir: Path, tmp_path: Path, schedule: str, killed_after: int
) -> None:
    settings = tiny(schedule=schedule, plateau_patience=1, evaluate_every=1 if killed_after == 1 else 3)
    whole = train_model(settings, data_dir, tmp_path / "whole", watch_nothing)
    with pytest.raises(ZeroDivisionError):
        train_model(settings, data_dir, tmp_path / "cut", kill_after(killed_after))
    resumed = resume_training(settings, data_dir, Run(tmp_path / "cut" / "tiny-001"), watch_nothing)
    for name in ("best", "last"):
        expected, found = weights(whole.run, name), weights(resumed.run, name)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert without_speed(read_json_lines(resumed.run.metrics)) == without_speed(read_json_lines(whole.run.metrics))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(data_dir: Path, tmp_path: Path) -> None:
    first, again, other = (
        weights(train_model(tiny(seed=seed), data_dir, tmp_path / name, watch_nothing).run, "last")
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["model.tokeniser.weight"], other["model.tokeniser.weight"])


def test_an_interrupt_saves_and_resuming_goes_on(data_dir: Path, tmp_path: Path) -> None:
    def interrupt(metrics: dict[str, Any]) -> None:
        if metrics["step"] == 5:
            os.kill(os.getpid(), signal.SIGINT)

    whole = train_model(tiny(), data_dir, tmp_path / "whole", watch_nothing)
    stopped = train_model(tiny(), data_dir, tmp_path / "cut", interrupt)
    assert stopped.stopped == "interrupted"
    assert stopped.steps == 6
    resumed = resume_training(tiny(), data_dir, stopped.run, watch_nothing)
    assert resumed.stopped == "completed"
    expected, found = weights(whole.run, "last"), weights(resumed.run, "last")
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_accumulated_batches_are_one_larger_batch(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = np.arange(100, 104)

    def trained(**training: int) -> dict[str, torch.Tensor]:
        size = training["batch_size"]

        def draw(self: Trainer, part: int) -> Any:
            chosen = starts[part * size : (part + 1) * size]
            return self.data.segments.batch(chosen), chosen

        monkeypatch.setattr(Trainer, "_draw", draw)
        settings = tiny(max_steps=1, **training)
        still = settings.model_copy(update={"model": settings.model.model_copy(update={"dropout": 0.0})})
        return weights(train_model(still, data_dir, tmp_path, watch_nothing).run, "last")

    parts, whole = trained(batch_size=2, accumulate=2), trained(batch_size=4, accumulate=1)
    one = trained(batch_size=2, accumulate=1)
    moments = [name for name in whole if name.endswith("exp_avg")]
    assert all(torch.allclose(parts[name], whole[name], rtol=1e-4, atol=1e-8) for name in moments)
    assert not all(torch.allclose(one[name], whole[name], rtol=1e-4, atol=1e-8) for name in moments)


def test_training_stops_early_when_nothing_improves(data_dir: Path, tmp_path: Path) -> None:
    settings = tiny(learning_rate=1e-12, evaluate_every=1, patience=2, max_steps=50)
    summary = train_model(settings, data_dir, tmp_path, watch_nothing)
    assert summary.stopped == "early"
    assert summary.steps < 50
    assert summary.steps == summary.best_step + 2


def test_a_validation_part_without_a_forecast_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """An outage ends just before validation begins, and the warm-up after it is as long as validation."""
    for seed, symbol in enumerate(("AAA", "BBB")):
        bars = random_bars(600, seed)
        hours = bars["timestamp"] // 3_600_000
        store_bars(tmp_path / "data", symbol, bars[(hours < 380) | (hours >= 400)].reset_index(drop=True))
    split = SplitConfig(validation="1970-01-17T16:00", test="1970-01-18T16:00")
    settings = tiny(warmup_bars=30).model_copy(update={"split": split})
    with pytest.raises(ConfigError) as refused:
        train_model(settings, tmp_path / "data", tmp_path / "runs", watch_nothing)
    assert str(refused.value) == (
        "split.validation: none of the 21 validation bars has both a forecast and a known target (a history begins "
        "anew after an outage, with 30 warm-up bars); move the boundary, lower training.warmup_bars, or raise "
        "panel.max_gap_bars"
    )
    assert not (tmp_path / "runs").exists()


def test_resuming_goes_on_when_older_bars_were_fetched_since(tmp_path: Path) -> None:
    for seed, symbol in enumerate(("AAA", "BBB")):
        store_bars(tmp_path / "data", symbol, random_bars(600, seed, first_hour=100))
    run = train_model(tiny(), tmp_path / "data", tmp_path / "runs", watch_nothing).run
    for seed, symbol in enumerate(("AAA", "BBB")):
        store_bars(tmp_path / "data", symbol, random_bars(100, seed))
    assert resume_training(tiny(max_steps=14), tmp_path / "data", run, watch_nothing).steps == 14


def test_resuming_on_other_bars_is_refused_and_on_newer_ones_is_not(data_dir: Path, tmp_path: Path) -> None:
    run = train_model(tiny(), data_dir, tmp_path / "runs", watch_nothing).run
    for seed, symbol in enumerate(("AAA", "BBB")):
        store_bars(tmp_path / "longer", symbol, random_bars(700, seed))
        store_bars(tmp_path / "other", symbol, random_bars(600, seed + 7))
    assert resume_training(tiny(), tmp_path / "longer", run, watch_nothing).stopped == "completed"
    with pytest.raises(DataError) as refused:
        resume_training(tiny(), tmp_path / "other", run, watch_nothing)
    assert str(refused.value) == (
        f"{run.path}: the stored bars of AAA, BBB are not those that this run was trained on; train a new run, or "
        "bring the old bars back"
    )


def test_only_the_length_of_a_training_may_change_on_resuming(data_dir: Path, tmp_path: Path) -> None:
    run = train_model(tiny(), data_dir, tmp_path, watch_nothing).run
    longer = resume_training(tiny(max_steps=16), data_dir, run, watch_nothing)
    assert longer.steps == 16
    assert run.experiment.training.max_steps == 16
    with pytest.raises(ConfigError, match=r"training\.learning_rate can't change"):
        resume_training(tiny(max_steps=16, learning_rate=0.5), data_dir, run, watch_nothing)


def test_a_context_longer_than_the_data_is_a_config_error(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.segment_bars: a segment has 4096 bars, but the longest stretch"):
        train_model(tiny(segment_bars=4096), data_dir, tmp_path / "runs", watch_nothing)
    assert not (tmp_path / "runs").exists()


def test_missing_bars_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="flashtrader fetch --source file"):
        train_model(tiny(), tmp_path / "data", tmp_path / "runs", watch_nothing)


def test_tensorboard_gets_the_same_numbers(data_dir: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train_model(tiny(tensorboard=True, max_steps=4), data_dir, tmp_path, watch_nothing).run
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    written = [row["train_loss"] for row in read_json_lines(run.metrics)]
    assert [event.value for event in events.Scalars("train_loss")] == pytest.approx(written)


def test_missing_tensorboard_is_a_config_error(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError) as refused:
        train_model(tiny(tensorboard=True), data_dir, tmp_path / "runs", watch_nothing)
    assert str(refused.value) == (
        "training.tensorboard: not installed; pip install 'flashtrader[tracking]', or set it to false"
    )
    assert not (tmp_path / "runs").exists()


def test_metrics_survive_as_strict_json(data_dir: Path, tmp_path: Path) -> None:
    run = train_model(tiny(), data_dir, tmp_path, watch_nothing).run
    for line in run.metrics.read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(name))
    assert np.isfinite(read_json_lines(run.metrics)[0]["train_loss"])
