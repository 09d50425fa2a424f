from typing import Any

import pytest
from numba import njit

from flashtrader.compiled import compiled


def test_what_can_be_kept_nowhere_is_compiled_all_the_same() -> None:
    """As in a container whose user has no home, and did not install the program."""
    names: dict[str, Any] = {}
    exec("def double(number): return 2 * number", names)
    double = names["double"]
    with pytest.raises(RuntimeError, match="no locator available"):
        njit(cache=True)(double)
    assert compiled()(double)(3) == 6
