"""Bars on disk: Parquet parts that are only ever extended, and the ledger beside them.

`<data_dir>/<source>/<symbol>/<interval>/` holds `bars-<time>.parquet`, each a fixed stretch of 20,000 bars from that
opening time on, so that an append rewrites only the parts that it touches, `ledger.json`, and `profile.npz`, by which
the gaps of a long history are found without reading it.

One writer at a time holds the directory's lock, which the system takes back from a process that dies. Readers take
no lock: a part is replaced in one step. A write goes ledger (not examined, these parts changed) → parts → ledger
(answered), so wherever it is killed, the ledger claims no bar that is not there; at worst the next fetch asks again
for some that are. Then the history is examined: profile (from the parts that changed) → ledger (examined).
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd

from flashtrader.config import DataConfig
from flashtrader.errors import ConfigError, DataError
from flashtrader.files import listed, write_json
from flashtrader.interval import Interval
from flashtrader.market.bars import Bars, no_bars, validate_bars
from flashtrader.market.ledger import Ledger
from flashtrader.market.parts import part_time, read_part, write_part, writing
from flashtrader.market.profile import Profile
from flashtrader.market.records import read_ledger_file
from flashtrader.market.spans import Span, iso_time

__all__ = ["Series", "Span", "Store", "load_bars", "stored_source"]

BARS_PER_PART = 20_000
PROFILE = "profile.npz"
_DAMAGED = "set it aside and fetch its bars again with `flashtrader fetch --check --repair`"


@dataclass(frozen=True)
class Series:
    """One history: the bars of one interval of one symbol from one source."""

    kind: ClassVar[Literal["bars"]] = "bars"
    """What --kind calls it."""
    source: str
    """Stored name: bybit, bybit-spot, yahoo, file, simulated, simulated-noise."""
    symbol: str
    interval: Interval

    def __post_init__(self) -> None:
        check_symbol(self.symbol)

    def __str__(self) -> str:
        return f"{self.symbol} {self.interval.code} from {self.source}"

    @property
    def fetch_command(self) -> str:
        """The command that gets it."""
        source, _, variant = self.source.partition("-")
        options = {"spot": " --category spot", "noise": " --noise-only"}.get(variant, "")
        path = " --path FILES" if source == "file" else ""
        what = f"--symbols {self.symbol} --interval {self.interval.code}"
        return f"flashtrader fetch --source {source}{options}{path} {what}"


class Store:
    """Every stored history below one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir

    def directory(self, series: Series) -> Path:
        """Return where a history lies, or would."""
        return self.data_dir / series.source / series.symbol / series.interval.code

    def read(self, series: Series, start_ms: int | None = None, end_ms: int | None = None) -> Bars:
        """Return the bars that open in [`start_ms`, `end_ms`), validated; None is everything stored.

        Raises DataError when there is none, with the command that gets them, and for a damaged part.
        """
        bars = self._bars(series, start_ms, end_ms)
        if not bars.empty:
            return bars
        directory = self.directory(series)
        ledger = self.ledger(series)
        if ledger.first_ms is None or ledger.last_ms is None:
            raise DataError(f"{directory}: no bars of {series}; get them with `{series.fetch_command}`")
        raise DataError(
            f"{directory}: no bars of {series} in the time asked for; stored are "
            f"{iso_time(ledger.first_ms)} to {iso_time(ledger.last_ms)}"
        )

    def append(self, series: Series, bars: Bars, answered: Span) -> int:
        """Store all bars that the source has in `answered`; return how many are new. Rows already stored win.

        Raises DataError for bars that are invalid or not in `answered`, before anything is written.
        """
        bars = validate_bars(bars, series.interval, str(series))
        timestamps = bars["timestamp"].to_numpy()
        if len(bars) and not (answered.start_ms <= timestamps[0] and timestamps[-1] < answered.end_ms):
            raise DataError(f"{series}: bars outside {answered}, the time that they answer for; the source is at fault")
        directory = self.directory(series)
        with writing(directory):
            numbers = series.interval.index(timestamps) // BARS_PER_PART
            cuts = np.flatnonzero(np.diff(numbers)) + 1
            parts = np.split(np.arange(len(bars)), cuts) if len(bars) else []
            names = [part_name(int(timestamps[rows[0]]), series.interval) for rows in parts]
            ledger = self.recorded(series).with_change(names)
            self._write_ledger(series, ledger)
            added = sum(self._merge(directory, bars.iloc[rows], series.interval) for rows in parts)
            self._write_ledger(series, ledger.with_answer(answered))
        return added

    def record_failure(self, series: Series, span: Span, error: str) -> None:
        """Note that the source failed to answer `span`."""
        with writing(self.directory(series)):
            self._write_ledger(series, self.recorded(series).with_failure(span, error))

    def examine(self, series: Series) -> Ledger:
        """Write down rows, extent and gaps as the bars now are, and return the ledger."""
        with writing(self.directory(series)):
            recorded = self.recorded(series)
            profile = self._profile(series, recorded)
            profile.write(self.directory(series) / PROFILE)
            ledger = self._examined(series, recorded, profile)
            self._write_ledger(series, ledger)
        return ledger

    def recorded(self, series: Series) -> Ledger:
        """Return the ledger as last written, perhaps not examined; the time of a part that is gone is not answered."""
        directory = self.directory(series)
        ledger = read_ledger(directory / "ledger.json")
        gone = set(ledger.parts) - {path.name for path in part_paths(directory)}
        return ledger.without([part_span(directory / name, series.interval) for name in gone]) if gone else ledger

    def ledger(self, series: Series) -> Ledger:
        """Return the ledger, examined; of a history that isn't there, an empty one."""
        ledger = self.recorded(series)
        return ledger if ledger.examined else self._examined(series, ledger, self._profile(series, ledger))

    def beside(self, series: Series, time_ms: int, num_bars: int) -> tuple[Bars, Bars]:
        """Return the last stored bars that open before a time, and the first from it on: `num_bars` each if there."""
        paths = part_paths(self.directory(series))
        after = [path for path in paths if time_ms < part_span(path, series.interval).end_ms]
        before = [path for path in paths if part_span(path, series.interval).start_ms < time_ms]

        def nearest(paths: Sequence[Path], side: Callable[[Bars], Bars]) -> Bars:
            bars = no_bars()
            for path in paths:
                bars = side(pd.concat([bars, read_bars(path, series.interval)]).sort_values("timestamp"))
                if len(bars) == num_bars:
                    break
            return bars

        return (
            nearest(before[::-1], lambda bars: bars[bars["timestamp"] < time_ms].tail(num_bars)),
            nearest(after, lambda bars: bars[bars["timestamp"] >= time_ms].head(num_bars)),
        )

    def _profile(self, series: Series, ledger: Ledger) -> Profile:
        """Return the profile of the bars as they are; only the parts that changed since it was written are read."""
        directory, interval = self.directory(series), series.interval
        written, known = Profile.read(directory / PROFILE), set(ledger.parts) - set(ledger.changed)
        pieces = []
        for path in part_paths(directory):
            span = part_span(path, interval)
            piece = written.between(*interval.index(np.array([span.start_ms, span.end_ms])).tolist())
            stale = path.name not in known or not len(piece.index)
            pieces.append(Profile.of(read_bars(path, interval), interval) if stale else piece)
        return Profile.joined(pieces)

    def _examined(self, series: Series, ledger: Ledger, profile: Profile) -> Ledger:
        return ledger.examine(profile, series.interval, series.source, self._outages_elsewhere(series))

    def _outages_elsewhere(self, series: Series) -> dict[str, Sequence[Span]]:
        outages: dict[str, Sequence[Span]] = {}
        for path in sorted((self.data_dir / series.source).glob(f"*/{series.interval.code}/ledger.json")):
            symbol = path.parents[1].name
            if symbol != series.symbol:
                with suppress(DataError):  # one market's damaged ledger holds up no other
                    gaps = read_ledger(path).gaps
                    outages[symbol] = [gap.span for gap in gaps if gap.reason == "outage"]
        return outages

    def _bars(self, series: Series, start_ms: int | None = None, end_ms: int | None = None) -> Bars:
        parts = []
        for path in part_paths(self.directory(series)):
            span = part_span(path, series.interval)
            if (end_ms is None or span.start_ms < end_ms) and (start_ms is None or start_ms < span.end_ms):
                parts.append(read_bars(path, series.interval))
        if not parts:
            return no_bars()
        bars = pd.concat(parts, ignore_index=True)
        timestamps = bars["timestamp"].to_numpy()
        first = 0 if start_ms is None else np.searchsorted(timestamps, start_ms)
        last = len(bars) if end_ms is None else np.searchsorted(timestamps, end_ms)
        return bars.iloc[first:last].reset_index(drop=True)

    def _merge(self, directory: Path, bars: Bars, interval: Interval) -> int:
        """Add to one part those of its bars that it lacks; return how many."""
        path = directory / part_name(int(bars["timestamp"].iloc[0]), interval)
        stored = read_bars(path, interval) if path.exists() else no_bars()
        new = bars[~np.isin(bars["timestamp"].to_numpy(), stored["timestamp"].to_numpy())]
        if len(new):
            merged = pd.concat([stored, new]) if len(stored) else new
            write_part(path, merged.sort_values("timestamp"))
        return len(new)

    def _write_ledger(self, series: Series, ledger: Ledger) -> None:
        directory = self.directory(series)
        names = tuple(path.name for path in part_paths(directory))
        write_json(directory / "ledger.json", replace(ledger, parts=names).to_json())


