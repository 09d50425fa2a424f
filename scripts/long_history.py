"""Time how long a stored history takes to be extended, by its length.

    python scripts/long_history.py --bars 5000000 --json

A history of minute bars is stored; then an exchange on this machine has 100 more, five times over, and each time they
are fetched as `flashtrader fetch` does it: asked for, compared at the border, stored and examined for gaps.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "market"))

from exchange_server import ExchangeServer, random_bars  # type: ignore[import-not-found]
from flashtrader.interval import MINUTE_MS, Interval
from flashtrader.market import store as stored
from flashtrader.market.audit import audit
from flashtrader.market.fetch import fetch
from flashtrader.market.sources.bybit import BybitSource
from flashtrader.market.spans import Span
from flashtrader.market.store import Series, Store

MINUTE = Interval("1")
SERIES = Series("bybit", "BTCUSDT", MINUTE)
NEW_BARS = 100
TIMES = 5


def measure(num_bars: int, folder: Path) -> dict[str, Any]:
    """Return the seconds of each extension, and how many of the parts were read for it."""
    walk: pd.DataFrame = random_bars(50_000, MINUTE.code)
    total = num_bars + TIMES * NEW_BARS + 1
    timestamps = 1_200_000_000_000 + MINUTE_MS * np.arange(total)
    bars = walk.iloc[np.arange(total) % len(walk)].assign(timestamp=timestamps).reset_index(drop=True)
    store = Store(folder)
    store.append(SERIES, bars.iloc[:num_bars], Span(int(timestamps[0]), int(timestamps[num_bars])))
    began = time.perf_counter()
    store.examine(SERIES)
    examined_s = time.perf_counter() - began
    read: list[Path] = []
    real = stored.read_bars

    def counting(path: Path, interval: Interval) -> pd.DataFrame:
        read.append(path)
        return real(path, interval)

    stored.read_bars = counting
    seconds, cpu_seconds = [], []
    with ExchangeServer({"BTCUSDT": bars}, MINUTE.code) as exchange:
        for number in range(1, TIMES + 1):
            exchange.now_ms = int(timestamps[num_bars + number * NEW_BARS]) + 1_000
            began, began_cpu = time.perf_counter(), time.process_time()
            [report] = fetch(BybitSource(base_url=exchange.url), store, ["BTCUSDT"], MINUTE)
            seconds.append(round(time.perf_counter() - began, 3))
            cpu_seconds.append(round(time.process_time() - began_cpu, 3))
            assert (report.added, report.failed) == (NEW_BARS, None)
    parts_read = len(set(read))
    began = time.perf_counter()
    found = audit(folder, SERIES)
    assert (found.rows, found.findings) == (num_bars + TIMES * NEW_BARS, ())
    return {
        "bars": num_bars,
        "parts": found.parts,
        "extension_seconds": seconds,
        "extension_cpu_seconds": cpu_seconds,
        "parts_read_by_all_extensions": parts_read,
        "first_examination_seconds": round(examined_s, 1),
        "check_seconds": round(time.perf_counter() - began, 1),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bars", type=int, default=5_000_000)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options.bars, Path(folder))
    lines = (f"{name}: {value}" for name, value in figures.items())
    print(json.dumps(figures, indent=2) if options.json else "\n".join(lines))


if __name__ == "__main__":
    main()
