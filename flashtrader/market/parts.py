"""Parquet parts in one directory: written whole or not at all, by one writer at a time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from flashtrader.errors import DataError
from flashtrader.files import replacing


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
    """Replace `path` by `table` in one step."""
    columns = pa.Table.from_pandas(table, preserve_index=False)
    floats = [field.name for field in columns.schema if pa.types.is_floating(field.type)]
    options = {"compression": "zstd", "use_dictionary": False, "use_byte_stream_split": floats}
    with replacing(path) as temporary:
        pq.write_table(columns.replace_schema_metadata(), temporary, **options)


def read_part(path: Path, advice: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return what a part holds, or some columns of it. Raises DataError, which ends in `advice`, when it is damaged."""
    with _readable(path, advice):
        table: pd.DataFrame = pq.ParquetFile(path).read(columns).to_pandas()
        return table


def first_and_last(path: Path, column: str, advice: str) -> tuple[int, int]:
    """Return the least and greatest value of a part's column of whole numbers, without reading it; as `read_part`."""
    with _readable(path, advice):
        metadata = pq.read_metadata(path)
        place = metadata.schema.names.index(column)
        groups = [metadata.row_group(group).column(place).statistics for group in range(metadata.num_row_groups)]
        return min(group.min for group in groups), max(group.max for group in groups)


@contextmanager
def _readable(path: Path, advice: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged ({str(error).splitlines()[0]}); {advice}") from None
