"""Give the program files and answers that nobody in his right mind would write, and count what comes of them.

    python scripts/fuzz.py --seconds 60 --seed 0 [--json] [--targets config,signals]

Each target reads one kind of input, through the functions behind the commands. An input is a whole one that was
spoiled: bits and bytes of it, cells of a table, or values in a tree of JSON or YAML, replaced by those that break
programs. It may be accepted, and then has to satisfy what the program relies on; or refused by a FlashtraderError on
one line, which is what a person sees. Anything else is a crash, and longer than LIMIT_S a hang: both are printed with
the number of the input, and the exit code is 1. Input n of a target depends on the seed and n alone.
"""

import argparse
import contextlib
import copy
import io
import json
import math
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import yaml

from flashtrader.backtest.signals import read_signals
from flashtrader.cli.console import Table, say, show
from flashtrader.config import Experiment, load_config, to_yaml
from flashtrader.errors import FlashtraderError
from flashtrader.interval import Interval
from flashtrader.manifest import read_manifest
from flashtrader.market.audit import FundingSeries, History, audit
from flashtrader.market.bars import validate_bars
from flashtrader.market.book_store import BookSeries, BookStore
from flashtrader.market.books import book_table
from flashtrader.market.funding_store import FundingStore
from flashtrader.market.http import RateLimiter
from flashtrader.market.sources.book_files import read_book_file
from flashtrader.market.sources.bybit import BybitSource
from flashtrader.market.sources.bybit_books import read_message
from flashtrader.market.sources.bybit_funding import BybitFunding
from flashtrader.market.sources.files import FileSource
from flashtrader.market.sources.yahoo import YahooSource
from flashtrader.market.store import Series, Span, Store
from flashtrader.registry import summarise
from flashtrader.run import Run, find_run

LIMIT_S = 20.0
HOURLY = Interval("60")
START_MS = 1_704_067_200_000
NUM_BARS = 240
SYMBOLS = ("BTCUSDT", "ETHUSDT")

NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, -(2**63), 2**64, 10**400, 1e308, -1e-308, 1e-320),
    *(math.nan, math.inf, -math.inf, "", " ", "nan", "inf", "1e999", "٣", "0x10", "1_000", "null", "-"),
    *("\x00", "\x1b[2J", "a\nb", "x" * 5_000, "../../etc/passwd", "/dev/zero", "C:\\", "🜁", "'", '"', "{}", "%s"),
    *("2024-01-01", "9999-12-31T23:59:59", "0001-01-01", "20240131", "2024-13-45", "1:59:59"),
    *([], {}, [[]], [None], {"": {}}, [1, "a", {}], {"kind": "tanh"}, [[[[[[[[1]]]]]]]]),
)


class BrokenPromiseError(Exception):
    """Something was accepted that the program can't rely on."""


class HangError(BaseException):
    """An input took longer than the limit. No handler of exceptions takes it for one of its own."""


@dataclass
class Tally:
    """What came of the inputs of a target."""

    outcomes: Counter[str] = field(default_factory=Counter)
    crashes: dict[str, str] = field(default_factory=dict)
    """By the place in the sources: the first input that led there, and how it ended."""


def nasty(chance: random.Random) -> Any:
    """Return one of the values that break programs."""
    return copy.deepcopy(chance.choice(NASTY))


def spoil_bytes(chance: random.Random, whole: bytes) -> bytes:
    """Return bytes of which a few are flipped, replaced, repeated, left out or cut off."""
    content = bytearray(whole)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        if not content:
            break
        place, length = chance.randrange(len(content)), chance.choice((1, 1, 4, 8, 64, 1024))
        match chance.randrange(7):
            case 0 | 1:
                content[place] ^= 1 << chance.randrange(8)
            case 2:
                content[place : place + length] = chance.randbytes(length)
            case 3:
                del content[place : place + length]
            case 4:
                content[place:place] = content[place : place + length] * chance.choice((1, 2, 50))
            case 5:
                content[place : place + length] = bytes(length) if chance.random() < 0.5 else b"\xff" * length
            case _:
                del content[place:]
    return bytes(content)


