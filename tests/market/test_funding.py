"""Funding: from Bybit and from files to the store, and what is refused rather than taken for zero."""

import json

import numpy as np
import pandas as pd
import pytest

from exchange_server import ExchangeServer, ReplayServer, Reply, changed_rows, json_reply, random_bars
from flashtrader.errors import ConfigError, DataError, SourceError, UnknownSymbolError
from flashtrader.market.fetch_funding import fetch_funding
from flashtrader.market.funding import FundingHistory
from flashtrader.market.funding_store import FundingStore
from flashtrader.market.parts import write_part
from flashtrader.market.sources.bybit_funding import BybitFunding
from flashtrader.market.sources.funding_files import FundingFile
from flashtrader.market.spans import Span

HOUR_MS = 3_600_000
START_MS = 1_700_006_400_000 // (8 * HOUR_MS) * 8 * HOUR_MS


def settlements(num_rows: int, hours: int = 8, start_ms: int = START_MS, seed: int = 0) -> pd.DataFrame:
    times = start_ms + hours * HOUR_MS * np.arange(num_rows)
    return pd.DataFrame({"timestamp": times, "rate": np.random.default_rng(seed).normal(1e-4, 1e-4, num_rows).round(8)})


# Every 8 hours, then every 4, then hourly: an exchange changes that as it likes.
HISTORY = pd.concat(
    [
        settlements(450),
        settlements(300, 4, START_MS + 450 * 8 * HOUR_MS, seed=1),
        settlements(260, 1, START_MS + 450 * 8 * HOUR_MS + 300 * 4 * HOUR_MS, seed=2),
    ],
    ignore_index=True,
)
NOW_MS = int(HISTORY["timestamp"].iloc[-1]) + HOUR_MS // 2


@pytest.fixture
def exchange():
    with ExchangeServer({"BTCUSDT": random_bars(3)}, now_ms=NOW_MS, funding={"BTCUSDT": HISTORY}) as server:
        yield server


@pytest.fixture
def store(tmp_path) -> FundingStore:
    return FundingStore(tmp_path / "data")


def source_of(server, limiter) -> BybitFunding:
    return BybitFunding(server.url, limiter=limiter)


def test_the_whole_history_comes_page_by_page(exchange, store, limiter):
    [report] = fetch_funding(source_of(exchange, limiter), store, ["BTCUSDT"], start_ms=START_MS)
    assert report.failed is None
    assert report.rows == report.added == len(HISTORY) == 1_010
    pd.testing.assert_frame_equal(store.read("bybit", "BTCUSDT").settlements, HISTORY)
    asked = [request.query for request in exchange.requests[1:]]
    assert all(query["limit"] == "200" and "endTime" in query for query in asked)
    assert len(asked) == 6
    assert store.directory("bybit", "BTCUSDT").name == "funding"


def test_only_what_is_missing_is_asked_for_and_the_old_is_compared(exchange, store, limiter):
    source = source_of(exchange, limiter)
    cut_ms = int(HISTORY["timestamp"].iloc[700])
    fetch_funding(source, store, ["BTCUSDT"], START_MS, cut_ms)
    assert store.read("bybit", "BTCUSDT").answered == (Span(START_MS, cut_ms),)
    exchange.requests.clear()
    [report] = fetch_funding(source, store, ["BTCUSDT"])
    pd.testing.assert_frame_equal(store.read("bybit", "BTCUSDT").settlements, HISTORY)
    assert report.added == len(HISTORY) - 700
    oldest_asked = min(int(request.query.get("startTime", NOW_MS)) for request in exchange.requests)
    assert cut_ms - 5 * 24 * HOUR_MS < oldest_asked < cut_ms
    exchange.requests.clear()
    [again] = fetch_funding(source, store, ["BTCUSDT"])
    assert again.added == 0
    assert len(exchange.requests) == 1


