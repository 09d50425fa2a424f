"""A short campaign of kills, and that it would notice what it looks for."""

import sys
from pathlib import Path

import pytest

from flashtrader.files import write_text
from flashtrader.models.weights import load_tensors, save_tensors
from flashtrader.run import Run
from training_campaign import SMOKE, Place, damaged_files, forks, kill_trainings, moment, outcome

CHANGES = (
    "training.max_steps=30",
    "training.checkpoint_every=1",
    "training.plain_models=[]",
    "panel.features=[log_return]",
)


@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
def test_three_kills_lose_nothing(tmp_path: Path) -> None:
    campaign = kill_trainings(SMOKE / "returns.yaml", CHANGES, 3, 0, Place(tmp_path, forks()))
    assert campaign.kills == sum(campaign.moments.values()) == 3
    assert (campaign.identical, campaign.corrupt_files, campaign.different) == (True, [], [])
    assert campaign.steps == 30 * campaign.trainings

    run = Run(tmp_path / "undisturbed" / "returns-001")
    assert moment(run) == "after its end"
    assert moment(None) == "before there was a run"
    expected = outcome(run)
    best = run.checkpoints / "best.safetensors"
    tensors, facts = load_tensors(best)
    save_tensors(best, {name: tensor * 1.0000001 for name, tensor in tensors.items()}, facts)
    assert [part for part, made in outcome(run).items() if made != expected[part]] == ["checkpoints/best.safetensors"]
    best.write_bytes(best.read_bytes()[:-1])
    write_text(run.path / "manifest.json", "{}")
    assert len(damaged_files(tmp_path / "undisturbed")) == 2