def spoil_text(chance: random.Random, whole: str) -> bytes:
    """Return a text with words of it replaced, or its bytes spoiled."""
    if chance.random() < 0.3:
        return spoil_bytes(chance, whole.encode())
    words = whole.split(" ")
    for _ in range(chance.choice((1, 1, 2, 5))):
        value = nasty(chance)
        tag = chance.choice(
            ("", "", "", "!!int ", "!!timestamp ", "!!binary ", "!!python/object:os.system ", "&a ", "*a")
        )
        words[chance.randrange(len(words))] = tag + (value if isinstance(value, str) else repr(value))
    return " ".join(words).encode("utf-8", "surrogatepass")


def spoil_tree(chance: random.Random, whole: Any) -> Any:
    """Return a tree of mappings, lists and values, of which a few are replaced, left out, moved or added."""
    tree = json.loads(json.dumps(whole))
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return nasty(chance)
        parent, key = chance.choice(places)
        match chance.randrange(6):
            case 0 | 1 | 2:
                parent[key] = nasty(chance)
            case 3:
                del parent[key]
            case 4:
                other, name = chance.choice(places)
                with contextlib.suppress(KeyError, IndexError):
                    parent[key] = json.loads(json.dumps(other[name]))
            case _:
                if isinstance(parent, dict):
                    parent[str(nasty(chance))[:50]] = nasty(chance)
                else:
                    parent.insert(key, nasty(chance))
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(tree[key])


def spoil_table(chance: random.Random, whole: pd.DataFrame, flags: Mapping[str, Any] | None = None) -> pa.Table:
    """Return a table with cells, types, names or the order of its rows changed. flags: columns that are no numbers."""
    rows = whole.sample(frac=1, random_state=chance.randrange(2**31)) if chance.random() < 0.2 else whole
    columns = {str(name): rows[name].tolist() for name in rows.columns}
    arrays: dict[str, Any] = {}
    for name, values in columns.items():
        for _ in range(chance.choice((0, 0, 1, 3))):
            values[chance.randrange(len(values))] = chance.choice((None, 0.0, -1.0, math.nan, math.inf, 1e308, 1e-320))
        arrays[name] = pa.array([None if value is None else float(value) for value in values], pa.float64())
        if name == whole.columns[0]:
            arrays[name] = arrays[name].cast(pa.int64(), safe=False)
    for _ in range(chance.choice((0, 1, 1, 2))):
        name = chance.choice(list(arrays))
        with contextlib.suppress(pa.ArrowException, ValueError, OverflowError):
            arrays[name] = _retyped(chance, arrays[name])
    arrays |= {name: pa.array(values.to_list()) for name, values in (flags or {}).items()}
    names = list(arrays)
    for _ in range(chance.choice((0, 0, 1))):
        names[chance.randrange(len(names))] = str(nasty(chance))[:100].replace("\x00", "")
    count = chance.choice((None, None, None, 0, 1, 2))
    return pa.table(list(arrays.values()), names=names).slice(0, count)


def _retyped(chance: random.Random, array: Any) -> Any:
    num = len(array)
    match chance.randrange(12):
        case 0:
            return array.cast(pa.string())
        case 1:
            return array.cast(pa.string()).dictionary_encode()
        case 2:
            return pa.array([[1.0]] * num)
        case 3:
            return pa.array([{"a": 1}] * num)
        case 4:
            return pa.array([b"\xff\x00"] * num)
        case 5:
            return pa.array([2**62 - row for row in range(num)], pa.timestamp(chance.choice(("ms", "us", "ns"))))
        case 6:
            return pa.array([chance.choice((2**63 - 1, -(2**63), 0))] * num, pa.int64())
        case 7:
            return pa.array([True] * num)
        case 8:
            return pa.nulls(num)
        case 9:
            return array.cast(pa.int64(), safe=False).cast(
                pa.timestamp("ms", tz=chance.choice((None, "UTC", "Asia/Tokyo")))
            )
        case 10:
            return pa.array([str(nasty(chance))[:200] for _ in range(num)])
        case _:
            return array.cast(pa.decimal128(38, 2), safe=False)


def write_table(chance: random.Random, path: Path, table: pa.Table) -> None:
    """Write a table, nested columns left out where they can't be, and spoil the file itself now and then."""
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        kept = [number for number, field in enumerate(table.schema) if not _only_in_parquet(field.type)]
        pyarrow.csv.write_csv(table.select(kept), path)
    if chance.random() < 0.4:
        path.write_bytes(spoil_bytes(chance, path.read_bytes()))


