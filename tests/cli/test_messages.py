"""Every error that a person can cause at a command: its exact message and exit code, a row each.

Beside these: single keys of a config in test_config.py; how every kind of table and file of bars is refused in
test_signals.py, test_files_source.py and test_books.py; what an exchange answers in test_bybit.py and test_yahoo.py;
fetches in test_fetch_command.py, test_fetch_books.py and test_fetch_funding.py; folds and processes in
test_walk_forward_command.py, test_spread.py and test_distributed.py; reproduction in test_reproduce_command.py; whole
experiments in test_config_refusals.py; files of weights and of a run in test_file_refusals.py; bars and books that are
damaged or changed in test_data_refusals.py.

{root} stands for the directory of the test, {run} for its run.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from place import RESUME_SWEEP, TRAIN, Place

BOOKS = "fetch --kind orderbook --symbols AAA"
CONTEXT = "bench context --config {root}/tiny.yaml"

OPTIONS = [
    ("trian", 2, "No such command 'trian'. Did you mean 'train'?"),
    ("train --confg x.yaml", 2, "No such option: --confg (Possible options: --config, --json)"),
    (
        "train",
        2,
        (
            "give --config X.yaml to train anew, or --resume RUN to go on with a run, or --from RUN "
            "to train it again; one of them alone"
        ),
    ),
    (
        TRAIN + " --resume tiny-001",
        2,
        (
            "give --config X.yaml to train anew, or --resume RUN to go on with a run, or --from RUN "
            "to train it again; one of them alone"
        ),
    ),
    (TRAIN + " --allow-changed-data", 2, "--allow-changed-data needs --from beside it"),
    (
        "train --from tiny-001 --set training.seed=1",
        2,
        ("--set can't stand beside --from, which trains the same again; take --config for other keys"),
    ),
    ("predict --split test --bars 3", 2, "--bars needs --follow beside it"),
    ("predict --paths 3", 2, "--paths needs --rollout BARS beside it"),
    ("predict --rollout 3", 2, "--rollout: {run} is of family returns; only runs of family candles roll out"),
    (
        "predict --split tomorrow",
        2,
        ("Invalid value for '--split': 'tomorrow' is not one of 'test', 'all', 'latest'."),
    ),
    ("backtest --weights a.csv --forecasts b.csv", 2, "give --forecasts or --weights, not both"),
    ("backtest --weights a.csv", 2, "a.csv: give --config X.yaml, or --run R, to say on which bars and at what cost"),
    ("backtest --compare", 2, "--compare: give two runs or more"),
    ("backtest tiny-001", 2, "tiny-001: runs by name go with --compare; to trade one run's forecasts give --run"),
    ("runs compare tiny-001", 2, "name two runs or more: flashtrader runs compare RUN RUN"),
    ("fetch --symbols BTCUSDT,BTCUSDT", 2, "--symbols BTCUSDT,BTCUSDT: name each market once, separated by commas"),
    ("fetch --symbols BTCUSDT --repair", 2, "--repair goes with --check"),
]
NAMES = [
    ("predict --run other", 2, "no run 'other' here or in {root}/runs; the newest are tiny-001"),
    ("train --resume other", 2, "no run 'other' here or in {root}/runs; the newest are tiny-001"),
    ("verify --run other", 2, "no run 'other' here or in {root}/runs; the newest are tiny-001"),
    (
        "predict --runs-dir {root}/none",
        2,
        ("no trained run in {root}/none; make one with `flashtrader train --config …`, or give --run"),
    ),
    (
        "train --config {root}/none.yaml",
        2,
        ("{root}/none.yaml: can't be read (No such file or directory); give the path of a YAML file"),
    ),
    ("train --config {root}", 2, "{root}: can't be read (Is a directory); give the path of a YAML file"),
    (
        "backtest --weights {root}/none.csv --config {root}/tiny.yaml",
        2,
        "{root}/none.csv: no such file; give a CSV or Parquet file of forecasts or weights",
    ),
    (
        TRAIN + " --data-dir {root}/none",
        1,
        (
            "{root}/none/file/AAA/60: no bars of AAA 60 from file; get them with `flashtrader fetch "
            "--source file --path FILES --symbols AAA --interval 60`"
        ),
    ),
    (
        TRAIN + " --set data.start=2030-01-01",
        1,
        (
            "{root}/data/file/AAA/60: no bars of AAA 60 from file in the time asked for; stored are "
            "1970-01-01T00:00:00Z to 1970-01-17T15:00:00Z"
        ),
    ),
    (
        TRAIN + " --set data.symbols=[../AAA]",
        2,
        "symbol '../AAA' can't name a directory: use letters, digits and ^ & = + : . - _",
    ),
]
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
FAMILIES_AND_BOOKS = [
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


@pytest.mark.parametrize(("command", "exit_code", "message"), OPTIONS + NAMES + BENCH + SWEEPS + FAMILIES_AND_BOOKS)
def test_what_can_t_be_asked_for(unspoiled: Place, command: str, exit_code: int, message: str) -> None:
    assert unspoiled.tells(command) == (exit_code, message)


def test_no_configs_to_measure(unspoiled: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = "no configs/ here; name the configs to measure: flashtrader bench memory X.yaml ..."
    assert unspoiled.tells("bench memory") == (2, message)


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