def stored_source(data: DataConfig) -> str:
    """Return the name under which the bars of a config are stored."""
    if data.source == "bybit" and data.category == "spot":
        return "bybit-spot"
    return "simulated-noise" if data.source == "simulated" and data.noise_only else data.source


def check_symbol(symbol: str) -> None:
    """Raise ConfigError for a symbol that can't name a directory."""
    if not re.fullmatch(r"[\w^&=][\w^&=+:.-]*", symbol):
        raise ConfigError(f"symbol {symbol!r} can't name a directory: use letters, digits and ^ & = + : . - _")


def time_asked(data: DataConfig) -> tuple[int | None, int | None]:
    """Return `start` and `end` of a config in ms."""
    start_ms, end_ms = (None if time is None else _milliseconds(time) for time in (data.start, data.end))
    return start_ms, end_ms


def load_bars(data: DataConfig, data_dir: Path) -> dict[str, Bars]:
    """Return the stored bars of every symbol of a config, in [`start`, `end`). Raises DataError where there is none."""
    store, source, interval = Store(data_dir), stored_source(data), Interval.parse(data.interval)
    return {symbol: store.read(Series(source, symbol, interval), *time_asked(data)) for symbol in data.symbols}


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1_000)


def part_paths(directory: Path) -> list[Path]:
    """Return the parts of a history, in order of time."""
    return listed(directory, "bars-*.parquet")