def _only_in_parquet(kind: pa.DataType) -> bool:
    return bool(pa.types.is_nested(kind) or pa.types.is_binary(kind))


def promise(kept: bool, words: str) -> None:
    """Raise BrokenPromiseError unless a promise is kept."""
    if not kept:
        raise BrokenPromiseError(words)


def bars_table() -> pd.DataFrame:
    """Return valid hourly bars."""
    generator = np.random.default_rng(0)
    close = 100 * np.exp(np.cumsum(generator.normal(scale=0.01, size=NUM_BARS)))
    open_ = np.concatenate([[100.0], close[:-1]])
    high, low = np.maximum(open_, close) * 1.001, np.minimum(open_, close) * 0.999
    timestamps = START_MS + HOURLY.milliseconds * np.arange(NUM_BARS, dtype=np.int64)
    values = {"open": open_, "high": high, "low": low, "close": close, "volume": generator.lognormal(size=NUM_BARS)}
    return pd.DataFrame({"timestamp": timestamps} | values)


def books_table() -> pd.DataFrame:
    """Return valid snapshots of a book."""
    best = np.tile([[101.0, 1.0, 100.0, 1.0], [102.0, 2.0, 99.0, 2.0]], (20, 1, 1))
    return book_table(START_MS + np.arange(20, dtype=np.int64), best)


class Place:
    """A directory with a store, and a run that was trained for a moment; what is spoiled lies in `file`."""

    def __init__(self, root: Path) -> None:
        from flashtrader.backtest.experiment import backtest_run
        from flashtrader.backtest.outputs import write_backtest
        from flashtrader.forecasting.forecast import forecast_run, keep_forecasts
        from flashtrader.training.loop import train_model

        self.root, self.data = root, root / "data"
        self.bars = bars_table()
        self.store, self.series = Store(self.data), Series("file", SYMBOLS[0], HOURLY)
        for symbol in SYMBOLS:
            Store(self.data).append(Series("file", symbol, HOURLY), self.bars, Span(START_MS, self.end_ms))
        self.store.examine(self.series)
        settled = pd.DataFrame({"timestamp": START_MS + 8 * HOURLY.milliseconds * np.arange(9), "rate": 1e-4})
        FundingStore(self.data).append("file", SYMBOLS[0], settled, Span(START_MS, self.end_ms))
        book = BookSeries("file", SYMBOLS[0], 2)
        BookStore(self.data).append(book, books_table())
        funding = FundingSeries("file", SYMBOLS[0])
        self.histories: list[tuple[str, History]] = [("60", self.series), ("book-2", book), ("funding", funding)]
        self.settings = {
            "name": "fuzz",
            "data": {"source": "file", "symbols": list(SYMBOLS), "interval": "60"},
            "panel": {"features": ["log_return", "volatility_6"], "target": {"horizon_bars": 2}},
            "split": {"validation": 0.2, "test": 0.2},
            "model": {"context_bars": 8, "width": 8, "layers": 1, "heads": 2},
            "training": {"segment_bars": 16, "batch_size": 2, "max_steps": 2, "evaluate_every": 1, "device": "cpu"}
            | {"plain_models": ["ridge", "boosting"]},
        }
        (root / "fuzz.yaml").write_text(yaml.safe_dump(self.settings))
        self.experiment = load_config(root / "fuzz.yaml")
        self.run: Run = train_model(self.experiment, self.data, root / "runs", lambda _: None).run
        keep_forecasts(forecast_run(self.run, self.data))
        tested = backtest_run(self.run, self.experiment, self.data).result
        write_backtest(tested, self.run.path, self.experiment.model_dump(mode="json"))
        self.file = root / "input"
        self.file.mkdir()

    @property
    def end_ms(self) -> int:
        """Close of the last bar."""
        return START_MS + NUM_BARS * HOURLY.milliseconds


