"""Tensors on disk: safetensors with a digest, so that a damaged file is noticed and none can run code."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, uint8

from flashtrader.errors import TrainingError
from flashtrader.files import replacing


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Replace `path` by the tensors and by `facts` (anything that JSON holds), in one step.

    Raises OSError, with the old file intact, when the disk is full or refuses.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    told = json.dumps(facts)
    try:
        with replacing(path) as temporary:
            save_file(stored, temporary, metadata={"facts": told, "sha256": _file_digest(stored, told)})
    except SafetensorError as error:
        refusal = re.search(r"os error (\d+)", str(error))
        if refusal is None:
            raise
        raise OSError(int(refusal[1]), os.strerror(int(refusal[1])), str(path)) from None


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and facts of a file. Raises TrainingError when it is missing or damaged."""
    if not path.is_file():
        raise TrainingError(
            f"{path}: no such checkpoint; if the training was stopped before its "
            "first one, go on with `train --resume`, else restore a copy"
        )
    try:
        with safe_open(path, framework="pt") as opened:
            header = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        facts = json.loads(header["facts"])
        expected = header["sha256"]
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise TrainingError(f"{path}: damaged checkpoint ({error}); restore it from a copy, or train again") from None
    if expected != _file_digest(tensors, header["facts"]):
        raise TrainingError(f"{path}: damaged checkpoint (its digest is wrong); restore it from a copy, or train again")
    return tensors, facts


def _file_digest(tensors: Mapping[str, Tensor], facts: str) -> str:
    return hashlib.sha256(f"{tensors_digest(tensors)} {facts}".encode()).hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of names, types, shapes and values: equal where every bit of them is."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(uint8).numpy().tobytes())
    return digest.hexdigest()
