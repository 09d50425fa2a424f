"""Whether what is stored is what was written: every file is read, checked, and compared with the ledger beside it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
import pandas as pd

from flashtrader.errors import DataError, UnreadableError
from flashtrader.files import listed, readable
from flashtrader.interval import Interval, IntervalCode
from flashtrader.market import book_store, funding_store
from flashtrader.market.book_ledger import find_runs
from flashtrader.market.book_store import BookSeries, BookStore, read_book_ledger
from flashtrader.market.books import num_levels, validate_books
from flashtrader.market.funding import validate_settlements
from flashtrader.market.funding_store import FundingStore, read_answered
from flashtrader.market.ledger import Ledger
from flashtrader.market.parts import has_checksum, read_part
from flashtrader.market.profile import Profile
from flashtrader.market.spans import Span, iso_time, union
from flashtrader.market.store import PROFILE, Series, Store, part_name, part_paths, part_span, read_bars, read_ledger

_REPAIR = "`flashtrader fetch --check --repair`"
Remedy = Literal[
    "fetch",  # set it aside, and ask the source again for what it held
    "set aside",
    "seal",  # write it again, with a checksum
    "examine",  # write the ledger anew from what is stored
    "none",  # it can't be read, and may be whole: leave it where it is
]


@dataclass(frozen=True)
class FundingSeries:
    """The stored funding of one market."""

    kind: ClassVar[Literal["funding"]] = "funding"
    """What --kind calls it."""
    source: str
    symbol: str

    def __str__(self) -> str:
        return f"funding of {self.symbol} from {self.source}"


History = Series | BookSeries | FundingSeries


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with one file."""

    path: Path
    problem: str
    """One line, which begins with the file."""
    remedy: Remedy
    spans: tuple[Span, ...] | None = None
    """The time that it held and that is to be asked for again; None is all of the history's."""


@dataclass(frozen=True)
class Audit:
    """What was found of one history."""

    history: History
    parts: int
    rows: int
    """In the parts that are whole."""
    findings: tuple[Finding, ...]


def stored_histories(data_dir: Path) -> Iterator[History]:
    """Yield everything that is stored below a data directory.

    Raises UnreadableError for a source's or a market's directory of which the system doesn't tell what is in it.
    """
    directories = [path for source in listed(data_dir) for market in listed(source) for path in listed(market)]
    for directory in directories:
        source, symbol, name = directory.parts[-3:]
        if not _may_hold_something(directory):
            continue
        if name == "funding":
            yield FundingSeries(source, symbol)
        elif name in get_args(IntervalCode):
            yield Series(source, symbol, Interval.parse(name))
        elif name.startswith("book-") and name.removeprefix("book-").isdecimal():
            yield BookSeries(source, symbol, int(name.removeprefix("book-")))


def directory_of(data_dir: Path, history: History) -> Path:
    """Return where a history lies."""
    if history.kind == "bars":
        return Store(data_dir).directory(history)
    if history.kind == "orderbook":
        return BookStore(data_dir).directory(history)
    return FundingStore(data_dir).directory(history.source, history.symbol)


def _may_hold_something(directory: Path) -> bool:
    try:
        return bool(listed(directory, "*.parquet") or listed(directory, "ledger.json"))
    except UnreadableError:  # which the audit tells of
        return True


def audit(data_dir: Path, history: History) -> Audit:
    """Read and check all of a history: checksums, columns, order, grid, values, overlaps, and what the ledger says.

    Nothing is written, and no lock is taken. A fetch that was killed leaves a ledger that is not examined and a part
    that it does not know, or a directory with neither: that is no damage, and the next fetch goes on from there.
    """
    directory = directory_of(data_dir, history)
    try:
        with readable(directory):
            if history.kind == "bars":
                return _audit_bars(directory, history)
            if history.kind == "orderbook":
                return _audit_books(directory, history)
            return _audit_funding(directory, history)
    except UnreadableError as error:
        return Audit(history, 0, 0, (_refused(directory, error, "none"),))


def _audit_bars(directory: Path, series: Series) -> Audit:
    interval = series.interval
    path, paths = directory / "ledger.json", part_paths(directory)
    findings: list[Finding] = []
    profiles = []
    ledger, kept = Ledger(), Profile.joined([])
    try:
        ledger = read_ledger(path)
        if paths and not path.exists():
            problem = f"{path}: is gone, and with it what the source has answered; ask it again with {_REPAIR}"
            findings.append(Finding(path, problem, "fetch"))
    except DataError as error:
        findings.append(_refused(path, error, "fetch"))
    try:
        kept = Profile.read(directory / PROFILE)
    except UnreadableError as error:
        findings.append(_refused(directory / PROFILE, error, "examine"))

    def answered(span: Span) -> tuple[Span, ...]:
        return union(span & known for known in ledger.answered)

    for part in paths:
        try:
            span = part_span(part, interval)
        except DataError as error:
            findings.append(_refused(part, error, "set aside"))
            continue
        if part.name != part_name(span.start_ms, interval):
            at = iso_time(span.start_ms)
            problem = f"{part}: overlaps another part: none begins at {at}; set it aside with {_REPAIR}"
            findings.append(Finding(part, problem, "set aside"))
            continue
        try:
            bars = read_bars(part, interval)
            findings += _unsealed(part)
        except DataError as error:
            findings.append(_refused(part, error, "fetch", answered(span) or (span,)))
            continue
        profiles.append(Profile.of(bars, interval))
    profile = Profile.joined(profiles)
    for part in [directory / name for name in ledger.parts]:
        if not part.exists():
            problem = f"{part}: is gone; fetch its bars again with {_REPAIR}"
            findings.append(Finding(part, problem, "fetch", answered(part_span(part, interval))))
    if not findings and ledger.examined:
        wrong = _disagreements(ledger, profile, series, path, kept)
        try:
            # Else a writer has been at work since the ledger was read.
            findings += wrong if read_ledger(path) == ledger else []
        except DataError as error:
            findings.append(_refused(path, error, "fetch"))
    return Audit(series, len(paths), len(profile.index), tuple(findings))


