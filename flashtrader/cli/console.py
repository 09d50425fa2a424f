"""What every command shares: options, tables, progress, `--json`, and how an error ends."""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashtrader.launch import rank

if TYPE_CHECKING:
    from rich.table import Table as RichTable

DataDir = Annotated[Path, typer.Option("--data-dir", help="Where market data is stored.")]
RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Where runs are written.")]
UnusedDir = Annotated[Path, typer.Option(help="Taken by every command; not used by this one.", hidden=True)]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else there.")
]
ConfigPath = Annotated[
    Path | None, typer.Option("--config", "-c", help="The experiment's YAML file.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key: section.key=value; may be repeated.", show_default=False),
]
RunName = Annotated[
    str | None,
    typer.Option("--run", "-r", help="A run's name or path; the newest one unless given.", show_default=False),
]

EXIT_CODES = {"interrupted": 130, "terminated": 143}
"""Of a command that a signal stopped, as a shell has them: 128 and the number of the signal."""
_LEAST_WIDTH = 80
"""Of a table that needs it, in a terminal of fewer columns, which breaks its lines: drawn narrower, cells vanish."""
_LONGEST_ERROR = 2_000
_FIRST_SPEAKS_SECONDS = 3
"""What goes wrong in one of several processes mostly does in all: the first says so, and torchrun ends the others."""


@dataclass(frozen=True)
class Table:
    """Rows for people to read; the first column is text, the others are right-aligned."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def show(
    tables: Sequence[Table],
    payload: dict[str, Any],
    as_json: bool,
    notes: Sequence[str] = (),
    headline: str | None = None,
) -> None:
    """Print a command's result: as a headline, tables and notes, or as one JSON object."""
    if rank() > 0:
        return
    if as_json:
        from flashtrader.files import finite

        typer.echo(json.dumps(finite(payload), indent=2, allow_nan=False))
        return
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    drawn = [_drawn(table) for table in tables]
    unbounded = console.options.update(max_width=_LEAST_WIDTH)
    console.width = max(console.width, *(console.measure(table, options=unbounded).minimum for table in drawn), 1)
    if headline is not None:
        console.print(headline, soft_wrap=True, markup=False, style="bold")
        console.print()
    for table in drawn:
        console.print(table)
    for note in notes:
        console.print(note, soft_wrap=True)


def _drawn(table: Table) -> "RichTable":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable

    drawn = RichTable(
        title=table.title,
        title_justify="left",
        title_style="bold",
        header_style="",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for index, column in enumerate(table.columns):
        drawn.add_column(column, justify="right" if index else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*row)
    return drawn


def milliseconds(option: str, text: str | None) -> int | None:
    """Return an option's time, UTC, as ms since the epoch. Raises ConfigError when it is none."""
    from datetime import datetime

    from flashtrader.config import utc
    from flashtrader.errors import ConfigError

    if text is None:
        return None
    try:
        moment = utc(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None
    assert isinstance(moment, datetime)
    return round(moment.timestamp() * 1000)


def say(line: str) -> None:
    """Print a line of progress or explanation on standard error."""
    if rank() == 0:
        typer.echo(line, err=True)


def fail(message: str, exit_code: int) -> None:
    """Say on one line what went wrong, and end the process.

    What a file of unknown origin has put into the message can neither steer the terminal nor fill it.
    """
    from flashtrader.errors import printable

    line = printable(" ".join(message.split()))
    line = line if len(line) <= _LONGEST_ERROR else line[:_LONGEST_ERROR] + " …"
    if rank() == 0:
        say("error: " + line)
    else:
        time.sleep(_FIRST_SPEAKS_SECONDS)
        typer.echo(f"error: process {rank()}: {line}", err=True)
    sys.exit(exit_code)


def fail_for(failures: Iterable[str | None]) -> None:
    """Say of each that failed why, on a line, and end the process with 1; None is one that did not."""
    told = [failure for failure in failures if failure is not None]
    for failure in told:
        say(f"error: {failure}")
    if told:
        sys.exit(1)