def part_name(timestamp: int, interval: Interval) -> str:
    """Return the name of the part that holds a bar."""
    number = interval.index(np.array([timestamp])) // BARS_PER_PART
    opening = np.datetime64(int(interval.opening(number * BARS_PER_PART)[0]), "ms")
    return f"bars-{np.datetime_as_string(opening, unit='m').replace('-', '').replace(':', '')}Z.parquet"


def part_span(path: Path, interval: Interval) -> Span:
    """Return the time that a part holds. Raises DataError for a file that is not named as a part is."""
    try:
        start_ms = part_time(path.name, "bars")
    except ValueError:
        raise DataError(f"{path}: not named as a part of a history is; move it elsewhere") from None
    end = interval.opening(interval.index(np.array([start_ms])) + BARS_PER_PART)
    return Span(start_ms, int(end[0]))


def read_bars(path: Path, interval: Interval) -> Bars:
    """Return the bars of one part, validated. Raises DataError when it is damaged."""
    span = part_span(path, interval)
    table = read_part(path, _DAMAGED)
    bars = validate_bars(table, interval, str(path), _DAMAGED)
    timestamps = bars["timestamp"]
    if len(bars) and not (span.start_ms <= timestamps.iloc[0] and timestamps.iloc[-1] < span.end_ms):
        raise DataError(f"{path}: holds bars outside {span}; {_DAMAGED}")
    return bars


def read_ledger(path: Path) -> Ledger:
    """Return a ledger as it was written; without a file an empty one. Raises DataError when it is damaged."""
    if not path.exists():
        return Ledger()
    advice = "set it aside with `flashtrader fetch --check --repair`, which keeps the stored bars"
    return read_ledger_file(path, Ledger.from_json, advice)
