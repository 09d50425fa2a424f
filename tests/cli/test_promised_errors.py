"""The exact message and exit code of what an unlucky or hasty person meets at the commands, and what is then lost.

{root} stands for the directory of the test, {run} for its run.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from io import BytesIO, TextIOWrapper

import pytest

from command import Command
from place import TRAIN, Place

EMPTY = "an empty value; give one (is a variable of the shell not set?)"
STOPPED = "stopped; every file is whole, and the same command begins again"
VALUES = [
    (["fetch", "--symbols", "AAA", "--data-dir", ""], f"after --data-dir: {EMPTY}"),
    (["fetch", "--symbols", "AAA", "--base-url="], f"--base-url: {EMPTY}"),
    (["backtest", "--out", " "], f"after --out: {EMPTY}"),
    ([""], f"after flashtrader: {EMPTY}"),
]
OPTIONS = [
    (
        "fetch --symbols AAA --symbols BBB --symbols AAA",
        2,
        "--symbols AAA,BBB,AAA: name each market once, separated by commas",
    ),
    (
        "fetch --check --interval 7",
        2,
        "unknown interval '7': choose one of 1, 3, 5, 15, 30, 60, 120, 240, 360, 720, D, W, M",
    ),
    (
        "predict --rollout 1000000",
        2,
        "Invalid value for '--rollout': Input should be less than or equal to 100000",
    ),
    (
        "predict --rollout 3 --paths 1000000",
        2,
        "Invalid value for '--paths': Input should be less than or equal to 100000",
    ),
]
REPEATED = [
    ("train --config a.yaml --config b.yaml", "--config"),
    ("train -c a.yaml --set a.b=1 --set c.d=2 --config=b.yaml", "--config"),
    ("runs --runs-dir a --runs-dir b", "--runs-dir"),
    ("runs best --by skill --by sharpe", "--by"),
    ("bench memory a.yaml b.yaml --out a --out a", "--out"),
]
CONFIGS = [
    ("--set .=1", 2, "--set .=1: write it as section.key=value"),
    ("--set model..width=1", 2, "--set model..width=1: write it as section.key=value"),
    (
        "--set backtest.funding_rate=.nan",
        2,
        "{root}/tiny.yaml: backtest.funding_rate: input should be a finite number; backtest.funding_rate: input "
        "should be 'fetched'",
    ),
    (
        "--set backtest.initial_equity=1e308",
        2,
        "{root}/tiny.yaml: backtest.initial_equity: numbers go up to 1,000,000,000,000,000",
    ),
]


@pytest.mark.parametrize(("words", "message"), VALUES)
def test_an_empty_value_is_not_the_working_directory_or_the_real_exchange(
    unspoiled: Place, words: list[str], message: str
) -> None:
    assert unspoiled.command.fails(2, *words) == message


@pytest.mark.parametrize(("command", "exit_code", "message"), OPTIONS)
def test_what_can_t_be_asked_for(unspoiled: Place, command: str, exit_code: int, message: str) -> None:
    assert unspoiled.tells(command) == (exit_code, message)


@pytest.mark.parametrize(("command", "option"), REPEATED)
def test_of_an_option_that_is_there_twice_none_is_lost(flashtrader: Command, command: str, option: str) -> None:
    message = f"{option}: given more than once, and takes one value; leave one"
    assert flashtrader.fails(2, *command.split()) == message


def test_ctrl_c_is_answered_in_a_line_while_the_commands_are_loaded(
    flashtrader: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(MetaPathFinder):
        def find_spec(self, name: str, *_: object) -> None:
            if name == "flashtrader.cli.commands":
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.delitem(sys.modules, "flashtrader.cli.commands", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    stopped = flashtrader("runs")
    assert (stopped.exit_code, stopped.err) == (130, f"{STOPPED}\n")


def test_nothing_is_loaded_before_ctrl_c_is_answered() -> None:
    program = "import sys; before = set(sys.modules); import flashtrader.cli; print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == ["flashtrader", "flashtrader.cli"]


@pytest.mark.parametrize(("options", "exit_code", "message"), CONFIGS)
def test_what_can_t_be_an_experiment(unspoiled: Place, options: str, exit_code: int, message: str) -> None:
    assert unspoiled.tells(f"{TRAIN} {options}") == (exit_code, message)


def test_what_is_no_file_is_not_replaced_by_one(copy_of_finished: Callable[[], Place]) -> None:
    place = copy_of_finished()
    pipe = place.root / "pipe"
    os.mkfifo(pipe)
    for name in ("pipe", "data"):
        assert place.tells(f"predict --out {{root}}/{name}") == (
            2,
            f"{{root}}/{name}: not a file that can be replaced; give another path",
        )
    assert pipe.is_fifo()
    assert sorted(path.name for path in place.root.iterdir()) == ["data", "pipe", "runs", "tiny.yaml"]


def test_a_disk_that_refuses_is_named_by_the_path_that_was_given(copy_of_finished: Callable[[], Place]) -> None:
    place = copy_of_finished()
    assert place.tells("predict --out /proc/mine.parquet") == (
        1,
        "/proc/mine.parquet: No such file or directory; give another path",
    )


@pytest.mark.parametrize("columns", ["0", "20", "80"])
def test_no_terminal_is_too_narrow_for_a_table(unspoiled: Place, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    shown = unspoiled.command.succeeds("runs", "--runs-dir", unspoiled.root / "runs")
    *_, row, _continued = (line for line in shown.out.splitlines() if line.startswith(" "))
    assert len(row) == 80


def test_a_terminal_that_knows_no_other_signs_than_ascii_loses_none(
    copy_of_finished: Callable[[], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = copy_of_finished()
    ascii_only = TextIOWrapper(BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    place.command.succeeds("predict", *place.places())
    ascii_only.flush()
    assert rb"R\xb2 is against forecasting no change" in ascii_only.buffer.getvalue()  # R²


@pytest.mark.parametrize(
    ("command", "does"),
    [
        ("predict", "flashtrader.forecasting.forecast.forecast_run"),
        ("backtest", "flashtrader.backtest.experiment.backtest_run"),
        ("verify", "flashtrader.verification.suite.verify_run"),
        ("runs best", "flashtrader.registry.list_runs"),
        ("fetch --check", "flashtrader.market.audit.audit"),
    ],
)
def test_ctrl_c_is_answered_in_a_line(
    copy_of_finished: Callable[[], Place], monkeypatch: pytest.MonkeyPatch, command: str, does: str
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    place = copy_of_finished()
    monkeypatch.setattr(does, interrupted)
    assert place.tells(command) == (130, STOPPED)


@pytest.mark.parametrize("options", ["", " --set training.max_steps=1"])
def test_a_training_that_has_ended_says_so_and_keeps_what_was_made_of_it(
    copy_of_finished: Callable[[], Place], caplog: pytest.LogCaptureFixture, options: str
) -> None:
    place = copy_of_finished()
    before = {path: path.read_bytes() for path in (place.run / "config.yaml", place.run / "forecasts.parquet")}
    place.command.succeeds("train", "--resume", place.run, *options.split(), *place.places())
    assert caplog.messages == [
        f"{place.run}: trained to its end already, at step 2; to go on, raise training.max_steps or training.patience"
    ]
    assert {path: path.read_bytes() for path in before} == before