def fuzz_config(chance: random.Random, place: Place) -> None:
    """Read a YAML file."""
    path = place.file / "config.yaml"
    if chance.random() < 0.5:
        path.write_bytes(spoil_text(chance, to_yaml(place.experiment)))
    else:
        settings = spoil_tree(chance, yaml.safe_load(to_yaml(place.experiment)))
        path.write_text(yaml.safe_dump(settings, allow_unicode=True), errors="surrogatepass")
    _check_config(load_config(path), path)


def fuzz_set(chance: random.Random, place: Place) -> None:
    """Read overrides on a command line."""
    keys = [
        "model.width",
        "data.symbols",
        "policy.kind",
        "split.test",
        "panel.target",
        "training.seeds",
        "x",
        "a..b",
        "",
    ]
    values = [str(nasty(chance)).replace("\x00", "") for _ in range(3)]
    overrides = [f"{chance.choice(keys)}{chance.choice(('=', '=', '=', '', '=='))}{value}" for value in values]
    _check_config(load_config(place.root / "fuzz.yaml", overrides[: chance.randint(1, 3)]), place.file / "again.yaml")


def _check_config(experiment: Experiment, path: Path) -> None:
    path.write_text(to_yaml(experiment))
    promise(load_config(path) == experiment, "a config does not survive a round trip")
    promise("/" not in experiment.name and experiment.name.strip(".") != "", "a run could be made elsewhere")


def fuzz_bars(chance: random.Random, place: Place) -> None:
    """Read a file of bars, CSV or Parquet."""
    path = place.file / f"BTCUSDT-60.{chance.choice(('csv', 'parquet'))}"
    write_table(chance, path, spoil_table(chance, place.bars))
    source = FileSource(path, now_ms=place.end_ms)
    span = source.history("BTCUSDT", HOURLY)
    for page in source.pages("BTCUSDT", HOURLY, span):
        validate_bars(page.bars, HOURLY, "page")


def fuzz_books(chance: random.Random, place: Place) -> None:
    """Read a file of order books."""
    table = books_table()
    path = place.file / f"BTCUSDT.{chance.choice(('csv', 'parquet'))}"
    write_table(
        chance, path, spoil_table(chance, table.drop(columns="gap_before"), {"gap_before": table["gap_before"]})
    )
    promise(len(read_book_file(path, "BTCUSDT").books) > 0, "a file without a book")


def fuzz_store(chance: random.Random, place: Place) -> None:
    """Read a stored history with a part or its ledger spoiled."""
    with _spoiled(chance, place.store.directory(place.series)):
        place.store.ledger(place.series)
        bars = place.store.read(place.series)
        promise(bars.equals(place.bars), "other bars are read than were stored")


def fuzz_audit(chance: random.Random, place: Place) -> None:
    """Check stored bars, funding or books with a part or their ledger spoiled: an audit refuses nothing, it reports."""
    name, history = chance.choice(place.histories)
    directory = place.data / "file" / SYMBOLS[0] / name
    with _spoiled(chance, directory) as changed:
        findings = audit(place.data, history).findings
        promise(changed.suffix == ".json" or bool(findings), "damage to a part is not seen")
        promise(all(finding.path.resolve().parent == directory for finding in findings), "a repair would go elsewhere")


@contextlib.contextmanager
def _spoiled(chance: random.Random, directory: Path) -> Iterator[Path]:
    """Spoil a part or the ledger in a directory for a while, and yield its path."""
    victim = chance.choice(sorted(path for path in directory.iterdir() if path.suffix in (".parquet", ".json")))
    whole = spoiled = victim.read_bytes()
    while spoiled == whole:
        if victim.suffix == ".json" and chance.random() < 0.7:
            spoiled = json.dumps(spoil_tree(chance, json.loads(whole))).encode()
        else:
            spoiled = spoil_bytes(chance, whole)
    victim.write_bytes(spoiled)
    try:
        yield victim
    finally:
        victim.write_bytes(whole)


