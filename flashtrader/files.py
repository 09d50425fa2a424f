"""Files that are either whole or not there: write aside, flush to disk, replace."""

import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from flashtrader.errors import ConfigError, DataError, UnreadableError

_MOST_JSON_BYTES = 2**28


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path` in one step, on an error it is removed.

    Readers see the old file or the new one, never a part. Parent directories are made. Raises ConfigError for a path at
    which there is something else than a file, a device say, which would be lost; an OSError names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: not a file that can be replaced; give another path")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            _flush(temporary)
            temporary.replace(path)
            _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def remove_parts(directory: Path) -> None:
    """Remove what processes that were killed while they replaced a file left in a directory and below."""
    for part in directory.rglob(".*.part"):
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text`, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as indented JSON; a number that is not finite becomes null."""
    write_text(path, json.dumps(finite(value), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return what `path` holds. Raises DataError when it is missing or is not JSON, UnreadableError as `readable`."""
    if not path.is_file():
        raise DataError(f"{path}: missing, or not a file")
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged, not readable as JSON ({error})") from None


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file with one on each line; a last line that was cut off is left out."""
    if not path.is_file():
        return []
    try:
        *whole, _cut = _text(path).split("\n")
        return [_object(line, number) for number, line in enumerate(whole, start=1)]
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: damaged, not readable as lines of JSON ({error}); restore it from a copy, or delete it"
        ) from None


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from None
    if not isinstance(row, dict):
        raise ValueError(f"line {number}: no object")  # noqa: TRY004
    return row


def _text(path: Path) -> str:
    with readable(path):
        num_bytes = path.stat().st_size
        if num_bytes > _MOST_JSON_BYTES:
            raise ValueError(f"{num_bytes:,} bytes, more than {_MOST_JSON_BYTES:,}")
        return path.read_text(encoding="utf-8")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn the system's refusal to read a file into an UnreadableError."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # a library's word for damage
            raise
        raise UnreadableError(f"{path}: can't be read ({error.strerror}); check the disk and the permissions") from None


def listed(directory: Path, pattern: str = "*") -> list[Path]:
    """Return what lies in a directory under names of a pattern, sorted; nothing where there is no such directory.

    Raises UnreadableError where the system doesn't let us look, which `Path.glob` takes for an empty directory.
    """
    with readable(directory):
        try:
            with os.scandir(directory) as entries:
                return sorted(directory / entry.name for entry in entries if fnmatchcase(entry.name, pattern))
        except (FileNotFoundError, NotADirectoryError):
            return []


def finite(value: Any) -> Any:
    """Return `value` with every float that JSON can't hold replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
