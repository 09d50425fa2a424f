"""Experiments that are refused: the exact message and exit code at `train`. Single keys are in test_config.py."""

import pytest

from place import TRAIN, Place

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


@pytest.mark.parametrize(("overrides", "message"), CONFIGS)
def test_what_can_t_be_an_experiment(unspoiled: Place, overrides: str, message: str) -> None:
    command = " ".join([TRAIN, *(f"--set {override}" for override in overrides.split())])
    assert unspoiled.tells(command) == (2, f"{{root}}/tiny.yaml: {message}")


@pytest.mark.parametrize(("command", "exit_code", "message"), TOGETHER)
def test_what_does_not_go_together(unspoiled: Place, command: str, exit_code: int, message: str) -> None:
    assert unspoiled.tells(command) == (exit_code, message)


@pytest.mark.parametrize(("options", "exit_code", "message"), EXPERIMENTS)
def test_what_can_t_be_trained(unspoiled: Place, options: str, exit_code: int, message: str) -> None:
    assert unspoiled.tells(f"{TRAIN} {options}") == (exit_code, message)