def fuzz_signals(chance: random.Random, place: Place) -> None:
    """Read anyone's forecasts or weights."""
    path = place.file / f"signals.{chance.choice(('csv', 'parquet'))}"
    clock_T = place.bars["timestamp"].to_numpy()
    if chance.random() < 0.3:
        path = path.with_suffix(".parquet")
        path.write_bytes(spoil_bytes(chance, place.run.forecasts.read_bytes()))
    else:
        generator = np.random.default_rng(chance.randrange(2**31))
        values = {symbol: generator.normal(size=30) for symbol in SYMBOLS}
        write_table(chance, path, spoil_table(chance, pd.DataFrame({"time": clock_T[:30]} | values)))
    read = read_signals(path, clock_T, SYMBOLS, HOURLY)
    numbers = read.to_numpy()
    promise(not np.isinf(numbers).any() and numbers.dtype == np.float64, "a signal is not a number")
    promise(bool(np.isin(pd.DatetimeIndex(read.index).as_unit("ms").asi8, clock_T).all()), "a signal is of no bar")
    promise(read.index.is_monotonic_increasing and read.index.is_unique, "signals are not in order")


def fuzz_weights(chance: random.Random, place: Place) -> None:
    """Read a trained model: its bits spoiled, or what it holds under a digest that is right."""
    from flashtrader.models.families import load_model
    from flashtrader.models.weights import load_tensors, save_tensors

    source, path = place.run.checkpoints / "best.safetensors", place.file / "best.safetensors"
    whole, facts = load_tensors(source)
    if chance.random() < 0.6:
        path.write_bytes(spoil_bytes(chance, source.read_bytes()))
        tensors, told = load_tensors(path)
        same = told == facts and all(bool((tensors[name] == whole[name]).all()) for name in whole)
        promise(same, "damaged weights were taken for whole ones")
    else:
        save_tensors(path, _spoil_tensors(chance, whole), facts)
    load_model(path, place.experiment)


def fuzz_plain(chance: random.Random, place: Place) -> None:
    """Read a plain model and forecast with it."""
    import torch

    from flashtrader.models.plain import load_plain
    from flashtrader.models.weights import load_tensors, save_tensors
    from flashtrader.panel.closes import price_panel
    from flashtrader.panel.loading import load_panel
    from flashtrader.panel.splits import Rows

    family = chance.choice(place.experiment.plain_models)
    source, path = place.run.plain_model(family), place.file / "plain.safetensors"
    tensors, facts = load_tensors(source)
    if family == "boosting" and chance.random() < 0.7:
        content = spoil_bytes(chance, tensors["booster"].numpy().tobytes())
        tensors["booster"] = torch.from_numpy(np.frombuffer(content, np.uint8).copy())
        save_tensors(path, tensors, facts)
    elif chance.random() < 0.5:
        save_tensors(path, _spoil_tensors(chance, tensors), facts)
    else:
        path.write_bytes(spoil_bytes(chance, source.read_bytes()))
    model = load_plain(path, family, place.experiment)
    loaded = load_panel(place.experiment, place.data)
    model.forecast(price_panel(loaded.panel, loaded.tables, 3), Rows(100, 120))