def test_a_fetch_that_breaks_off_goes_on_where_it_stopped(exchange, store, limiter):
    def refuse(_: Reply) -> Reply:
        return json_reply({"retCode": 10003, "retMsg": "no", "result": {}, "time": NOW_MS})

    early = HISTORY["timestamp"].iloc[450]
    exchange.fail(refuse, when=lambda request: int(request.query.get("endTime", NOW_MS)) < early)
    [broken] = fetch_funding(source_of(exchange, limiter), store, ["BTCUSDT"], START_MS)
    assert "the exchange refuses" in broken.failed
    assert 0 < broken.rows < len(HISTORY)
    [whole] = fetch_funding(source_of(exchange, limiter), store, ["BTCUSDT"], START_MS)
    assert whole.failed is None
    assert whole.rows == len(HISTORY)
    assert whole.added == len(HISTORY) - broken.rows


def test_another_rate_for_a_stored_settlement_is_refused_and_nothing_changes(exchange, store, limiter):
    fetch_funding(source_of(exchange, limiter), store, ["BTCUSDT"], START_MS, int(HISTORY["timestamp"].iloc[700]))
    before = {path: path.read_bytes() for path in store.data_dir.rglob("*.*")}
    exchange.funding = {"BTCUSDT": HISTORY.assign(rate=HISTORY["rate"] + 1e-6)}
    [report] = fetch_funding(source_of(exchange, limiter), store, ["BTCUSDT"])
    assert "at the source now" in report.failed
    assert before.items() <= {path: path.read_bytes() for path in store.data_dir.rglob("*.*")}.items()


@pytest.mark.market_data
def test_the_recorded_answer_is_read(market_data, store, limiter):
    recorded = (market_data / "api_samples" / "bybit" / "funding_history_linear_BTCUSDT.json").read_bytes()
    empty = json.loads(recorded) | {"result": {"category": "linear", "list": []}}
    with ReplayServer(Reply(recorded), Reply(recorded), json_reply(empty)) as server:
        [report] = fetch_funding(source_of(server, limiter), store, ["BTCUSDT"], start_ms=1_786_700_000_000)
    assert report.failed is None
    assert store.read("bybit", "BTCUSDT").settlements.to_dict("list") == {
        "timestamp": [1_786_780_800_000, 1_786_809_600_000],
        "rate": [0.00004737, 0.00004403],
    }


def test_unknown_markets_and_damaged_answers_are_one_line(exchange, store, limiter):
    with pytest.raises(UnknownSymbolError) as unknown:
        fetch_funding(source_of(exchange, limiter), store, ["NOPE"])
    assert str(unknown.value) == (
        f"{exchange.host}: funding of NOPE: retCode 10001 'symbol invalid': NOPE is not listed in category linear; "
        "check the spelling (upper case, such as BTCUSDT) and the category"
    )
    worded = changed_rows(lambda rows: [{"symbol": "BTCUSDT"}, *rows])
    exchange.fail(worded, times=5, when=lambda request: "endTime" in request.query)
    [report] = fetch_funding(source_of(exchange, limiter), store, ["BTCUSDT"], START_MS)
    assert report.failed == (
        f"{exchange.host}: funding of BTCUSDT: a settlement lacks its symbol, time or rate; fetch again (asked 5 times)"
    )


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (changed_rows(lambda rows: [rows[0] | {"symbol": "ETHUSDT"}]), "the answer is about another market"),
        (
            changed_rows(lambda rows: [rows[0] | {"fundingRateTimestamp": str(NOW_MS + 1)}]),
            "settlements came from outside the time asked for",
        ),
        (
            lambda reply: json_reply(reply.json | {"result": {}}),
            "retCode 0, but no list of settlements in the answer",
        ),
    ],
)
def test_an_answer_that_stays_wrong_is_one_line(exchange, limiter, fault, message):
    exchange.fail(fault, times=5)
    with pytest.raises(SourceError) as wrong:
        source_of(exchange, limiter).history("BTCUSDT")
    assert str(wrong.value) == f"{exchange.host}: funding of BTCUSDT: {message}; fetch again (asked 5 times)"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_of_several_markets(tmp_path, store, suffix):
    one, other = settlements(20), settlements(20, 4, seed=1)
    table = pd.concat([one.assign(symbol="AAA"), other.assign(symbol="BBB")]).rename(columns={"rate": "fundingRate"})
    table["timestamp"] += 3  # milliseconds after the settlement, as Binance writes them
    path = tmp_path / f"funding{suffix}"
    if suffix == ".csv":
        table.assign(timestamp=pd.to_datetime(table["timestamp"], unit="ms", utc=True)).to_csv(path, index=False)
    else:
        table.to_parquet(path)
    reports = fetch_funding(FundingFile(path), store, ["AAA", "BBB"])
    assert [report.failed for report in reports] == [None, None]
    for symbol, expected in (("AAA", one), ("BBB", other)):
        pd.testing.assert_frame_equal(store.read("file", symbol).settlements, expected)
    assert store.read("file", "BBB").answered == (Span(START_MS, START_MS + 20 * 4 * HOUR_MS),)


