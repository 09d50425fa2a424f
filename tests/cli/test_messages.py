"""Every error that a person can cause at a command: its exact message and exit code, a row each.

Beside these: single keys of a config in test_config.py; how every kind of table and file of bars is refused in
test_signals.py, test_files_source.py and test_books.py; what an exchange answers in test_bybit.py and test_yahoo.py;
fetches in test_fetch_command.py, test_fetch_books.py and test_fetch_funding.py; folds and processes in
test_walk_forward_command.py, test_spread.py and test_distributed.py; reproduction in test_reproduce_command.py; bench,
sweeps, options of books, comparisons and files inside a run in test_refusals.py; bars and books that are damaged or
changed in test_data_refusals.py.

{root} stands for the directory of the test, {run} for its run. What `spoil` does, the row's command has to name.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from place import TRAIN, WEIGHTS, Place, Spoil

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
TOGETHER = [
    (
        (TRAIN + ' --set split={"walk_forward":{"train":900,"validation":50,"test":50}}'),
        2,
        (
            "split.walk_forward: one fold takes 956 bars (train 900, validation 50, and 6 until the "
            "first outcome of the test), and there are 400; shorten the parts or fetch more bars"
        ),
    ),
    (
        TRAIN + " --set split.walk_forward={train:900}",
        2,
        (
            "{root}/tiny.yaml: split.walk_forward.train: missing; it has no default; "
            "split.walk_forward.validation: missing; it has no default; split.walk_forward.test: "
            "missing; it has no default; split.walk_forward.train:900: unknown key; the nearest is "
            "split.walk_forward.train"
        ),
    ),
    (
        TRAIN + " --set training.segment_bars=9999",
        2,
        (
            "training.segment_bars: a segment has 9999 bars, but the longest stretch without an "
            "outage has 235 up to the end of this part; lower it, raise panel.max_gap_bars, or fetch "
            "more bars"
        ),
    ),
    (
        TRAIN + " --set model.attention=flsh",
        2,
        (
            "attention backend 'flsh' is unknown; the nearest is flash; all: auto, naive, tiled, "
            "sdpa, sdpa-flash, sdpa-efficient, sdpa-cudnn, sdpa-math, flash, flash-4, flash-3, "
            "flash-2, xformers"
        ),
    ),
    (
        TRAIN + " --set model.attention=flash",
        2,
        (
            "attention backend flash can't run this call (flash: needs a CUDA device, and the tensors"
            " are on cpu); take another, or auto"
        ),
    ),
    (TRAIN + " --set panel.features=[rsj_5]", 2, "panel.features: unknown feature 'rsj_5'; the nearest is rsi_5"),
    (
        TRAIN + " --set panel.target.horizon_bars=90",
        2,
        (
            "split.validation: the validation part would hold 80 of the 400 bars, but what comes of a"
            " decision stays inside it only with more than 91 (the target and the entry reach 91 bars"
            " ahead, split.embargo_bars is 0); move the boundary or fetch more bars"
        ),
    ),
    (
        "backtest --set panel.target.horizon_bars=9",
        2,
        (
            "panel.target: not that of {run}, whose forecasts are to be traded; leave it as it is "
            "there, or train a run with it"
        ),
    ),
    (
        "backtest --set data.interval=5",
        2,
        (
            "data.interval: not that of {run}, whose forecasts are to be traded; leave it as it is "
            "there, or train a run with it"
        ),
    ),
    (
        "backtest --set backtest.funding_rate=fetched",
        1,
        (
            "{root}/data/file/AAA/funding: no funding from 1970-01-14T09:00:00Z to "
            "1970-01-17T15:00:00Z, which the backtest covers; get it with `flashtrader fetch --kind "
            "funding --source file --path FILE --symbols AAA --start 1970-01-14T09:00`, or set "
            "backtest.funding_rate to a number or null"
        ),
    ),
    (
        "backtest --set backtest.max_gross=30 --set backtest.maintenance_margin=0.05",
        2,
        (
            "{run}/config.yaml: backtest: max_gross 30 of equity is liquidated as soon as it is held:"
            " maintenance_margin 0.05 allows less than 20"
        ),
    ),
    (
        "train --resume tiny-001 --set model.width=16",
        2,
        (
            "{run}: model.width can't change when a run goes on, only training.max_steps, "
            "training.patience, training.checkpoint_every, training.tensorboard, "
            "training.distributed, training.context_parallel; train a new run with --config"
        ),
    ),
    ("runs compare tiny-001 other", 2, "no run 'other' here or in {root}/runs; the newest are tiny-001"),
    (
        "backtest --compare tiny-001 other",
        1,
        "{run}: no backtest to compare; make it with `flashtrader backtest --run {run}`",
    ),
    (
        "backtest --compare tiny-001 tiny-001",
        1,
        "{run}: no backtest to compare; make it with `flashtrader backtest --run {run}`",
    ),
]
CONFIGS = [
    ("model.widht=8", "model.widht: unknown key; the nearest is model.width"),
    ("model.width=wide", "model.width: input should be a valid integer, unable to parse string as an integer"),
    ("model.width=0", "model.width: input should be greater than 0"),
    ("model.width=70000", "model.width: input should be less than or equal to 65536"),
    ("model.heads=3", "model: heads (3) must divide width (8)"),
    (
        "model.context_bars=64",
        (
            "model.context_bars (64) is longer than training.segment_bars (32): no bar of a segment "
            "would see all of its context; lower the one or raise the other"
        ),
    ),
    ("training.learning_rate=.nan", "training.learning_rate: input should be a finite number"),
    ("backtest.fee_bps=-1", "backtest.fee_bps: input should be greater than or equal to 0"),
    (
        "data.interval=7",
        ("data.interval: input should be '1', '3', '5', '15', '30', '60', '120', '240', '360', '720', 'D', 'W' or 'M'"),
    ),
    ("data.symbols=[]", "data.symbols: tuple should have at least 1 item after validation, not 0"),
    ("data.start=soon", "data.start: 'soon' is not a date such as 2024-01-31 or 2024-01-31T12:00"),
    (
        "policy.kind=magic",
        (
            "policy: input tag 'magic' found using 'kind' does not match any of the expected tags: "
            "'tanh', 'threshold', 'top_k', 'weights'"
        ),
    ),
    ("training.loss=sharpe", "training.loss: log_return of family returns takes huber or mse"),
    ("name=../x", "name: use letters, digits, dots, dashes and underscores, with a letter or digit first"),
    ("split.test=0.9", "split: validation and test leave no bars for training: their sum must be below 1"),
    ("model.backbone=hf model.dropout=0.1", "model: backbone hf takes dropout: 0.0 and nothing else"),
]


def hours(first: int, count: int, ms: int = 3_600_000) -> list[int]:
    return [ms * (first + number) for number in range(count)]


def weights(times: object, **columns: object) -> Spoil:
    def spoil(place: Place) -> None:
        pd.DataFrame({"time": times} | columns).to_csv(place.root / "w.csv", index=False)

    return spoil


def cut(name: str) -> Spoil:
    def spoil(place: Place) -> None:
        path = place.run / name
        path.write_bytes(path.read_bytes()[:-9])

    return spoil


def holding(name: str, text: str) -> Spoil:
    return lambda place: (place.run / name).write_text(text)


def without(*names: str) -> Spoil:
    def spoil(place: Place) -> None:
        for name in names:
            (place.run / name).unlink()

    return spoil


FILES = [
    (
        weights(hours(1, 3), AAA=[0.1, np.nan, 0.1], BB=0.1),
        WEIGHTS,
        1,
        "{root}/w.csv: column BB: not a symbol of the data (AAA, BBB); the nearest is BBB",
    ),
    (
        weights(hours(1, 3), AAA=[0.1, "buy", 0.1]),
        WEIGHTS,
        1,
        (
            "{root}/w.csv: column AAA, time 1970-01-01T02:00:00Z: buy is not a finite number; leave a"
            " cell empty for none"
        ),
    ),
    (weights(hours(1, 3), AAA=[np.nan] * 3), WEIGHTS, 1, "{root}/w.csv: no number in any column; every cell is empty"),
    (
        weights(hours(398, 3), AAA=0.1),
        WEIGHTS,
        1,
        (
            "{root}/w.csv: time 1970-01-17T16:00:00Z is not the opening time of a bar of the data: "
            "these look like closing times; label a row with its bar's opening time"
        ),
    ),
    (
        weights([3_600_000 * number - 1 for number in (2, 3, 4)], AAA=0.1),
        WEIGHTS,
        1,
        (
            "{root}/w.csv: time 1970-01-01T01:59:59Z is not the opening time of a bar of the data: "
            "these look like closing times; label a row with its bar's opening time"
        ),
    ),
    (
        weights(hours(1, 6, 900_000), AAA=0.1),
        WEIGHTS,
        1,
        (
            "{root}/w.csv: time 1970-01-01T00:15:00Z is not the opening time of a bar of the data: "
            "rows are 15 minutes apart, the data's interval is 60"
        ),
    ),
    (
        weights([7_200_000, 3_600_000], AAA=0.1),
        WEIGHTS,
        1,
        ("{root}/w.csv: time 1970-01-01T01:00:00Z comes after 1970-01-01T02:00:00Z; sort the rows, one a bar"),
    ),
    (
        cut("checkpoints/best.safetensors"),
        "predict",
        1,
        (
            "{run}/checkpoints/best.safetensors: damaged checkpoint (Error while deserializing "
            "header: incomplete metadata, file not fully covered); restore it from a copy, or train "
            "again"
        ),
    ),
    (
        without("checkpoints/best.safetensors"),
        "predict",
        1,
        (
            "{run}/checkpoints/best.safetensors: no such checkpoint; if the training was stopped before its "
            "first one, go on with `train --resume`, else restore a copy"
        ),
    ),
    (
        cut("plain/boosting.safetensors"),
        "predict",
        1,
        (
            "{run}/plain/boosting.safetensors: damaged checkpoint (Error while deserializing header: "
            "incomplete metadata, file not fully covered); restore it from a copy, or train again"
        ),
    ),
    (
        cut("forecasts.parquet"),
        "backtest",
        1,
        (
            "{run}/forecasts.parquet: damaged, not readable as a table (Parquet magic bytes not found"
            " in footer. Either the file is corrupted or this is not a parquet file.); make it again"
        ),
    ),
    (
        cut("plain/boosting.parquet"),
        "backtest",
        1,
        (
            "{run}/plain/boosting.parquet: damaged, not readable as a table (Parquet magic bytes not "
            "found in footer. Either the file is corrupted or this is not a parquet file.); make it "
            "again"
        ),
    ),
    (
        without("plain/boosting.parquet"),
        "backtest",
        1,
        ("{run}/plain/boosting.parquet: missing; make it, beside the run's own, with `flashtrader predict`"),
    ),
    (
        holding("manifest.json", "{"),
        "predict",
        1,
        "{run}/manifest.json: damaged, not readable as JSON (Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1)); restore it from a copy, or train the run again",
    ),
    (
        without("manifest.json"),
        "predict --run tiny-001",
        1,
        (
            "{run}: nothing was trained in it; if its training was killed, begin it with: flashtrader"
            " train --resume {run}"
        ),
    ),
    (
        without("manifest.json"),
        "verify --run tiny-001",
        2,
        "{run}: not trained, so there is nothing to verify; train it, or give another --run",
    ),
    (
        without("manifest.json"),
        "runs best",
        2,
        "no run in {root}/runs has the figure sharpe; make one with `flashtrader backtest`",
    ),
]


@pytest.mark.parametrize(("command", "exit_code", "message"), OPTIONS + NAMES + TOGETHER)
def test_what_can_t_be_asked_for(unspoiled: Place, command: str, exit_code: int, message: str) -> None:
    assert unspoiled.tells(command) == (exit_code, message)


@pytest.mark.parametrize(("overrides", "message"), CONFIGS)
def test_what_can_t_be_an_experiment(unspoiled: Place, overrides: str, message: str) -> None:
    command = " ".join([TRAIN, *(f"--set {override}" for override in overrides.split())])
    assert unspoiled.tells(command) == (2, f"{{root}}/tiny.yaml: {message}")


@pytest.mark.parametrize(("spoil", "command", "exit_code", "message"), FILES)
def test_what_can_t_be_read(
    copy_of_finished: Callable[[], Place], spoil: Spoil, command: str, exit_code: int, message: str
) -> None:
    place = copy_of_finished()
    spoil(place)
    assert place.tells(command) == (exit_code, message)