def _spoil_tensors(chance: random.Random, whole: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    tensors = dict(whole)
    name = chance.choice(list(tensors))
    match chance.randrange(6):
        case 0:
            del tensors[name]
        case 1:
            tensors[name] = tensors[name].repeat(2, *[1] * max(0, tensors[name].dim() - 1))
        case 2:
            types = (torch.float16, torch.int64, torch.bool, torch.float8_e4m3fn, torch.complex64, torch.float64)
            tensors[name] = tensors[name].to(chance.choice(types))
        case 3:
            tensors[name] = torch.full_like(tensors[name].float(), chance.choice((math.nan, math.inf, 1e38, 0.0)))
        case 4:
            tensors[str(nasty(chance))[:60]] = torch.zeros(0)
        case _:
            tensors[name] = tensors[name].reshape(-1)[:1].squeeze()
    return tensors


def fuzz_checkpoint(chance: random.Random, place: Place) -> None:
    """Go on from a checkpoint."""
    from flashtrader.models.families import build_model
    from flashtrader.models.model import unit_scaler
    from flashtrader.models.weights import load_tensors, save_tensors
    from flashtrader.panel.loading import panel_shape
    from flashtrader.training.checkpoint import restore_checkpoint
    from flashtrader.training.optim import Schedule, build_optimiser

    source, path = place.run.checkpoints / "last.safetensors", place.file / "last.safetensors"
    if chance.random() < 0.4:
        path.write_bytes(spoil_bytes(chance, source.read_bytes()))
    else:
        tensors, facts = load_tensors(source)
        if chance.random() < 0.5:
            tensors = _spoil_tensors(chance, tensors)
        else:
            facts = spoil_tree(chance, facts)
        save_tensors(path, tensors, facts)
    model = build_model(place.experiment, unit_scaler(panel_shape(place.experiment)))
    optimiser = build_optimiser(model, place.experiment.training)
    progress = restore_checkpoint(place.file, model, optimiser, Schedule(place.experiment.training))
    promise(isinstance(progress.step, int) and progress.step >= 0, "a training would go on from no step")


def fuzz_manifest(chance: random.Random, place: Place) -> None:
    """Read what says how a run was made."""
    from flashtrader.panel.loading import load_panel
    from flashtrader.panel.splits import split_at
    from flashtrader.training.walk_forward import trained_folds

    path = _spoiled_run(chance, place, "manifest.json")
    summarise(path)
    trained_folds(find_run(place.file, path.name))
    split = split_at(load_panel(place.experiment, place.data).panel, read_manifest(path / "manifest.json").split)
    promise(0 <= split.test.start <= split.test.stop, "a split of no rows")


def fuzz_backtest(chance: random.Random, place: Place) -> None:
    """List and compare what backtests left."""
    from flashtrader.report.comparison import compare_runs, read_traded

    path = _spoiled_run(chance, place, "backtest.json")
    summarise(path)
    compare_runs([read_traded(Run(path)), read_traded(place.run)])


def _spoiled_run(chance: random.Random, place: Place, name: str) -> Path:
    path = place.file / "fuzz-900"
    path.mkdir(exist_ok=True)
    for kept in ("config.yaml", "manifest.json", "backtest.json", "equity.parquet"):
        (path / kept).write_bytes((place.run.path / kept).read_bytes())
    whole = (place.run.path / name).read_bytes()
    if chance.random() < 0.7:
        (path / name).write_text(json.dumps(spoil_tree(chance, json.loads(whole))), errors="surrogatepass")
    else:
        (path / name).write_bytes(spoil_bytes(chance, whole))
    return path


class Clock:
    """A time that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Let the time pass at once."""
        self.now_s += seconds


def fuzz_exchange(chance: random.Random, place: Place) -> None:
    """Fetch from exchanges."""
    rows = [[str(value) for value in row] + ["1"] for row in place.bars.iloc[::-1].astype(object).to_numpy().tolist()]
    stamps = [{"symbol": "BTCUSDT", "fundingRate": "0.0001", "fundingRateTimestamp": row[0]} for row in rows[::8]]
    quote = {name: place.bars[name].tolist() for name in ("open", "high", "low", "close", "volume")}
    meta = {
        "exchangeTimezoneName": "UTC",
        "regularMarketTime": place.end_ms // 1000,
        "firstTradeDate": START_MS // 1000,
    }
    chart = {"meta": meta, "timestamp": (place.bars["timestamp"] // 1000).tolist(), "indicators": {"quote": [quote]}}
    kind: type[BybitSource] | type[BybitFunding] | type[YahooSource]
    kind, answer = chance.choice(
        (
            (BybitSource, _envelope(place, {"category": "linear", "symbol": "BTCUSDT", "list": rows})),
            (BybitFunding, _envelope(place, {"category": "linear", "list": stamps})),
            (YahooSource, {"chart": {"result": [chart], "error": None}}),
        )
    )

    clock = Clock()

    def handler(_: httpx.Request) -> httpx.Response:
        content = json.dumps(spoil_tree(chance, answer) if chance.random() < 0.4 else answer).encode()
        if chance.random() < 0.1:
            content = spoil_bytes(chance, content)
        value = str(nasty(chance)).encode("ascii", "replace").replace(b"\n", b"").replace(b"\x00", b"")
        headers = {chance.choice(("Retry-After", "Date", "X-Bapi-Limit-Reset-Timestamp", "X")).encode(): value}
        status = chance.choice((200,) * 12 + (404, 429, 500))
        stream = httpx.ByteStream(content)
        return httpx.Response(status, stream=stream, headers={**headers, b"X-Bapi-Limit-Status": b"0"})

    source = kind(base_url="http://127.0.0.1:9", limiter=RateLimiter(1_000_000, 1.0, clock=clock, sleep=clock.sleep))
    source._client._client = httpx.Client(base_url="http://exchange", transport=httpx.MockTransport(handler))
    if isinstance(source, BybitFunding):
        for settled in source.pages("BTCUSDT", Span(START_MS, place.end_ms)):
            promise(bool(np.isfinite(settled.settlements["rate"]).all()), "funding without a rate")
        return
    source.history("BTCUSDT", HOURLY)
    for page in source.pages("BTCUSDT", HOURLY, Span(START_MS, place.end_ms)):
        validate_bars(page.bars, HOURLY, "page")


def _envelope(place: Place, result: Mapping[str, Any]) -> dict[str, Any]:
    return {"retCode": 0, "retMsg": "OK", "result": result, "time": place.end_ms}


def fuzz_stream(chance: random.Random, place: Place) -> None:  # noqa: ARG001
    """Read messages of a stream of books, whose recorder takes these exceptions for a broken stream."""
    data = {"s": "BTCUSDT", "b": [["99", "1"]], "a": [["101", "2"]], "u": 7, "seq": 1}
    message = {"topic": "orderbook.50.BTCUSDT", "type": "delta", "ts": START_MS, "data": data, "cts": START_MS}
    text = spoil_bytes(chance, json.dumps(message).encode())
    if chance.random() < 0.7:
        text = json.dumps(spoil_tree(chance, message)).encode()
    with contextlib.suppress(ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError):
        read = read_message(text, 50, "host")
        promise(read is None or all(0 < price < math.inf for price, _ in read.asks + read.bids), "a price that is none")


TARGETS: dict[str, Callable[[random.Random, Place], None]] = {
    "config": fuzz_config,
    "set": fuzz_set,
    "bars": fuzz_bars,
    "books": fuzz_books,
    "store": fuzz_store,
    "audit": fuzz_audit,
    "signals": fuzz_signals,
    "weights": fuzz_weights,
    "plain": fuzz_plain,
    "checkpoint": fuzz_checkpoint,
    "manifest": fuzz_manifest,
    "backtest": fuzz_backtest,
    "exchange": fuzz_exchange,
    "stream": fuzz_stream,
}


def one_input(name: str, number: int, seed: int, place: Place) -> tuple[str, str]:
    """Return what came of an input (accepted, refused, crash or hang), and for the last two how it ended."""
    chance = random.Random(f"{seed} {name} {number}")
    quiet = io.StringIO()
    try:
        with warnings.catch_warnings(), _limited(LIMIT_S), contextlib.redirect_stderr(quiet):
            warnings.simplefilter("ignore")
            TARGETS[name](chance, place)
    except FlashtraderError as error:
        if "\n" in str(error) or not str(error):
            return "crash", f"a message of several lines, or of none: {str(error)[:200]!r}"
        return "refused", ""
    except HangError:
        return "hang", "".join(traceback.format_exc(limit=-3))
    except Exception:
        return "crash", "".join(traceback.format_exc(limit=-4))
    return "accepted", ""


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzz(place: Place, seconds: float, seed: int, names: list[str]) -> dict[str, Tally]:
    """Give each target as much time as any other; return what came of them."""
    tallies = {name: Tally() for name in names}
    for name, tally in tallies.items():
        ends, number = time.monotonic() + seconds / len(names), 0
        while time.monotonic() < ends:
            outcome, told = one_input(name, number, seed, place)
            tally.outcomes[outcome] += 1
            if told:
                where = [line for line in told.splitlines() if line.strip().startswith("File")] or [told]
                tally.crashes.setdefault(where[-1], f"{name} {number}: {outcome}\n{told}")
            number += 1
    return tallies


def main() -> int:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tallies = fuzz(Place(Path(folder)), asked.seconds, asked.seed, asked.targets.split(","))
    for tally in tallies.values():
        for crash in tally.crashes.values():
            say(crash)
    outcomes = ("accepted", "refused", "crash", "hang")
    rows = [(name, *(f"{tally.outcomes[outcome]:,}" for outcome in outcomes)) for name, tally in tallies.items()]
    payload = {"seed": asked.seed, "targets": {name: dict(tally.outcomes) for name, tally in tallies.items()}}
    show([Table("Inputs", ("target", *outcomes), rows)], payload, asked.json)
    return int(any(tally.crashes for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
