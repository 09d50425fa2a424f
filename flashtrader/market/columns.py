"""The columns of a table of unknown origin, in the types that the store keeps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flashtrader.errors import DataError

CORRECT = "correct or remove this row"
"""What to do about a wrong row in a file of the user's own."""
AT_FAULT = "the source is at fault; fetch again later"
"""What to do about one in an exchange's answer."""


def typed_columns(table: pd.DataFrame, numbers: Sequence[str], where: str) -> dict[str, NDArray[Any]]:
    """Return `timestamp` as int64 and the columns named in `numbers` as float64; each must be there.

    Raises DataError that begins with `where` for a column that is there twice or holds something else.
    """
    repeated = [name for name in ("timestamp", *numbers) if list(table.columns).count(name) > 1]
    if repeated:
        raise DataError(f"{where}: column {repeated[0]} is there twice; keep one")
    if table["timestamp"].dtype.kind not in "iu":
        raise DataError(
            f"{where}: column timestamp holds {table['timestamp'].dtype}; give whole milliseconds since 1970, UTC"
        )
    columns: dict[str, NDArray[Any]] = {"timestamp": table["timestamp"].to_numpy(np.int64)}
    for name in numbers:
        try:
            columns[name] = table[name].to_numpy(np.float64, na_value=np.nan)
        except (TypeError, ValueError) as error:
            raise DataError(f"{where}: column {name} holds something other than numbers ({error})") from None
    return columns
