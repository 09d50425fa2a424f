"""A boosted model as bytes that depend on nothing but the model."""

import re
import zipfile
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingRegressor

_SCHEMA = "schema.json"
_TRUSTED_TYPES = ["sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"]
_IDENTITY = re.compile(rb'(?<="__id__": )\d+|(?<="file": ")\d+(?=\.npy")')


def booster_bytes(booster: "HistGradientBoostingRegressor") -> bytes:
    """Return what `skops.io.loads` reads back: the same bytes for the same model.

    skops names objects and files by where they lie in memory, and stamps them with the hour. Here they are numbered in
    order of appearance, in an archive without a time.
    """
    import skops.io

    with zipfile.ZipFile(BytesIO(skops.io.dumps(booster))) as written:
        schema, arrays = written.read(_SCHEMA), {name: written.read(name) for name in written.namelist()}
    numbers: dict[bytes, bytes] = {}

    def numbered(found: re.Match[bytes]) -> bytes:
        return numbers.setdefault(found[0], str(len(numbers)).encode())

    stable = {_SCHEMA: _IDENTITY.sub(numbered, schema)} | {
        f"{number.decode()}.npy": arrays[name]
        for identity, number in numbers.items()
        if (name := f"{identity.decode()}.npy") in arrays
    }
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in stable.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return packed.getvalue()


def load_booster(content: bytes, num_inputs: int) -> "HistGradientBoostingRegressor":
    """Return the booster that `booster_bytes` wrote, of so many inputs.

    Raises ValueError for anything else, or what skops raises. Trees are followed without a look at the bounds: one that
    leads out of its nodes or its inputs, or back, would read any memory or never end.
    """
    import skops.io
    from sklearn.ensemble import HistGradientBoostingRegressor

    with zipfile.ZipFile(BytesIO(content)) as packed:
        if sum(member.file_size for member in packed.infolist()) > len(content):
            raise ValueError("its parts are larger than the whole")
    booster = skops.io.loads(content, trusted=_TRUSTED_TYPES)
    if type(booster) is not HistGradientBoostingRegressor or booster._preprocessor is not None:
        raise ValueError("not a booster of numbers")
    for tree in (tree for trees in booster._predictors for tree in trees):
        nodes = tree.nodes
        inner = nodes[nodes["is_leaf"] == 0]
        numbers = np.flatnonzero(nodes["is_leaf"] == 0)
        ends_ahead = all(((numbers < inner[side]) & (inner[side] < len(nodes))).all() for side in ("left", "right"))
        inside = ((inner["feature_idx"] >= 0) & (inner["feature_idx"] < num_inputs)).all()
        if not (len(nodes) and ends_ahead and inside) or nodes["is_categorical"].any():
            raise ValueError("a tree leads out of its nodes or its inputs")
    booster.predict(np.zeros((1, num_inputs), np.float32))
    return booster
