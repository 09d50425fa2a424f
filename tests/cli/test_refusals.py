"""The exact message and exit code of refusals: bench, sweeps, torchrun, books, families, comparisons, files of a run.

{root} stands for the directory of the test, {run} for its run.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from place import TRAIN, WEIGHTS, Place, Spoil

RESUME = "train --resume tiny-001 --set training.max_steps=3"
RESUME_SWEEP = "train --resume {root}/runs/s.json"
BOOKS = "fetch --kind orderbook --symbols AAA"
CONTEXT = "bench context --config {root}/tiny.yaml"

BENCH = [
    ("bench nothing", 2, "No such command 'nothing'."),
    ("bench memory none.yaml", 2, "none.yaml: can't be read (No such file or directory); give the path of a YAML file"),
    ("bench attention --lengths abc", 2, "--lengths abc: write whole numbers separated by commas"),
    ("bench attention --lengths ,", 2, "--lengths ,: write whole numbers separated by commas"),
    ("bench attention --lengths 0", 2, "--lengths 0: a sequence has at least one token"),
    ("bench attention --lengths 64,4294967296", 2, "--lengths 64,4294967296: lengths go up to 4,294,967,295"),
    (
        "bench attention --lengths 64 --backends flsh",
        2,
        "attention backend 'flsh' is unknown; all: naive, tiled, sdpa, sdpa-flash, sdpa-efficient, sdpa-cudnn, "
        "sdpa-math, flash, flash-4, flash-3, flash-2, xformers, nn.MultiheadAttention, flex_attention",
    ),
    ("bench context", 2, "give --config X.yaml, the experiment to train at each context"),
    (CONTEXT + " --contexts 8", 2, "a comparison needs two contexts or more, such as --contexts 64,512"),
    (CONTEXT + " --contexts 8,x", 2, "--contexts 8,x: write whole numbers separated by commas"),
    (CONTEXT + " --split all", 2, "Invalid value for '--split': 'all' is not one of 'validation', 'test'."),
]
SWEEPS = [
    (
        "train --resume none-sweep-001.json",
        2,
        "no sweep 'none-sweep-001.json' here or in {root}/runs; give the file that `train --sweep` wrote",
    ),
    (TRAIN + " --sweep model.width", 2, "--sweep model.width: write it as section.key=value,value"),
    (TRAIN + " --sweep model.width=8,", 2, "--sweep model.width=8,: write it as section.key=value,value"),
    (TRAIN + " --sweep model.width=8,8", 2, "--sweep model.width=8,8: give each key, and each of its values, once"),
    (
        TRAIN + " --sweep model.width=8 --sweep model.width=16",
        2,
        "--sweep model.width=16: give each key, and each of its values, once",
    ),
    (
        TRAIN + " --sweep model.widht=8",
        2,
        "{root}/tiny.yaml: model.widht: unknown key; the nearest is model.width",
    ),
    (TRAIN + " --sweep model.heads=2,3", 2, "{root}/tiny.yaml: model: heads (3) must divide width (8)"),
    (
        TRAIN + " --sweep model.width=8,16 --dry-run",
        2,
        "--dry-run tells of one experiment; give it --set in place of --sweep",
    ),
    (
        RESUME_SWEEP + " --set model.width=8",
        2,
        "--sweep needs --config X.yaml beside it; a sweep goes on with --resume alone, as it was",
    ),
    (
        TRAIN + " --workers 2",
        2,
        "--workers and --engine are for several models: of folds (split.walk_forward), seeds (training.seeds) or a "
        "--sweep; this is one model, which torchrun trains with several processes",
    ),
    (TRAIN + " --engine spark", 2, "Invalid value for '--engine': 'spark' is not one of 'processes', 'ray'."),
    (
        "train --from tiny-001 --workers 2",
        2,
        "--workers and --engine can't stand beside --from, which trains the same in the same order",
    ),
    (
        "train --from other",
        2,
        "--from other: no manifest and no run here or in {root}/runs; give runs/NAME/manifest.json",
    ),
]
OPTIONS = [
    (
        "predict --attention soon",
        2,
        "--attention: 'soon' is not a date such as 2024-01-31 or 2024-01-31T12:00; or give `latest`, or a number of "
        "bars",
    ),
    (
        "predict --attention 0",
        2,
        "--attention 0: the run's test part has 80 bars with a forecast; ask for some of them",
    ),
    (
        "predict --attention 2030-01-01",
        2,
        "--attention 2030-01-01: no bar opens then; the nearest opens at 1970-01-17T15:00:00Z",
    ),
    (
        "predict --attention 1970-01-01",
        2,
        "--attention: there is no forecast at 1970-01-01T00:00:00Z, for features are missing there; choose another bar",
    ),
    (
        "runs best --by luck",
        2,
        "Invalid value for '--by': 'luck' is not one of 'sharpe', 'total_return', 'annual_return', 'sortino', "
        "'calmar', 'ic', 'skill'.",
    ),
    (
        "backtest --compare tiny-001 --weights x.csv",
        2,
        "--weights: does not go with --compare, which trades nothing",
    ),
    (
        "fetch --symbols AAA --source moon",
        2,
        "Invalid value for '--source': 'moon' is not one of 'bybit', 'yahoo', 'file', 'simulated'.",
    ),
    ("fetch --symbols AAA --start soon", 2, "--start: 'soon' is not a date such as 2024-01-31 or 2024-01-31T12:00"),
    (
        "fetch --symbols AAA --source file --path {root}/none",
        2,
        "{root}/none: no such file or directory; give --path a file of bars or their directory",
    ),
    (BOOKS + " --source yahoo", 2, "--kind orderbook goes with --source bybit or file, not yahoo"),
    (BOOKS + " --source file", 2, "--source file needs --path: one file of order books"),
    (
        BOOKS + " --source file --path {root}/none.csv",
        2,
        "{root}/none.csv: no such file; give --path one file of order books",
    ),
    (
        BOOKS + ",BBB --source file --path {root}/tiny.yaml",
        2,
        "--symbols AAA,BBB: a file of order books holds one market",
    ),
    (
        BOOKS + " --source file --path {root}/tiny.yaml",
        1,
        "{root}/tiny.yaml: not a file of order books: .parquet or .csv with their columns, LOBSTER, FI-2010",
    ),
    (
        BOOKS + " --source file --path {root}/tiny.yaml --duration 3s",
        2,
        "--source file takes --path and --levels: its books are recorded already",
    ),
    (BOOKS + " --once --duration 3s", 2, "--once is one snapshot: it takes neither --duration nor --every"),
    (BOOKS + " --duration soon", 2, "--duration soon: write a time such as 100ms, 60s, 10m, 2h or 1d"),
    (BOOKS + " --levels 9999", 2, "--levels 9999: Bybit's books have 1 to 200 levels"),
    (BOOKS + " --base-url http://x", 2, "--base-url http://x: write it as wss://host or ws://host:port"),
    (
        "fetch --kind funding --symbols AAA --source file",
        2,
        "--source file needs --path: one file of settlements",
    ),
    (
        "fetch --kind funding --symbols AAA --source file --path {root}/none.csv",
        2,
        "{root}/none.csv: no such file; give --path one file of settlements",
    ),
    (
        "fetch --kind funding --symbols AAA --category spot",
        2,
        "--kind funding is of perpetuals; --category spot has none",
    ),
    (
        "fetch --kind funding --symbols AAA --source yahoo",
        2,
        "--kind funding goes with --source bybit or file, not yahoo",
    ),
]
CONFIGS = [
    ("model.family=candles", "panel.target.kind: family candles learns next_candle, not log_return"),
    (
        "model.family=candles panel.target.kind=next_candle",
        "data.symbols: family candles reads one market; train one run for each",
    ),
    ("policy.kind=weights", "policy.kind: weights goes with training.loss: sharpe, and with nothing else"),
    (
        "policy.kind=threshold policy.short_below=1 policy.long_above=0",
        "policy: short_below must not exceed long_above",
    ),
    ("split.validation=2024-03-01 split.test=2024-02-01", "split: validation must begin before test"),
    ("split.validation=2024-03-01", "split: give validation and test both as fractions or both as dates"),
    ("model.width=10", "model: width / heads is 5, but rotary positions need an even number"),
    (
        "training.context_parallel=2",
        "training: context_parallel needs processes to share a segment; set distributed to ddp or fsdp",
    ),
    ("training.warmup_bars=40", "training: warmup_bars (40) must be below segment_bars (32)"),
    ("panel.multiscale=[D]", "panel.multiscale: only family candles takes it, not returns"),
    ("a.b.c=1", "a: unknown key; the nearest is name"),
]
EXPERIMENTS = [
    ("--set nonsense", 2, "--set nonsense: write it as section.key=value"),
    (
        "--set model.width=[",
        2,
        "--set model.width=[: not valid YAML (line 1: expected the node content, but found '<stream end>')",
    ),
    (
        "--set model.family=ridge --dry-run",
        2,
        "model.family: ridge is a plain model, fitted at once and without a transformer, which --dry-run, --follow "
        "and --attention are about; leave the option out",
    ),
    (
        "--set panel.features=[volatility_9999]",
        1,
        "AAA: volatility_9999 is nowhere known; its longest stretch without an outage has 400 bars: "
        "shorten the windows in panel.features, raise panel.max_gap_bars, or fetch more bars",
    ),
]


def into(name: str, content: str | bytes) -> Spoil:
    """Write a file, named from the place's directory."""
    return lambda place: (place.root / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def cut(*names: str) -> Spoil:
    def spoil(place: Place) -> None:
        for name in names:
            path = place.run / "checkpoints" / name
            path.write_bytes(path.read_bytes()[:-9])

    return spoil


def another_byte(place: Place) -> None:
    path = place.run / "checkpoints/best.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def wider(place: Place) -> None:
    path = place.run / "config.yaml"
    path.write_text(path.read_text().replace("width: 8", "width: 16"))


def weights_as_checkpoint(place: Place) -> None:
    checkpoints = place.run / "checkpoints"
    shutil.copy(checkpoints / "best.safetensors", checkpoints / "last.safetensors")


def manifest(**entries: object) -> Spoil:
    """Put entries into the manifest; None takes one out."""

    def spoil(place: Place) -> None:
        path = place.run / "manifest.json"
        changed = json.loads(path.read_text()) | entries
        path.write_text(json.dumps({key: value for key, value in changed.items() if value is not None}))

    return spoil


NO_JSON = "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
FILES = [
    (
        cut("last.safetensors", "previous.safetensors"),
        RESUME,
        1,
        "{run}/checkpoints/last.safetensors: damaged checkpoint (Error while deserializing header: incomplete "
        "metadata, file not fully covered); restore it from a copy, or train again",
    ),
    (
        another_byte,
        "predict",
        1,
        "{run}/checkpoints/best.safetensors: damaged checkpoint (its digest is wrong); restore it from a copy, or "
        "train again",
    ),
    (
        weights_as_checkpoint,
        "train --resume tiny-001 --set training.max_steps=9",
        1,
        "{run}/checkpoints/last.safetensors: the checkpoint does not fit the run's config.yaml; restore both from a "
        "copy, or train again",
    ),
    (
        wider,
        "predict",
        1,
        "{run}/checkpoints/best.safetensors: the weights do not fit the run's config.yaml; restore both from a "
        "copy, or train again",
    ),
    (
        into("runs/tiny-001/manifest.json", "[]"),
        "predict",
        1,
        "{run}/manifest.json: not the manifest of a run, which holds an experiment; restore it from a copy, or train "
        "the run again",
    ),
    (
        manifest(split=None),
        "train --from tiny-001",
        1,
        "{run}/manifest.json: split: field required; restore it from a copy, or train the run again",
    ),
    (
        manifest(experiment={}),
        "train --from tiny-001",
        1,
        "{run}/manifest.json: experiment: data: missing; it has no default; restore it from a copy, or train the run "
        "again",
    ),
    (
        manifest(experiment=None),
        "train --from tiny-001",
        1,
        "{run}/manifest.json: not the manifest of a run, which holds an experiment; restore it from a copy, or train "
        "the run again",
    ),
    (
        into("runs/tiny-001/metrics.jsonl", "{\n{}\n"),
        RESUME,
        1,
        "{run}/metrics.jsonl: damaged, not readable as lines of JSON (line 1, column 2: Expecting property name "
        "enclosed in double quotes); restore it from a copy, or delete it",
    ),
    (into("tiny.yaml", b"\xff\xfe\xff"), TRAIN, 2, "{root}/tiny.yaml: not UTF-8 text; give the path of a YAML file"),
    (into("tiny.yaml", "[]"), TRAIN, 2, "{root}/tiny.yaml: expected sections such as `data:` and `model:`, found list"),
    (
        into("w.txt", "time,AAA\n"),
        WEIGHTS.replace("w.csv", "w.txt"),
        2,
        "{root}/w.txt: forecasts and weights are read from .csv or .parquet files",
    ),
    (into("w.csv", ""), WEIGHTS, 1, "{root}/w.csv: empty; expected a column `time` and a column per symbol"),
    (
        into("w.csv", "time,AAA\n"),
        WEIGHTS,
        1,
        "{root}/w.csv: empty; expected a row per decision bar and a column per symbol",
    ),
    (
        into("w.csv", "AAA,BBB\n1,1\n"),
        WEIGHTS,
        1,
        "{root}/w.csv: no column `time`, found AAA, BBB; it holds the bars' opening times",
    ),
    (
        into("w.csv", "time,AAA\n1970-01-01T01:00,1\n,1\n"),
        WEIGHTS,
        1,
        "{root}/w.csv: row 2: no time; give each row its bar's opening time",
    ),
    (
        into("w.csv", "time,AAA\n1970-01-17T15:00,1\n"),
        WEIGHTS,
        1,
        "{root}/w.csv: the first decision, 1970-01-17T15:00:00Z, is the newest bar's, and no bar follows to fill it; "
        "begin earlier, or fetch more bars",
    ),
    (
        into("w.csv", "time,AAA\n1970-01-17T15:00,1\n"),
        WEIGHTS.replace("--weights", "--forecasts"),
        1,
        "weights from {root}/w.csv: the first decision, 1970-01-17T15:00:00Z, is the newest bar's, and no bar follows "
        "to fill it; begin earlier, or fetch more bars",
    ),
    (
        into("runs/s.json", "{"),
        RESUME_SWEEP,
        1,
        "{root}/runs/s.json: damaged, not readable as JSON (" + NO_JSON + "); restore it from a copy, or go on with "
        "its runs one by one",
    ),
    (
        into("runs/s.json", "{}"),
        RESUME_SWEEP,
        1,
        "{root}/runs/s.json: trials: field required; give the file of a sweep, or a run",
    ),
    (
        into("runs/s.json", '{"trials":[]}'),
        RESUME_SWEEP,
        1,
        "{root}/runs/s.json: trials: tuple should have at least 1 item after validation, not 0; give the file of a "
        "sweep, or a run",
    ),
    (
        into("runs/s.json", '{"trials":[{"run":"../x","values":{}}]}'),
        RESUME_SWEEP,
        1,
        "{root}/runs/s.json: trials.0.run: string should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]*$'; give the file "
        "of a sweep, or a run",
    ),
]


@pytest.mark.parametrize(("command", "exit_code", "message"), BENCH + SWEEPS + OPTIONS)
def test_what_can_t_be_asked_for(unspoiled: Place, command: str, exit_code: int, message: str) -> None:
    assert unspoiled.tells(command) == (exit_code, message)


def test_no_configs_to_measure(unspoiled: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = "no configs/ here; name the configs to measure: flashtrader bench memory X.yaml ..."
    assert unspoiled.tells("bench memory") == (2, message)


@pytest.mark.parametrize(("overrides", "message"), CONFIGS)
def test_what_can_t_be_an_experiment(unspoiled: Place, overrides: str, message: str) -> None:
    command = " ".join([TRAIN, *(f"--set {override}" for override in overrides.split())])
    assert unspoiled.tells(command) == (2, f"{{root}}/tiny.yaml: {message}")


@pytest.mark.parametrize(("options", "exit_code", "message"), EXPERIMENTS)
def test_what_can_t_be_trained(unspoiled: Place, options: str, exit_code: int, message: str) -> None:
    assert unspoiled.tells(f"{TRAIN} {options}") == (exit_code, message)


@pytest.mark.parametrize(("spoil", "command", "exit_code", "message"), FILES)
def test_what_can_t_be_read(
    copy_of_finished: Callable[[], Place], spoil: Spoil, command: str, exit_code: int, message: str
) -> None:
    place = copy_of_finished()
    spoil(place)
    assert place.tells(command) == (exit_code, message)


@pytest.mark.parametrize("several", ["--workers 2", "--engine ray", "--sweep model.width=8,16"])
def test_several_models_under_torchrun(unspoiled: Place, monkeypatch: pytest.MonkeyPatch, several: str) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert unspoiled.tells(f"{TRAIN} {several}") == (
        2,
        "--workers, --engine and --sweep train several models at once, and torchrun's processes one model together; "
        "leave torchrun out, or these",
    )


def test_backtests_that_can_t_be_compared(copy_of_finished: Callable[[], Place]) -> None:
    place = copy_of_finished()
    for name, interval, first in (("a", "60", 0), ("b", "D", 0), ("c", "60", 50)):
        run = place.root / "runs" / name
        shutil.copytree(place.run, run)
        times = pd.date_range("2024-01-01", periods=9, freq="h", tz="UTC") + pd.Timedelta(hours=first)
        pd.DataFrame({"equity": 1.0}, index=times.rename("time")).to_parquet(run / "equity.parquet")
        period = {"interval": interval, "calendar": "24/7"}
        told = {"metrics": {}, "experiment": {}, "verdict": "none", "period": period}
        (run / "backtest.json").write_text(json.dumps(told))
    assert place.tells("backtest --compare a a") == (2, "--compare: a is there more than once")
    assert place.tells("backtest --compare a b") == (2, "--compare: runs of one interval only, not of 60 and D")
    assert place.tells("backtest --compare a c") == (
        1,
        "--compare: no bar is common to all of these runs: a 2024-01-01 00:00 to 2024-01-01 08:00; "
        "c 2024-01-03 02:00 to 2024-01-03 10:00",
    )
    (place.root / "runs/b/backtest.json").write_text("{}")
    assert place.tells("backtest --compare a b") == (
        1,
        "{root}/runs/b/backtest.json: not whole; make it again with `flashtrader backtest --run {root}/runs/b`",
    )
