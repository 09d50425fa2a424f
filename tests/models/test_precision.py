import pytest
import torch

from flashtrader.config import TrainingConfig
from flashtrader.errors import BackendError
from flashtrader.models.precision import pick_device


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_without_a_gpu_the_cpu_is_taken(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device(TrainingConfig(device=device)) == torch.device("cpu")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError) as refused:
        pick_device(TrainingConfig(device="cuda"))
    assert str(refused.value) == ("training.device is cuda, but PyTorch sees no CUDA device here; use auto or cpu")
