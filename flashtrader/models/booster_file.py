"""A boosted model as bytes that depend on nothing but the model."""

import re
import zipfile
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingRegressor

_SCHEMA = "schema.json"
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
