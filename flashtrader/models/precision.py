"""Where a model runs, and in which precision."""

import torch
from torch import nn

from flashtrader.config import TrainingConfig
from flashtrader.errors import BackendError


def pick_device(config: TrainingConfig) -> torch.device:
    """Return the device that `training.device` means here. Raises BackendError for a GPU that is not there."""
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise BackendError("training.device is cuda, but PyTorch sees no CUDA device here; use auto or cpu")
    return torch.device("cuda" if available and config.device != "cpu" else "cpu")


def device_of(model: nn.Module) -> torch.device:
    """Return where a model's weights are."""
    return next(model.parameters()).device


def compute_dtype(config: TrainingConfig, device: torch.device) -> torch.dtype:
    """Return the type in which `training.precision` multiplies matrices on a device."""
    use_bf16 = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")
    return torch.bfloat16 if use_bf16 else torch.float32


def autocast(config: TrainingConfig, device: torch.device) -> torch.autocast:
    """Return the context in which the model computes; parameters stay fp32.

    `auto` is bf16 on a GPU. On a CPU without matrix units for it, bf16 trains two to three times slower than fp32.
    """
    enabled = compute_dtype(config, device) == torch.bfloat16
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
