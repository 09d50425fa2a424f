"""`flashtrader fetch --kind funding`, and a backtest that charges it."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from command import Command
from exchange_server import ExchangeServer, random_bars
from flashtrader.market import fetch_funding
from flashtrader.market.funding_store import FundingStore
from flashtrader.market.spans import Span
from place import Place

HOUR_MS = 3_600_000
START_MS = 1_700_006_400_000
NUM_BARS = 300
BARS = random_bars(NUM_BARS, start_ms=START_MS)
SETTLED = pd.DataFrame(
    {
        "timestamp": START_MS // (8 * HOUR_MS) * 8 * HOUR_MS + 8 * HOUR_MS * np.arange(NUM_BARS // 8 + 2),
        "rate": np.random.default_rng(0).normal(1e-4, 1e-4, NUM_BARS // 8 + 2).round(8),
    }
)
SETTINGS: dict[str, Any] = {
    "data": {"source": "file", "symbols": ["BTCUSDT"]},
    "backtest": {"funding_rate": "fetched"},
}


@pytest.fixture
def place(tmp_path: Path, flashtrader: Command) -> Place:
    return Place(tmp_path, flashtrader, SETTINGS, {"BTCUSDT": BARS})


def test_funding_from_the_exchange(place: Place) -> None:
    now_ms = int(SETTLED["timestamp"].iloc[-1]) + HOUR_MS
    with ExchangeServer({"BTCUSDT": BARS}, now_ms=now_ms, funding={"BTCUSDT": SETTLED}) as server:
        arguments = ("fetch", "--kind", "funding", "--symbols", "BTCUSDT", "--base-url", server.url)
        made = place(*arguments, "--start", "2023-11-14")
        assert made["symbols"]["BTCUSDT"] == {
            "rows": len(SETTLED),
            "added": len(SETTLED),
            "first": pd.Timestamp(SETTLED["timestamp"].iloc[0], unit="ms").isoformat() + "Z",
            "last": pd.Timestamp(SETTLED["timestamp"].iloc[-1], unit="ms").isoformat() + "Z",
            "failed": None,
        }
        again = place.command.succeeds(*arguments, *place.places())
        assert "Funding stored from bybit" in again.out
        assert "+0" in again.out
    assert len(FundingStore(place.root / "data").read("bybit", "BTCUSDT").settlements) == len(SETTLED)


def test_a_backtest_charges_what_was_fetched_and_refuses_what_was_not(place: Place) -> None:
    weights = place.root / "weights.csv"
    times = pd.to_datetime(BARS["timestamp"].iloc[10:20], unit="ms", utc=True)
    pd.DataFrame({"time": times, "BTCUSDT": 0.5}).to_csv(weights, index=False)
    backtest = ("backtest", "--weights", weights, "--config", place.config)
    assert place.fails(1, *backtest) == (
        f"{place.root}/data/file/BTCUSDT/funding: no funding from 2023-11-15T11:00:00Z to 2023-11-27T11:00:00Z, which "
        "the backtest covers; get it with `flashtrader fetch --kind funding --source file --path FILE --symbols "
        "BTCUSDT --start 2023-11-15T11:00`, or set backtest.funding_rate to a number or null"
    )

    path = place.root / "BTCUSDT-funding.csv"
    SETTLED.to_csv(path, index=False)
    place("fetch", "--kind", "funding", "--source", "file", "--path", path, "--symbols", "BTCUSDT")
    made = place(*backtest)
    assert made["funding"]["used"] == "fetched"
    assert made["funding"]["total"] != 0
    free = place(*backtest, "--set", "backtest.funding_rate=null")
    assert free["funding"] == {"used": "none", "rate": None, "every_hours": None, "total": 0.0}
    lost = free["metrics"]["final_equity"] - made["metrics"]["final_equity"]
    assert lost == pytest.approx(made["funding"]["total"], rel=0.05)
    assert [row["multiple"] for row in made["cost_multiples"]] == [0, 1, 2, 3]

    path.write_text(SETTLED.assign(rate=SETTLED["rate"] + 1e-3).to_csv(index=False))
    assert "move or delete this directory" in place.fails(
        1, "fetch", "--kind", "funding", "--source", "file", "--path", path, "--symbols", "BTCUSDT"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--source", "yahoo"), "--kind funding goes with --source bybit or file, not yahoo"),
        (("--category", "spot"), "--kind funding is of perpetuals; --category spot has none"),
        (("--interval", "60"), "--interval goes with --kind bars"),
        (("--once",), "--once goes with --kind orderbook"),
        (("--source", "file"), "--source file needs --path: one file of settlements"),
        (("--path", "x.csv"), "--path goes with --source file, not bybit"),
        (
            ("--start", "2024-02-01", "--end", "2024-01-01"),
            "start 2024-02-01T00:00:00Z is not before end 2024-01-01T00:00:00Z",
        ),
    ],
)
def test_what_does_not_belong_to_funding_is_refused(place: Place, arguments: tuple[str, ...], message: str) -> None:
    assert place.fails(2, "fetch", "--kind", "funding", "--symbols", "BTCUSDT", *arguments) == message


def test_an_interrupt_says_what_is_stored(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    FundingStore(place.root / "data").append(
        "bybit", "BTCUSDT", SETTLED.iloc[:5], Span(START_MS - 8 * HOUR_MS, START_MS + 40 * HOUR_MS)
    )
    monkeypatch.setattr(fetch_funding, "fetch_funding", interrupted)
    stopped = place.command("fetch", "--kind", "funding", "--symbols", "BTCUSDT", *place.places())
    assert stopped.exit_code == 130
    assert stopped.err == (
        f"stopped: 5 settlements of BTCUSDT are stored in {place.root}/data; the same command goes on from there\n"
    )


def test_funding_of_a_market_without_perpetuals_is_refused(place: Place) -> None:
    weights = place.root / "weights.csv"
    pd.DataFrame({"time": ["2023-11-15T10:00Z"], "BTCUSDT": 0.5}).to_csv(weights, index=False)
    (place.root / "data" / "file").rename(place.root / "data" / "yahoo")
    backtest = ("backtest", "--weights", weights, "--config", place.config, "--set", "data.source=yahoo")
    assert place.fails(2, *backtest) == (
        "backtest.funding_rate: yahoo has no funding to be fetched; set it to a number, or null for none"
    )
