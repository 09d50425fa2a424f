"""Whatever a file holds, it is read, or refused by one of the program's own errors; no name leads out of its place."""

import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flashtrader.backtest.signals import read_signals
from flashtrader.config import load_config, to_yaml
from flashtrader.errors import ConfigError, DataError, FlashtraderError, SourceError, printable
from flashtrader.files import read_json, read_json_lines
from flashtrader.interval import Interval
from flashtrader.manifest import read_manifest
from flashtrader.market.books import num_levels
from flashtrader.market.ledger import Ledger
from flashtrader.market.sources.bybit_books import read_message
from flashtrader.market.sources.files import FileSource
from flashtrader.market.store import Series, Store
from flashtrader.run import Run

HOURLY = Interval("60")
CLOCK = 1_704_067_200_000 + HOURLY.milliseconds * np.arange(48, dtype=np.int64)
SMALLEST = {"data": {"symbols": ["BTCUSDT"]}}

short = settings(max_examples=60, deadline=None)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def written(name: str, content: bytes, read: Callable[[Path], Any]) -> Any:
    """Return what is read from a file, or the one line that refuses it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        try:
            return read(path)
        except FlashtraderError as error:
            return error


@given(st.text())
def test_no_message_leaves_its_line_or_steers_a_terminal(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)
    assert str(DataError(text)) == printable(text)


@short
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_config_or_a_config_error(content: bytes) -> None:
    assert isinstance(written("any.yaml", content, load_config), ConfigError)


@short
@given(st.sampled_from(["data", "panel", "split", "model", "training", "policy", "backtest", "name"]), values)
def test_any_section_is_refused_or_survives_a_round_trip(section: str, value: Any) -> None:
    text = yaml.safe_dump(SMALLEST | {section: value}).encode()
    experiment = written("any.yaml", text, load_config)
    if not isinstance(experiment, ConfigError):
        assert written("any.yaml", to_yaml(experiment).encode(), load_config) == experiment


@short
@given(st.binary(max_size=100) | values.map(lambda value: json.dumps(value, default=str).encode()))
def test_any_bytes_are_json_or_a_data_error(content: bytes) -> None:
    for read in (read_json, read_json_lines, read_manifest):
        written("any.json", content, read)


def signals_of(path: Path) -> pd.DataFrame:
    return read_signals(path, CLOCK, ("BTCUSDT", "ETHUSDT"), HOURLY)


@short
@given(
    st.binary(max_size=100)
    | st.lists(st.text(max_size=12)).map(lambda rows: "\n".join(["time,BTCUSDT", *rows]).encode())
)
def test_any_bytes_are_signals_of_known_bars_or_refused(content: bytes) -> None:
    signals = written("any.csv", content, signals_of)
    if not isinstance(signals, FlashtraderError):
        assert np.isin(signals.index.asi8, CLOCK).all()
        assert not np.isinf(signals.to_numpy()).any()


@short
@given(st.text(min_size=1, max_size=12) | st.sampled_from(["..", ".", "/etc", "a/../../b", "a\0b", "~", "..\\b"]))
def test_no_name_leads_out_of_its_directory(name: str) -> None:
    places = []
    for place in (
        lambda: Store(Path("/data")).directory(Series("file", name, HOURLY)).relative_to("/data/file").parts[:-1],
        lambda: Run(Path("/runs/x")).member(name).path.relative_to("/runs/x/members").parts,
    ):
        try:
            places.append(place())
        except FlashtraderError:
            continue
    settings_of = written("any.yaml", yaml.safe_dump(SMALLEST | {"name": name}).encode(), load_config)
    if not isinstance(settings_of, ConfigError):
        places.append(Path(settings_of.name).parts)
    for parts in places:
        assert parts == (name,)
        assert name not in ("..", ".")


def bomb(levels: int = 12) -> str:
    """Return a few lines of YAML that stand for 9 ** levels values."""
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (bomb(), "not valid YAML (line 2: aliases are not followed; write the value itself)"),
        ("[" * 100_000, "not valid YAML ("),
        ("a: " + "1:" * 50_000 + "1", "a: unknown key"),
        ("#" * 300_000, "more than 262,144 bytes; give the path of a YAML file, not of data"),
        ("!!timestamp soon", "not valid YAML ("),
        ("!!bool soon", "not valid YAML ("),
        ("!!python/object/apply:os.system [true]", "not valid YAML (line 1: could not determine a constructor"),
        ("data: {symbols: [A]}\nmodel: {width: 1" + "0" * 400 + "}", "model.width: "),
        ("data: {symbols: [A]}\ntraining: {seed: 4294967296}", "training.seed: whole numbers go up to 4,294,967,295"),
    ],
    ids=["bomb", "deep", "sexagesimal", "long", "timestamp", "bool", "python", "huge", "seed"],
)
def test_yaml_that_would_take_the_machine_is_refused(text: str, reason: str) -> None:
    error = written("any.yaml", text.encode(), load_config)
    assert isinstance(error, ConfigError)
    assert reason in str(error)


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


ABSURD = {
    "many rows": pa.table({"time": pa.nulls(20_000_000, pa.int64())}),
    "many columns": pa.table({f"c{number}": [0] for number in range(20_001)}),
    "lists": pa.table({"time": [[1]]}),
    "records": pa.table({"time": [{"a": 1}]}),
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_tables_are_refused_before_they_are_read(name: str) -> None:
    content = parquet(ABSURD[name])
    for read in (signals_of, lambda path: FileSource(path).history("BTCUSDT", HOURLY)):
        assert isinstance(written("BTCUSDT-60.parquet", content, read), SourceError)


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"time": pa.array([2**62], pa.timestamp("ms")), "BTCUSDT": [1.0]}),
        pa.table({"time": [CLOCK[0]], "BTCUSDT": [b"\xff"]}),
        pa.table({"time": [CLOCK[0]], "BTCUSDT": ["1"]}).replace_schema_metadata({"pandas": "{"}),
        pa.table({"time": [CLOCK[0]], "BTCUSDT": [1.0]}).replace_schema_metadata({"pandas": '{"index_columns": 3}'}),
        pa.table({"time": pa.array([2**64 - 1], pa.uint64()), "BTCUSDT": [1.0]}),
        pa.table({"time": [True], "BTCUSDT": [1.0]}),
    ],
    ids=["year 146 million", "bytes", "cut metadata", "wrong metadata", "unsigned", "truth"],
)
def test_cells_of_other_kinds_are_refused(table: pa.Table) -> None:
    assert isinstance(written("signals.parquet", parquet(table), signals_of), DataError)


def test_a_csv_of_a_hundred_thousand_columns_is_refused() -> None:
    error = written("signals.csv", b"time," + b"a," * 100_000 + b"\n1\n", signals_of)
    assert "100,002 columns, more than 20,000; split it by market" in str(error)


@pytest.mark.parametrize("text", ["1" * 5_000, "[" * 100_000, '{"a": NaN'], ids=["digits", "deep", "cut"])
def test_json_that_breaks_parsers_is_damaged(text: str) -> None:
    for read in (read_json, lambda path: read_json_lines(path) or read_json(path)):
        assert isinstance(written("any.json", (text + "\n").encode(), read), DataError)


def test_numbers_without_end_are_no_ledger_no_level_and_no_message() -> None:
    """Each once ended in a traceback, or in no end at all."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file", "BTCUSDT", "60", "ledger.json")
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(Ledger().to_json()).replace('"rows": 0', '"rows": 1e999'))
        with pytest.raises(DataError, match="not a ledger"):
            Store(Path(folder)).ledger(Series("file", "BTCUSDT", HOURLY))
    assert num_levels(pd.DataFrame({"ask_price_999999999999": [1.0]})) == 0
    with pytest.raises(OverflowError):
        read_message('{"topic": "orderbook.50.X", "data": {"s": "X"}, "type": "delta", "ts": 1e999}', 50, "host")
