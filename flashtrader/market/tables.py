"""Tables of unknown origin, looked at before they are read: what would fill the memory, or is no table, is refused."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flashtrader.errors import SourceError

_MOST_BYTES = 4 * 2**30
_MOST_CELLS = 10**9
_MOST_COLUMNS = 20_000
# Of so many cells, prices take a byte or more each; a file that declares far more than it has room for is a bomb.
_MANY_CELLS, _MOST_CELLS_PER_BYTE = 10**7, 100
_HEADER_BYTES = 2**22


def refuse_absurd(path: Path) -> None:
    """Raise SourceError, naming the file, for a CSV or Parquet file that is absurdly large or not flat.

    What is damaged is left to whoever reads it; of Parquet raises what pyarrow raises.
    """
    num_bytes = path.stat().st_size
    if num_bytes > _MOST_BYTES:
        raise SourceError(f"{path}: {num_bytes / 2**30:.1f} GiB, more than {_MOST_BYTES / 2**30:g}; split it by market")
    if path.suffix.lower() == ".parquet":
        metadata = pq.read_metadata(path)
        _refuse_cells(path, num_bytes, metadata.num_rows, metadata.num_columns)
        nested = [field for field in metadata.schema.to_arrow_schema() if pa.types.is_nested(field.type)]
        if nested:
            kind = str(nested[0].type)
            told = kind if len(kind) <= 40 else kind[:40] + "…"
            raise SourceError(f"{path}: column {nested[0].name} holds {told}; save it with one value in each cell")
        return
    with path.open("rb") as opened:
        head = opened.read(_HEADER_BYTES)
    _refuse_columns(path, head.partition(b"\n")[0].count(b",") + 1)


def _refuse_cells(path: Path, num_bytes: int, num_rows: int, num_columns: int) -> None:
    _refuse_columns(path, num_columns)
    num_cells = num_rows * num_columns
    if num_cells > _MOST_CELLS:
        raise SourceError(f"{path}: more than {_MOST_CELLS:,} values; split it by market")
    if num_cells > max(_MANY_CELLS, _MOST_CELLS_PER_BYTE * num_bytes):
        raise SourceError(
            f"{path}: declares {num_cells:,} values in {num_bytes:,} bytes, too few for a market's; save it again"
        )


def _refuse_columns(path: Path, num_columns: int) -> None:
    if num_columns > _MOST_COLUMNS:
        raise SourceError(f"{path}: {num_columns:,} columns, more than {_MOST_COLUMNS:,}; split it by market")
