"""Fetch from an exchange that fails in every way we know, kill the fetch again and again, and compare what is stored.

    python scripts/fetch_campaign.py --kills 100 --json

An exchange on this machine answers with faults, drawn by a seed, while its clock runs on. Processes fetch from it, one
after another, and each is killed by SIGKILL at a random moment. After every kill all files are read by the project's
own audit, and every stored row is compared with the exchange's. Once a history is complete it must be the exchange's,
row for row, and the next one begins. The exchange notes when each request arrives.

Last, an exchange that answers at once, and is asked for short pages by processes that are killed too, tells whether the
limit holds where nothing but the limit holds the requests back; and commands that wait for an exchange which doesn't
answer are interrupted, as by Ctrl-C.
"""

import argparse
import email.utils
import json
import multiprocessing
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "market"))

from exchange_server import (  # type: ignore[import-not-found]
    ExchangeServer,
    Fault,
    Reply,
    Request,
    broken_off,
    changed_rows,
    contradicting_rows,
    cut_json,
    duplicated_rows,
    html,
    http_error,
    json_reply,
    outside_rows,
    random_bars,
    reordered_rows,
    reset,
    ret_code,
    slow,
    trickling,
    worded_rows,
)
from flashtrader.cli.console import say
from flashtrader.interval import Interval
from flashtrader.market import fetch as fetching
from flashtrader.market import http
from flashtrader.market.audit import audit
from flashtrader.market.sources.bybit import REQUESTS, REQUESTS_SECONDS, BybitSource
from flashtrader.market.store import Series, Store

MINUTE = Interval("1")
SYMBOLS = ("BTCUSDT", "ETHUSDT")
FAULTY = 0.25
"""Share of the requests that meet a fault."""
TIMEOUT_S = 0.3
INTERRUPTS = 10


def faults(rng: random.Random, now_ms: int) -> dict[str, Fault]:
    """Return every fault by name, its details drawn anew."""
    limit = {"X-Bapi-Limit-Status": "0", "X-Bapi-Limit-Reset-Timestamp": str(now_ms + 200)}
    lost = rng.randrange(900)

    def lose(rows: list[list[str]]) -> list[list[str]]:
        return rows[:lost] + rows[lost + rng.randrange(1, 300) :]

    def off(reply: Reply) -> Reply:
        return json_reply(reply.json | {"time": now_ms + rng.choice([-1, 1]) * 7_200_000})

    return {
        "429": http_error(429, body=b"Too Many Requests"),
        "429 with Retry-After": http_error(429, {"Retry-After": "1"}),
        "403": http_error(403, body=b"access too frequent"),
        "500": http_error(500),
        "10006": ret_code(10006, "Too many visits!", {}),
        "10006 with the time of reset": ret_code(10006, "Too many visits!", {}, limit),
        "10016": ret_code(10016, "Server error", {}),
        "5004 with result null": ret_code(5004, "Server Timeout", None),
        "time-out": slow(3 * TIMEOUT_S),
        "reset": reset,
        "broken off": broken_off,
        "cut JSON": cut_json,
        "HTML": html,
        "duplicated rows": duplicated_rows,
        "reordered rows": reordered_rows,
        "missing rows": changed_rows(lose),
        "rows from elsewhere": outside_rows,
        "contradicting rows": contradicting_rows,
        "words for numbers": worded_rows,
        "clock off": off,
        "trickle": trickling(0.02),
    }


class FaultyExchange(ExchangeServer):  # type: ignore[misc]
    """An exchange of which some answers are wrong, and whose clock runs on: a minute passes in `minute_s`."""

    def __init__(self, histories: dict[str, pd.DataFrame], now_ms: int, seed: int, minute_s: float = 0.2) -> None:
        super().__init__(histories, MINUTE.code, now_ms)
        self.met = Counter[str]()
        self.faulty = FAULTY
        self._rng, self._drawing = random.Random(seed), threading.Lock()
        self._began_ms, self._began_s, self._minute_s = now_ms, time.monotonic(), minute_s

    def answer(self, request: Request) -> Reply:
        """Return the right answer, with the exchange's clock in its Date, or a wrong one."""
        with self._drawing:
            self.now_ms = self._began_ms + round(60_000 * (time.monotonic() - self._began_s) / self._minute_s)
            drawn = faults(self._rng, self.now_ms)
            name = self._rng.choice(list(drawn)) if self._rng.random() < self.faulty else None
        reply = super().answer(request)
        date = {"Date": email.utils.formatdate(self.now_ms / 1000, usegmt=True)}
        dated = replace(reply, headers=reply.headers | date)
        if name is None or not reply.json.get("result", {}).get("list"):
            return dated
        self.met[name] += 1
        wrong = drawn[name](dated)
        return replace(wrong, headers=date | wrong.headers)


