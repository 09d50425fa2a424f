"""What commands say beside results and refusals, word for word, and how an error that nobody foresaw ends.

{root} stands for the directory of the test, {run} for its run.
"""

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from command import Command
from flashtrader.errors import ConfigError, DivergedError
from flashtrader.market.fetch import FetchReport
from panels import random_bars
from place import TRAIN, Place

CONTEXT = "bench context --config {root}/tiny.yaml --contexts 4,8 --seeds 1 --out {root}/bench"
NO_FLASH = (
    "attention backend flash can't run this call (flash: needs a CUDA device, and the tensors are on cpu); take "
    "another, or auto"
)
NO_DEVICE = "training.device is cuda, but PyTorch sees no CUDA device here; use auto or cpu"
DAMAGED = (
    "{run}/checkpoints/best.safetensors: damaged checkpoint (Error while deserializing header: incomplete metadata, "
    "file not fully covered); restore it from a copy, or train again"
)


def raises(error: BaseException) -> Callable[..., None]:
    def act(*_: object, **__: object) -> None:
        raise error

    return act


def lines(place: Place, command: str, exit_code: int = 0) -> list[str]:
    """Return what a command says on standard error, with {root} and {run} in place of paths."""
    outcome = place.command(*command.replace("{root}", str(place.root)).split(), *place.places())
    assert outcome.exit_code == exit_code, outcome
    return outcome.err.replace(str(place.run), "{run}").replace(str(place.root), "{root}").splitlines()


# Errors that nobody foresaw.


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ZeroDivisionError("by\nnought"),
            "error: unexpected ZeroDivisionError: by nought; call again with --debug to see where\n",
        ),
        (
            PermissionError(errno.EACCES, os.strerror(errno.EACCES), "runs"),
            "error: runs: Permission denied; give another path\n",
        ),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs"),
            "error: runs: No space left on device; make room, or give another path\n",
        ),
        (OSError("no reason"), "error: the disk: no reason; give another path\n"),
        (BrokenPipeError(), ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_nobody_foresaw_is_one_line(
    flashtrader: Command, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    monkeypatch.setattr("flashtrader.registry.list_runs", raises(error))
    outcome = flashtrader("runs")
    assert (outcome.exit_code, outcome.out, outcome.err) == (1, "", said)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("by nought"), PermissionError("mine"), ConfigError("give another")]
)
def test_debug_shows_the_traceback(flashtrader: Command, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr("flashtrader.registry.list_runs", raises(error))
    with pytest.raises(type(error), match=str(error)):
        flashtrader("runs", "--debug")


# Every kind of error, at every command that can meet it.


@pytest.mark.parametrize(
    "command",
    [
        TRAIN,
        "train --resume tiny-001 --set training.max_steps=9",
        "train --from tiny-001",
        "predict",
        "backtest",
        "verify",
        CONTEXT,
    ],
)
def test_bars_that_the_system_does_not_let_us_read(copy_of_finished: Callable[[], Place], command: str) -> None:
    """A directory is a file that even root can't read."""
    place = copy_of_finished()
    [part] = (place.root / "data/file/AAA/60").glob("bars-*.parquet")
    part.unlink()
    part.mkdir()
    assert place.tells(command) == (
        1,
        f"{{root}}/data/file/AAA/60/{part.name}: can't be read (Is a directory); check the disk and the permissions",
    )


def config(old: str, new: str) -> Callable[[Place], object]:
    def spoil(place: Place) -> None:
        path = place.run / "config.yaml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return spoil


def cut_weights(place: Place) -> None:
    path = place.run / "checkpoints" / "best.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("spoil", "exit_code", "message"),
    [
        (config("attention: auto", "attention: flash"), 2, NO_FLASH),
        (config("device: cpu", "device: cuda"), 2, NO_DEVICE),
        (cut_weights, 1, DAMAGED),
    ],
    ids=["backend", "device", "damaged"],
)
@pytest.mark.parametrize("command", ["predict", "backtest", "verify"])
def test_a_run_that_can_t_be_forecast_here_is_told_once(
    copy_of_finished: Callable[[], Place],
    command: str,
    spoil: Callable[[Place], object],
    exit_code: int,
    message: str,
) -> None:
    place = copy_of_finished()
    spoil(place)
    (place.run / "forecasts.parquet").unlink()
    assert place.tells(command) == (exit_code, message)
    assert not (place.run / "verify.json").exists()


