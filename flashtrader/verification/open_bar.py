"""An attack through the front door: an exchange that serves the bar that is still open."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from flashtrader.forecasting.forecast import forecast_run
from flashtrader.interval import Interval
from flashtrader.market.bars import digests_between
from flashtrader.market.fetch import fetch
from flashtrader.market.sources import Page, Span
from flashtrader.market.spans import iso_time
from flashtrader.market.store import Store, stored_source
from flashtrader.verification.checks import Check, Subject
from flashtrader.verification.histories import (
    Tables,
    between,
    clock_of,
    copy_of,
    rows_needed,
    stored_tables,
    with_other_future,
)

_NAME = "open bar"


def open_bar(subject: Subject) -> Iterator[Check]:
    """Fetch from an exchange whose newest bar is open, twice, with other values of that bar; both must leave it out."""
    experiment = subject.experiment
    tried = "fetched from an exchange that also serves the bar that is still open, and forecast the newest bar"
    if experiment.data.kind == "books":
        yield Check(_NAME, tried, "skipped", "a snapshot of an order book is known at its own time, and never open")
        return
    tables = stored_tables(experiment.data, subject.data_dir)
    clock = clock_of(tables)
    tables = between(tables, int(clock[-rows_needed(experiment) :][0]), int(clock[-1]))
    open_ms = int(clock[-1])
    newest_closed_ms, now_ms = int(clock[-2]), open_ms + Interval(experiment.data.interval).milliseconds // 2
    run = copy_of(subject, int(clock_of(tables)[0]))
    kept, forecasts = [], []
    for served in (tables, with_other_future(tables, newest_closed_ms, np.random.default_rng(3), holes=False)):
        data_dir = subject.directory("data")
        exchange = _Exchange(stored_source(experiment.data), served, now_ms)
        fetch(exchange, Store(data_dir), experiment.data.symbols, Interval(experiment.data.interval))
        stored = stored_tables(experiment.data, data_dir)
        kept.append((int(clock_of(stored)[-1]), digests_between(stored, 0, open_ms)))
        forecasts.append(forecast_run(run, data_dir, "latest").forecasts)
    newest_ms = kept[0][0]
    if newest_ms >= open_ms:
        reason = f"the bar of {iso_time(open_ms)} was stored, though it closes after {iso_time(now_ms)}"
    elif kept[0] != kept[1] or not forecasts[0].equals(forecasts[1]):
        reason = f"the values of the bar of {iso_time(open_ms)}, which is open, changed what was stored or forecast"
    elif newest_ms != newest_closed_ms:
        reason = f"the closed bar of {iso_time(newest_closed_ms)} was not stored"
    else:
        reason = ""
    yield Check(
        name=_NAME,
        tried=tried,
        outcome="failed" if reason else "passed",
        reason=reason,
        figures={"now": iso_time(now_ms), "newest_stored": iso_time(newest_ms)},
    )


@dataclass(frozen=True)
class _Exchange:
    """A market whose clock stands still, in the middle of its newest bar, which it serves as far as it has come."""

    name: str
    tables: Tables
    now_ms: int
    local = True
    readjusts = False

    def history(self, symbol: str, interval: Interval) -> Span:
        """Return from the first bar to the end of the last one that has closed by the clock."""
        return Span(int(self.tables[symbol]["timestamp"].iloc[0]), interval.floor(self.now_ms))

    def pages(self, symbol: str, interval: Interval, span: Span) -> Iterator[Page]:  # noqa: ARG002
        """Yield one page: the bars that open in the span, and the open one."""
        table = self.tables[symbol]
        yield Page(table[table["timestamp"] >= span.start_ms].reset_index(drop=True), span)

    def abandon(self) -> None:
        """Do nothing: no call takes long."""
