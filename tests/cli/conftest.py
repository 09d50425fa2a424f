import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from command import Command
from panels import random_bars, store_bars
from place import Place, Spoil

TINY = {
    "data": {"source": "file", "symbols": ["AAA", "BBB"], "interval": "60"},
    "panel": {"features": ["log_return", "volatility_6"], "target": {"horizon_bars": 4}},
    "split": {"validation": 0.2, "test": 0.2},
    "model": {"context_bars": 8, "width": 8, "layers": 1, "heads": 2},
    "training": {"segment_bars": 32, "batch_size": 2, "max_steps": 2, "evaluate_every": 1, "device": "cpu"}
    | {"plain_models": ["boosting"]},
}


@pytest.fixture
def flashtrader(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capfd)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, tiny.yaml and runs/tiny-001, trained and forecast, for tests that only read it or take a copy."""
    from flashtrader.config import load_config
    from flashtrader.forecasting.forecast import forecast_run, keep_forecasts
    from flashtrader.training.loop import train_model

    root = tmp_path_factory.mktemp("finished")
    (root / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    for seed, symbol in enumerate(("AAA", "BBB")):
        store_bars(root / "data", symbol, random_bars(400, seed))
    run = train_model(load_config(root / "tiny.yaml"), root / "data", root / "runs", lambda _: None).run
    keep_forecasts(forecast_run(run, root / "data"))
    return root


@pytest.fixture
def copy_of_finished(finished: Path, tmp_path: Path, flashtrader: Command) -> Callable[[], Place]:
    """Makes a copy that a test may spoil."""

    def make() -> Place:
        shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
        return Place(tmp_path, flashtrader)

    return make


@pytest.fixture
def tells_of_spoiled(copy_of_finished: Callable[[], Place]) -> Callable[[Spoil, str], tuple[int, str]]:
    """Spoils a copy, and returns what a command tells of it."""

    def tells(spoil: Spoil, command: str) -> tuple[int, str]:
        place = copy_of_finished()
        spoil(place)
        return place.tells(command)

    return tells


@pytest.fixture
def unspoiled(finished: Path, flashtrader: Command) -> Place:
    """That one itself, for commands that fail before they write."""
    return Place(finished, flashtrader)