def fetch_once(url: str, data_dir: Path, start_ms: int, done: Any) -> None:
    """Fetch all there is, in a process of its own. Each page is stored at once: the more it writes, the more is hit."""
    fetching._FLUSH_BARS, http.FIRST_BACKOFF_S = 1, 0.05
    source = BybitSource(base_url=url, timeout_s=TIMEOUT_S)
    reports = fetching.fetch(source, Store(data_dir), SYMBOLS, MINUTE, start_ms)
    if all(report.failed is None for report in reports):
        done.set()


@dataclass
class Figures:
    """What happened."""

    kills: int = 0
    lives: int = 0
    """Processes that fetched."""
    histories: int = 0
    """Pairs of markets that were completed and compared."""
    rows: int = 0
    wrong_rows: int = 0
    damaged_files: int = 0
    files_read: int = 0
    requests: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    limit: str = f"{REQUESTS} in {REQUESTS_SECONDS:g} s"
    busiest: int = 0
    """Most requests that the faulty exchange saw within the limit's time."""
    busiest_unhindered: int = 0
    """The same of the exchange that answers at once."""
    interrupts: int = 0
    slowest_interrupt_s: float = 0.0
    """From the signal to the command's end."""
    seconds: float = 0.0


class Campaign:
    """Processes that are started, killed and looked after."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.figures = Figures()
        self._rng = random.Random(seed)
        self._folder = folder
        # A server that has imported everything forks each process: a kill meets the fetch, not the imports before it.
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["flashtrader.market.fetch", "flashtrader.market.sources.bybit", __name__])

    def run(self, kills: int, num_bars: int) -> Figures:
        """Complete histories until there were so many kills, then look at the limit."""
        began, faulty_met = time.monotonic(), Counter[str]()
        while self.figures.kills < kills:
            number = self.figures.histories
            histories = {symbol: minute_bars(num_bars, 100 * number + at) for at, symbol in enumerate(SYMBOLS)}
            start_ms = int(histories[SYMBOLS[0]]["timestamp"].iloc[0])
            now_ms = int(histories[SYMBOLS[0]]["timestamp"].iloc[num_bars // 2]) + 30_000
            with FaultyExchange(histories, now_ms, self._rng.randrange(2**32)) as exchange:
                data_dir = self._folder / f"history-{number}"
                self._complete(exchange, histories, data_dir, start_ms, kills)
                faulty_met += exchange.met
                self.figures.requests += len(exchange.requests)
                self.figures.busiest = max(self.figures.busiest, exchange.busiest(REQUESTS_SECONDS))
            shutil.rmtree(data_dir)
            self.figures.histories += 1
            say(f"{self.figures.kills} kills, {self.figures.histories} histories, {time.monotonic() - began:.0f} s")
        self.figures.faults = dict(sorted(faulty_met.items()))
        self.figures.seconds = round(time.monotonic() - began, 1)
        return self.figures

    def look_at_limit(self, num_bars: int) -> None:
        """Note the rate at an exchange that answers at once with 20 rows, while processes are killed every second."""
        histories = {symbol: minute_bars(num_bars, seed) for seed, symbol in enumerate(SYMBOLS)}
        start_ms = int(histories[SYMBOLS[0]]["timestamp"].iloc[0])
        with ExchangeServer(histories, MINUTE.code, page_cap=20) as exchange:
            for life_s in (0.7, 0.3, 1.5, 0.2, 1.0, 0.4, 0.1, 7.0):
                self._live(exchange.url, self._folder / "limit", start_ms, life_s)
            self.figures.busiest_unhindered = exchange.busiest(REQUESTS_SECONDS)

    def interrupt(self, times: int) -> None:
        """Interrupt the command while it waits for an answer, and note how long it takes to end and to say so."""
        bars = minute_bars(20_000, 0)
        start = pd.Timestamp(int(bars["timestamp"].iloc[0]), unit="ms").isoformat()
        options = ["--symbols", "BTCUSDT", "--interval", MINUTE.code, "--start", start]
        old_ms = int(bars["timestamp"].iloc[2_500])

        def old(request: Request) -> bool:
            return 1_000_000 < int(request.query["start"]) < old_ms

        for number in range(times):
            with ExchangeServer({"BTCUSDT": bars}, MINUTE.code) as exchange:
                waiting = threading.Event()

                def answer_late(reply: Reply, waiting: threading.Event = waiting) -> Reply:
                    waiting.set()
                    return replace(reply, delay_s=60.0)

                exchange.fail(answer_late, times=20, when=old)
                place = ["--base-url", exchange.url, "--data-dir", str(self._folder / f"interrupted-{number}")]
                command = [sys.executable, "-c", "from flashtrader.cli import main; main()", "fetch", *options, *place]
                process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
                assert waiting.wait(60)
                began = time.monotonic()
                process.send_signal(signal.SIGINT)
                _, said = process.communicate()
            self.figures.slowest_interrupt_s = round(max(self.figures.slowest_interrupt_s, time.monotonic() - began), 2)
            self.figures.interrupts += process.returncode == 130 and "the same command goes on from there" in said

    def _complete(
        self, exchange: FaultyExchange, histories: dict[str, pd.DataFrame], data_dir: Path, start_ms: int, kills: int
    ) -> None:
        done = False
        while not done:
            if self.figures.kills < kills:
                done, killed = self._live(exchange.url, data_dir, start_ms, self._rng.uniform(0.0, 2.0))
                self.figures.kills += killed
            else:
                done, _ = self._live(exchange.url, data_dir, start_ms, 60.0)
            self._look(data_dir, histories)
        for symbol, bars in histories.items():
            stored = Store(data_dir).read(Series("bybit", symbol, MINUTE))
            expected = bars[bars["timestamp"] <= stored["timestamp"].iloc[-1]]
            self.figures.rows += len(stored)
            self.figures.wrong_rows += abs(len(expected) - len(stored))

    def _live(self, url: str, data_dir: Path, start_ms: int, life_s: float) -> tuple[bool, bool]:
        """Fetch for so long, if it takes so long; return whether everything came, and whether it was killed."""
        done = self._context.Event()
        process = self._context.Process(target=fetch_once, args=(url, data_dir, start_ms, done))
        process.start()
        process.join(life_s)
        killed = process.is_alive()
        process.kill()
        process.join()
        self.figures.lives += 1
        return done.is_set(), killed

    def _look(self, data_dir: Path, histories: dict[str, pd.DataFrame]) -> None:
        """Read every file, and compare every row with the exchange's."""
        for symbol, bars in histories.items():
            series = Series("bybit", symbol, MINUTE)
            if not (data_dir / "bybit" / symbol).exists():
                continue
            found = audit(data_dir, series)
            self.figures.files_read += found.parts + 1
            self.figures.damaged_files += len(found.findings)
            for finding in found.findings:
                say(f"error: {finding.problem}")
            if found.rows:
                stored = Store(data_dir).read(series)
                same = stored.merge(bars, on=list(stored.columns))
                self.figures.wrong_rows += len(stored) - len(same)


def minute_bars(num_bars: int, seed: int) -> pd.DataFrame:
    """Return bars with an outage in their midst, which is the exchange's and no fault."""
    bars: pd.DataFrame = random_bars(num_bars, MINUTE.code, seed=seed)
    return bars[(bars.index < num_bars // 3) | (bars.index >= num_bars // 3 + 40)].reset_index(drop=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign and show its figures; return 1 when anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--bars", type=int, default=30_000, help="minutes of each market's history")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(options.seed, Path(folder))
        figures = campaign.run(options.kills, options.bars)
        campaign.look_at_limit(options.bars)
        campaign.interrupt(INTERRUPTS)
    values = vars(figures)
    print(
        json.dumps(values, indent=2) if options.json else "\n".join(f"{key}: {value}" for key, value in values.items())
    )
    fast = max(figures.busiest, figures.busiest_unhindered) > REQUESTS
    return int(bool(figures.wrong_rows or figures.damaged_files or fast or figures.interrupts < INTERRUPTS))


if __name__ == "__main__":
    sys.exit(main())
