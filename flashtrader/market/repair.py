"""What an audit finds, put right: a damaged file is set aside, never deleted, and its time is fetched again."""

from dataclasses import dataclass
from pathlib import Path

from flashtrader.config import DataConfig
from flashtrader.errors import DataError, FlashtraderError
from flashtrader.market.audit import FundingSeries, History, audit, directory_of
from flashtrader.market.book_store import BookStore
from flashtrader.market.fetch import fetch
from flashtrader.market.fetch_funding import fetch_funding
from flashtrader.market.funding_store import FundingStore
from flashtrader.market.parts import read_part, set_aside, write_part, writing
from flashtrader.market.sources.opening import open_funding, open_source
from flashtrader.market.spans import Span
from flashtrader.market.store import PROFILE, Series, Store


@dataclass(frozen=True)
class Repair:
    """What was done about one history."""

    set_aside: tuple[Path, ...]
    """Where the damaged files are now."""
    fetched: int
    """Rows that came again from the source."""
    left: tuple[str, ...]
    """What is still wrong or missing, a line each."""


def repair(data_dir: Path, history: History, path: Path | None = None, base_url: str | None = None) -> Repair:
    """Put right what is wrong with a history once nobody else writes it: what was found before may be mended by now.

    A history of which a file can't be read is left as it is, and so is one from files that nobody names. A source
    that doesn't deliver leaves a hole, which the next fetch asks for again. Order books can't be fetched again: the
    time of a part that is set aside becomes a gap.
    path: where bars or funding from files come from. base_url: another host than the exchange's own.
    """
    moved: list[Path] = []
    try:
        with writing(directory_of(data_dir, history)):
            findings = audit(data_dir, history).findings
            if any(finding.remedy == "none" for finding in findings):
                return Repair((), 0, tuple(finding.problem for finding in findings))
            if history.source == "file" and path is None and any(finding.remedy == "fetch" for finding in findings):
                return Repair((), 0, (f"{history}: left as it is; say with --path which files its rows come from",))
            for finding in findings:
                if finding.remedy == "seal":
                    write_part(finding.path, read_part(finding.path, "check it again"))
                elif finding.path.name == PROFILE:
                    finding.path.unlink(missing_ok=True)  # made anew from the bars
                elif finding.remedy != "examine" and finding.path.exists():
                    moved.append(set_aside(finding.path))
        if history.kind == "bars":
            Store(data_dir).examine(history)
        elif history.kind == "orderbook":
            BookStore(data_dir).examine(history)
    except DataError as error:
        return Repair(tuple(moved), 0, (str(error),))
    fetched = 0
    left: list[str] = []
    wanted = [finding.spans for finding in findings if finding.remedy == "fetch"]
    everything = any(spans is None for spans in wanted)
    for span in [None] if everything else [span for spans in wanted if spans for span in spans]:
        try:
            added, failed = _fetch_again(data_dir, history, span, path, base_url)
            fetched += added
            left += [failed] if failed else []
        except FlashtraderError as error:
            left.append(str(error))
    left += [finding.problem for finding in audit(data_dir, history).findings]
    return Repair(tuple(moved), fetched, tuple(left))


def _fetch_again(
    data_dir: Path, history: History, span: Span | None, path: Path | None, base_url: str | None
) -> tuple[int, str | None]:
    """Ask the source for `span`, or for all that was stored; return the number of new rows, and what is missing."""
    name, _, variant = history.source.partition("-")
    data = DataConfig.model_validate(
        {
            "symbols": [history.symbol],
            "source": name,
            "category": "spot" if variant == "spot" else "linear",
            "noise_only": variant == "noise",
        }
    )
    path = path if name == "file" else None
    base_url = base_url if name in ("bybit", "yahoo") else None
    bounds = (None, None) if span is None else (span.start_ms, span.end_ms)
    if isinstance(history, FundingSeries):
        source = open_funding(data, path, base_url)
        [report] = fetch_funding(source, FundingStore(data_dir), data.symbols, *bounds)
        return report.added, report.failed
    assert isinstance(history, Series)
    [bars] = fetch(open_source(data, path, base_url), Store(data_dir), data.symbols, history.interval, *bounds)
    return bars.added, bars.failed