def _disagreements(ledger: Ledger, profile: Profile, series: Series, path: Path, kept: Profile) -> list[Finding]:
    """Return what an examined ledger, or the kept profile, says that the bars don't."""
    true = ledger.examine(profile, series.interval, series.source, {})

    def said(ledger: Ledger) -> dict[str, object]:
        gaps = [(gap.start_ms, gap.end_ms) for gap in ledger.gaps]
        return {"rows": ledger.rows, "first bar": ledger.first_ms, "last bar": ledger.last_ms, "gaps": gaps}

    wrong = [what for what, value in said(ledger).items() if value != said(true)[what]]
    problem = f"{path}: its {', '.join(wrong)} are not those of the bars; write it anew with {_REPAIR}"
    findings = [Finding(path, problem, "examine")] if wrong else []
    columns = ((kept.index, profile.index), (kept.flat, profile.flat), (kept.traded, profile.traded))
    if not all(np.array_equal(*pair) for pair in columns):
        kept_at = path.with_name(PROFILE)
        problem = f"{kept_at}: is not the profile of the bars; write it anew with {_REPAIR}"
        findings.append(Finding(kept_at, problem, "examine"))
    return findings


def _audit_books(directory: Path, series: BookSeries) -> Audit:
    path = directory / "ledger.json"
    findings: list[Finding] = []
    stored = pd.DataFrame({"timestamp": np.empty(0, np.int64), "gap_before": np.empty(0, bool)})
    paths = listed(directory, "books-*.parquet")
    for part in paths:
        try:
            books = validate_books(read_part(part, book_store.DAMAGED), str(part), book_store.DAMAGED)
            timestamps = books["timestamp"]
            if timestamps.empty:
                raise DataError(f"{part}: holds no snapshot; {book_store.DAMAGED}")
            if num_levels(books) != series.levels:
                raise DataError(f"{part}: holds {num_levels(books)} levels; {book_store.DAMAGED}")
            if part.name != book_store.part_name(int(timestamps.iloc[0])):
                raise DataError(f"{part}: is not named after its first snapshot; {book_store.DAMAGED}")
            twice = timestamps[timestamps.isin(stored["timestamp"])]
            if len(twice):
                at = iso_time(int(twice.iloc[0]), "ms")
                raise DataError(f"{part}: overlaps another part from {at} on; {book_store.DAMAGED}")
            findings += _unsealed(part)
        except DataError as error:
            findings.append(_refused(part, error, "set aside"))
            continue
        stored = pd.concat([stored, books[["timestamp", "gap_before"]]])
    try:
        ledger = read_book_ledger(path)
        gone = [path.parent / name for name in ledger.parts if not (path.parent / name).exists()]
        problem = f"is gone; mark its time as a gap with {_REPAIR}"
        findings += [Finding(part, f"{part}: {problem}", "examine") for part in gone]
        if not findings and ledger.examined:
            stored = stored.sort_values("timestamp")
            begins = stored["gap_before"] | stored["timestamp"].isin([run.first_ms for run in ledger.runs])
            runs = find_runs(stored.assign(gap_before=begins), {})
            extents = [[(run.first_ms, run.last_ms, run.rows) for run in some] for some in (runs, ledger.runs)]
            if extents[0] != extents[1] and read_book_ledger(path) == ledger:
                problem = f"{path}: its runs are not those of the snapshots; write it anew with {_REPAIR}"
                findings.append(Finding(path, problem, "examine"))
    except DataError as error:
        findings.append(_refused(path, error, "set aside"))
    return Audit(series, len(paths), len(stored), tuple(findings))


def _audit_funding(directory: Path, series: FundingSeries) -> Audit:
    part, path = directory / "funding.parquet", directory / "ledger.json"
    findings: list[Finding] = []
    spans: tuple[Span, ...] | None = None
    rows = 0
    try:
        spans = read_answered(path) or None
    except DataError as error:
        findings.append(_refused(path, error, "fetch"))
    try:
        if not part.exists():
            raise DataError(f"{part}: is gone; fetch it again with {_REPAIR}")
        rows = len(validate_settlements(read_part(part, funding_store.DAMAGED), str(part), funding_store.DAMAGED))
        findings += _unsealed(part)
    except DataError as error:
        findings.append(_refused(part, error, "fetch", spans))
    return Audit(series, 1, rows, tuple(findings))


def _refused(path: Path, error: DataError, remedy: Remedy, spans: tuple[Span, ...] | None = None) -> Finding:
    """Return the finding of a file that was refused, which is no reason to move it if it could not even be read."""
    return Finding(path, str(error), "none" if isinstance(error, UnreadableError) else remedy, spans)


def _unsealed(part: Path) -> list[Finding]:
    problem = f"{part}: has no checksum, so that damage would not be seen; give it one with {_REPAIR}"
    return [] if has_checksum(part) else [Finding(part, problem, "seal")]
