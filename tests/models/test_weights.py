from pathlib import Path

import pytest
import torch

from flashtrader.errors import TrainingError
from flashtrader.models.weights import load_tensors, save_tensors

TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "step": torch.tensor(7), "random": torch.get_rng_state()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "best.safetensors"
    save_tensors(path, TENSORS, {"step": 7, "loss": 0.5})
    return path


def test_tensors_and_facts_come_back_as_they_were(path: Path) -> None:
    tensors, facts = load_tensors(path)
    assert facts == {"step": 7, "loss": 0.5}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize(
    ("kept", "reason"),
    [
        (0, "header too small"),
        (4, "header too small"),
        (100, "invalid header length"),
        (-8, "incomplete metadata, file not fully covered"),
    ],
)
def test_a_file_that_was_cut_off_is_named(path: Path, kept: int, reason: str) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(TrainingError) as refused:
        load_tensors(path)
    assert str(refused.value) == (
        f"{path}: damaged checkpoint (Error while deserializing header: {reason}); restore it from a copy, or train "
        "again"
    )


def test_a_single_flipped_bit_is_noticed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    with pytest.raises(TrainingError) as refused:
        load_tensors(path)
    assert str(refused.value) == (
        f"{path}: damaged checkpoint (its digest is wrong); restore it from a copy, or train again"
    )


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    with pytest.raises(TrainingError) as refused:
        load_tensors(path)
    assert str(refused.value) == (
        f"{path}: no such checkpoint; if the training was stopped before its first one, go on with `train --resume`, "
        "else restore a copy"
    )