@pytest.mark.parametrize(
    ("table", "symbol", "error", "message"),
    [
        (
            settlements(5),
            "BBB",
            UnknownSymbolError,
            "holds one market, and its name does not say BBB; rename it BBB.csv if it is that, "
            "or ask for the symbol in its name",
        ),
        (
            settlements(5).rename(columns={"rate": "paid"}),
            "AAA",
            DataError,
            "no column of rates; name it one of rate, funding_rate, fundingrate, last_funding_rate; "
            "found timestamp, paid",
        ),
        (
            settlements(5).assign(rate=7.5),
            "AAA",
            DataError,
            "AAA: settlement 2023-11-15T00:00:00Z has no usable rate: a fraction of the position's value (rate 7.5); "
            "correct or remove this row",
        ),
        (settlements(1), "AAA", DataError, "AAA has a single settlement; give a history of them"),
    ],
)
def test_files_that_do_not_say_what_they_are_of_are_refused(tmp_path, table, symbol, error, message):
    path = tmp_path / "AAA.csv"
    table.to_csv(path, index=False)
    with pytest.raises(error) as refused:
        FundingFile(path).history(symbol)
    assert str(refused.value) == f"{path}: {message}"


def test_a_file_of_funding_that_is_none(tmp_path):
    with pytest.raises(ConfigError) as refused:
        FundingFile(tmp_path)
    assert str(refused.value) == f"{tmp_path}: no such file; give --path one file of settlements"


def test_a_longer_file_extends_what_is_stored_and_another_market_is_refused(tmp_path, store):
    path = tmp_path / "AAA.csv"
    settlements(10).to_csv(path, index=False)
    fetch_funding(FundingFile(path), store, ["AAA"])
    longer = pd.concat([settlements(10), settlements(5, 8, START_MS + 80 * HOUR_MS, seed=9)], ignore_index=True)
    longer.to_csv(path, index=False)
    [report] = fetch_funding(FundingFile(path), store, ["AAA"])
    assert (report.rows, report.added) == (15, 5)
    settlements(30, seed=5).to_csv(path, index=False)
    [report] = fetch_funding(FundingFile(path), store, ["AAA"])
    assert report.failed == (
        f"{store.directory('file', 'AAA')}: settlement 2023-11-19T16:00:00Z has rate 0.00021435, at the source now "
        "0.00012029; give another market another --data-dir, or move or delete this directory and fetch again"
    )
    assert report.rows == 15


def history(table: pd.DataFrame, *answered: Span) -> FundingHistory:
    return FundingHistory(table, answered, "data/bybit/AAA/funding", "flashtrader fetch --kind funding")


def test_the_settlements_of_a_period_are_after_its_start_and_up_to_its_end():
    table = settlements(10)
    whole = history(table, Span(START_MS, START_MS + 80 * HOUR_MS))
    found = whole.during(START_MS, START_MS + 16 * HOUR_MS)
    pd.testing.assert_frame_equal(found, table.iloc[1:3].reset_index(drop=True))
    assert whole.during(START_MS + 8 * HOUR_MS, START_MS + 15 * HOUR_MS).empty


