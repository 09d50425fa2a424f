import errno
import os
import runpy
from pathlib import Path
from typing import Any

import pytest
from numba import njit
from numba.core.caching import IndexDataCacheFile

from flashtrader.compiled import compiled


def test_what_can_be_kept_nowhere_is_compiled_all_the_same() -> None:
    """As in a container whose user has no home, and did not install the program."""
    names: dict[str, Any] = {}
    exec("def double(number): return 2 * number", names)
    double = names["double"]
    with pytest.raises(RuntimeError, match="no locator available"):
        njit(cache=True)(double)
    assert compiled()(double)(3) == 6


def test_a_full_disk_and_a_damaged_file_leave_it_without_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its first call, too, when what has no signature is compiled."""
    module = tmp_path / "doubles.py"
    module.write_text("from flashtrader.compiled import compiled\n@compiled()\ndef double(n): return 2 * n\n")

    def double() -> Any:
        return runpy.run_path(str(module))["double"]

    with monkeypatch.context() as patch:
        patch.setattr(IndexDataCacheFile, "_save_data", no_room)
        assert double()(3) == 6
    assert double()(3) == 6
    kept = [path for path in (tmp_path / "__pycache__").iterdir() if path.suffix in (".nbi", ".nbc")]
    assert len(kept) == 2
    for path in kept:
        path.write_bytes(b"")
    assert double()(3) == 6


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