def test_a_comparison_of_contexts_ends_as_a_training_does(
    unspoiled: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def diverges(*_: object, **__: object) -> None:
        raise DivergedError("{root}: the loss is not a number any more")

    monkeypatch.setattr("flashtrader.benchmarks.context.PeakMemory.bytes_of", lambda *_: 0)
    monkeypatch.setattr("flashtrader.benchmarks.context.train_model", diverges)
    assert unspoiled.tells(f"{CONTEXT} --runs-dir {tmp_path}") == (1, "{root}: the loss is not a number any more")


# Notices.


def test_a_backtest_says_that_it_forecasts_first(copy_of_finished: Callable[[], Place]) -> None:
    place = copy_of_finished()
    assert lines(place, "backtest") == []
    (place.run / "forecasts.parquet").unlink()
    assert lines(place, "backtest") == ["{run} has no forecasts yet: forecasting its test bars"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("", "no funding charged"),
        ("--set backtest.funding_rate=0.0001", "funding +0.0100% every 8 hours"),
    ],
)
def test_a_backtest_says_which_funding_it_charges(
    copy_of_finished: Callable[[], Place], options: str, said: str
) -> None:
    place = copy_of_finished()
    shown = place.command.succeeds("backtest", *options.split(), *place.places()).out
    assert (
        "79 bars, 1970-01-14 08:00 to 1970-01-17 14:00 UTC; filled at the next open; 5.5 bp fee and 2 bp slippage a "
        f"side; {said}\n"
    ) in shown


def test_a_backtest_warns_of_orders_without_a_cost_and_of_a_calendar_that_is_none(
    place_of_days: Place,
) -> None:
    weights = "backtest --weights {root}/w.csv --config {root}/tiny.yaml --set backtest.volatility_slippage=1"
    outcome = place_of_days.command.succeeds(
        *weights.replace("{root}", str(place_of_days.root)).split(), *place_of_days.places()
    )
    warned = [line for line in outcome.out.splitlines() if line.startswith("beware: ")]
    assert warned == [
        "beware: the bars come at 261 a year, and calendar 24/7 counts 365: annual figures are off; choose another "
        "backtest.calendar, or mind the gaps",
        "beware: orders that were not filled: 2, whose cost is not known without the market's trailing volatility",
    ]


@pytest.fixture
def place_of_days(tmp_path: Path, flashtrader: Command) -> Place:
    """Two years of bars on the weekdays alone, and weights on the first three."""
    days = pd.bdate_range("2020-01-01", "2021-12-31")
    bars = random_bars(len(days)).assign(timestamp=days.as_unit("ms").asi8)
    place = Place(tmp_path, flashtrader, {"data": {"source": "file", "symbols": ["AAA"], "interval": "D"}})
    store_days(place, bars)
    pd.DataFrame({"time": days[:3], "AAA": [0.1, 0.2, 0.3]}).to_csv(tmp_path / "w.csv", index=False)
    return place


def store_days(place: Place, bars: pd.DataFrame) -> None:
    bars.to_csv(place.root / "AAA-D.csv", index=False)
    fetch = ("fetch", "--source", "file", "--path", place.root / "AAA-D.csv", "--symbols", "AAA", "--interval", "D")
    place.command.succeeds(*fetch, "--data-dir", place.root / "data")


def test_ruin_is_a_result_and_no_error(copy_of_finished: Callable[[], Place]) -> None:
    place = copy_of_finished()
    (place.root / "w.csv").write_text("time,AAA\n1970-01-05T00:00,-1000\n")
    options = ("--set", "backtest.max_gross=1000")
    made = place("backtest", "--weights", place.root / "w.csv", "--config", place.config, *options)
    assert made["finding"] == "ruined"