@pytest.mark.parametrize(
    ("rows", "answered_hours"),
    [
        (range(10), (0, 72)),  # nobody asked for the last settlement
        (range(10), (8, 80)),  # nor for the first
        ([0, 1, 2, 4, 5, 6, 7, 8, 9], (0, 80)),  # a settlement of an answered time is not there
        ([], (0, 80)),
    ],
)
def test_funding_that_is_missing_is_not_zero_funding(rows, answered_hours):
    known = history(
        settlements(10).iloc[list(rows)], Span(*(START_MS - 1 + hours * HOUR_MS for hours in answered_hours))
    )
    with pytest.raises(DataError, match=r"funding: no funding from .* get it with `flashtrader fetch --kind funding"):
        known.during(START_MS - HOUR_MS, START_MS + 72 * HOUR_MS)


def test_a_write_that_is_killed_before_its_ledger_claims_nothing(store):
    store.append("bybit", "AAA", settlements(5), Span(START_MS, START_MS + 40 * HOUR_MS))
    directory = store.directory("bybit", "AAA")
    write_part(directory / "funding.parquet", settlements(9))  # the rows of a second write, whose ledger never came
    assert store.read("bybit", "AAA").answered == (Span(START_MS, START_MS + 40 * HOUR_MS),)
    assert store.append("bybit", "AAA", settlements(10), Span(START_MS, START_MS + 80 * HOUR_MS)) == 1
    (directory / "funding.parquet").unlink()
    assert store.read("bybit", "AAA").answered == ()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda path: path.write_bytes(b"PAR1"),
            "damaged (Parquet file size is 4 bytes, smaller than the minimum file footer (8 bytes)); set it aside and "
            "fetch again with `flashtrader fetch --check --repair`",
        ),
        (
            lambda path: settlements(5).drop(columns="rate").to_parquet(path),
            "no column rate; settlements have timestamp and rate",
        ),
        (
            lambda path: settlements(5)[::-1].to_parquet(path),
            "settlement 2023-11-16T00:00:00Z is out of order: times must increase (rate 0.00011049); set it aside and "
            "fetch again with `flashtrader fetch --check --repair`",
        ),
        (
            lambda path: settlements(5).loc[[0, 0]].assign(rate=0.5).to_parquet(path),
            "settlement 2023-11-15T00:00:00Z is there twice (rate 0.5); set it aside and fetch again with "
            "`flashtrader fetch --check --repair`",
        ),
        (
            lambda path: settlements(1).assign(rate=-7.5).to_parquet(path),
            "settlement 2023-11-15T00:00:00Z has no usable rate: a fraction of the position's value (rate -7.5); "
            "set it aside and fetch again with `flashtrader fetch --check --repair`",
        ),
    ],
)
def test_damage_is_said(store, spoil, message):
    store.append("bybit", "AAA", settlements(5), Span(START_MS, START_MS + 40 * HOUR_MS))
    path = store.directory("bybit", "AAA") / "funding.parquet"
    spoil(path)
    with pytest.raises(DataError) as refused:
        store.read("bybit", "AAA")
    assert str(refused.value) == f"{path}: {message}"


def test_settlements_that_nobody_asked_for_are_refused_before_anything_is_written(store):
    with pytest.raises(DataError) as refused:
        store.append("bybit", "AAA", settlements(5), Span(START_MS, START_MS + 8 * HOUR_MS))
    assert str(refused.value) == (
        "funding of AAA from bybit: settlements outside 2023-11-15T00:00:00Z to 2023-11-15T08:00:00Z; the source is "
        "at fault"
    )
    assert not store.data_dir.exists()


def test_a_time_of_which_the_source_has_nothing(tmp_path, store):
    path = tmp_path / "AAA.csv"
    settlements(10).to_csv(path, index=False)
    [report] = fetch_funding(FundingFile(path), store, ["AAA"], START_MS + 100 * HOUR_MS)
    assert report.failed == (
        "no settlements in the time asked for: file has AAA from 2023-11-15T00:00:00Z to 2023-11-18T08:00:00Z"
    )
