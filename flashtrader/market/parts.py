"""Parquet parts in one directory: written whole or not at all, by one writer at a time."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from flashtrader.errors import DataError, first_line
from flashtrader.files import readable, replacing

_CHECKSUM = b"sha256"
_ZEROS = b"0" * 64

PartKind = Literal["bars", "books"]
_DAY_AND_MINUTE = r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)"
_NAMES = {
    "bars": (re.compile(rf"bars-{_DAY_AND_MINUTE}Z\.parquet", re.ASCII), "{}-{}-{}T{}:{}"),
    "books": (re.compile(rf"books-{_DAY_AND_MINUTE}(\d\d)(\d{{3}})Z\.parquet", re.ASCII), "{}-{}-{}T{}:{}:{}.{}"),
}


def part_time(name: str, kind: PartKind) -> int:
    """Return in ms the time in the name of a part. Raises ValueError for any other name."""
    pattern, time = _NAMES[kind]
    match = pattern.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not the name of a part")
    return int(np.datetime64(time.format(*match.groups()), "ms").astype(np.int64))


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory, made if need be; a disk that refuses is a DataError.

    The system takes the lock back from a process that dies, whose half-written files are removed by the next writer.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / ".lock"):
            for leftover in directory.glob(".*.part"):
                leftover.unlink()
            yield
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{directory}: can't be written ({reason}); what is stored is unharmed") from error


def write_part(path: Path, table: pd.DataFrame) -> None:
    """Replace `path` by `table` in one step.

    The file's metadata hold its own checksum: the sha256 of all its bytes with zeros where the checksum is. So no kill
    can come between a file and its checksum, and no byte of it can change unseen.
    """
    columns = pa.Table.from_pandas(table, preserve_index=False)
    floats = [field.name for field in columns.schema if pa.types.is_floating(field.type)]
    options = {"compression": "zstd", "use_dictionary": False, "use_byte_stream_split": floats}
    sink = pa.BufferOutputStream()
    pq.write_table(columns.replace_schema_metadata({_CHECKSUM: _ZEROS}), sink, **options)
    data = sink.getvalue().to_pybytes()
    before, _, after = data.rpartition(_ZEROS)
    with replacing(path) as temporary:
        temporary.write_bytes(before + _sha256(data) + after)


def read_part(path: Path, advice: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return what a part holds, or some columns of it.

    Raises DataError, which ends in `advice`, when it is damaged, and UnreadableError. A part without a checksum is
    taken as it is.
    """
    with _undamaged(path, advice):
        data = path.read_bytes()
        checksum = _checksum(data)
        if checksum and _sha256(_ZEROS.join(data.rsplit(checksum, 1))) != checksum:
            raise DataError(f"{path}: damaged (its bytes don't match its checksum); {advice}")
        table: pd.DataFrame = pq.ParquetFile(BytesIO(data)).read(columns).to_pandas()
        return table


def has_checksum(path: Path) -> bool:
    """Tell whether a whole part says what its bytes should be. Raises UnreadableError."""
    with readable(path):
        return _checksum(path.read_bytes()) is not None


def set_aside(path: Path) -> Path:
    """Rename a damaged file so that no reader takes it, within `writing`; return its new path."""
    aside = next(aside for number in count() if not (aside := path.with_name(f"{path.name}.damaged-{number}")).exists())
    path.rename(aside)
    return aside


def first_and_last(path: Path, column: str, advice: str) -> tuple[int, int]:
    """Return the least and greatest value of a part's column of whole numbers, without reading it; as `read_part`."""
    with _undamaged(path, advice):
        metadata = pq.read_metadata(path)
        place = metadata.schema.names.index(column)
        groups = [metadata.row_group(group).column(place).statistics for group in range(metadata.num_row_groups)]
        return min(group.min for group in groups), max(group.max for group in groups)


def _checksum(data: bytes) -> bytes | None:
    """Return what the metadata of a part say its checksum is."""
    return (pq.read_metadata(BytesIO(data)).metadata or {}).get(_CHECKSUM)


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


@contextmanager
def _undamaged(path: Path, advice: str) -> Iterator[None]:
    try:
        with readable(path):
            yield
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: damaged ({first_line(error)}); {advice}") from None