def test_scores_of_training_bars_are_called_what_they_are(copy_of_finished: Callable[[], Place]) -> None:
    place = copy_of_finished()
    *_, last = place.command.succeeds("predict", "--split", "all", *place.places()).out.splitlines()
    assert last == "The bars that the model was trained on are among them: these scores are no test of it."


def test_no_run_is_no_error(flashtrader: Command, tmp_path: Path) -> None:
    assert flashtrader.succeeds("runs", "--runs-dir", tmp_path).out == (
        f"no run in {tmp_path}; make one with `flashtrader train --config …`\n"
    )


@pytest.mark.parametrize(
    ("split", "first"),
    [("{test: 0.2}", "first"), ("{walk_forward: {train: 200, validation: 50, test: 50}}", "first of each fold")],
)
def test_a_training_says_what_comes_first(
    unspoiled: Place, monkeypatch: pytest.MonkeyPatch, split: str, first: str
) -> None:
    monkeypatch.setattr("flashtrader.training.loop.train_model", raises(ConfigError("enough")))
    several = ("--set", "training.seeds=[0,1]", "--workers", 99)
    told = unspoiled.command("train", "--config", unspoiled.config, "--set", f"split={split}", *several)
    assert told.err.splitlines() == [
        "99 models at a time, each with 1 thread; of another number some sums round otherwise",
        f"{first} the plain models: boosting",
        "error: enough",
    ]


def test_a_run_that_was_killed_as_it_was_made_says_where_it_begins(
    copy_of_finished: Callable[[], Place], caplog: pytest.LogCaptureFixture
) -> None:
    place = copy_of_finished()
    (place.run / "manifest.json").unlink()
    place.command.succeeds("train", "--resume", place.run, *place.places())
    assert caplog.messages == [f"{place.run}: killed as it was made; it begins at step 0"]


def test_a_follower_says_why_it_waits(copy_of_finished: Callable[[], Place], monkeypatch: pytest.MonkeyPatch) -> None:
    """The source fails at the first look; the bar that is then stored is the last one asked for."""
    place = copy_of_finished()
    config("source: file", "source: simulated")(place)
    (place.root / "data/file").rename(place.root / "data/simulated")

    def failed(*_: object) -> list[FetchReport]:
        return [FetchReport("AAA", failed="the host: unreachable")]

    monkeypatch.setattr("flashtrader.market.fetch.fetch", failed)
    assert lines(place, "predict --follow --bars 1") == ["the host: unreachable; trying again"]


def test_a_sweep_that_is_interrupted_says_how_to_go_on(
    copy_of_finished: Callable[[], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flashtrader.training.spread import Finish

    place = copy_of_finished()
    monkeypatch.setattr("flashtrader.training.sweep.spread", lambda *_: Finish({}, "interrupted"))
    assert lines(place, TRAIN + " --sweep model.width=8,16", exit_code=130) == [
        "{root}/runs/tiny-sweep-001.json: 2 runs, tiny-002 to tiny-003",
        "interrupted; what was trained is saved; go on with: flashtrader train --resume "
        "{root}/runs/tiny-sweep-001.json",
    ]


# Under torchrun, whose processes all meet the same error.

ALL_THE_SAME = (
    "training.distributed: none, but torchrun started 2 processes, which would train 2 times the same; set it to ddp "
    "or fsdp, or start one process"
)


@pytest.mark.parametrize(("rank", "line"), [(0, ALL_THE_SAME), (1, f"process 1: {ALL_THE_SAME}")])
def test_each_process_says_of_a_refusal_which_it_is(
    unspoiled: Place, monkeypatch: pytest.MonkeyPatch, rank: int, line: str
) -> None:
    monkeypatch.setattr("flashtrader.cli.console._FIRST_SPEAKS_SECONDS", 0)
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": str(rank)}.items():
        monkeypatch.setenv(name, value)
    assert unspoiled.tells(f"{TRAIN} --set training.plain_models=[]") == (2, line)
    assert logging.getLogger("flashtrader").isEnabledFor(logging.WARNING)  # a later one is not silenced with it
