"""A shrunk experiment is the same experiment, only smaller."""

from pathlib import Path

import pytest

from flashtrader.config import Experiment, load_config
from flashtrader.verification.shrunk import FULL, QUICK, REMEMBERING, rows_of, shrunk

CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))


def test_there_are_configs() -> None:
    assert len(CONFIGS) > 10


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("effort", [QUICK, FULL, REMEMBERING], ids=["quick", "full", "remembering"])
def test_every_config_shrinks_to_the_same_of_less(path: Path, effort: object) -> None:
    experiment = load_config(path)
    small = shrunk(experiment, effort)  # type: ignore[arg-type]
    assert small.model.family == experiment.model.family
    assert small.model.backbone == experiment.model.backbone
    assert small.panel.features == experiment.panel.features
    assert small.panel.target == experiment.panel.target
    assert small.training.loss == experiment.training.loss
    assert small.backtest == experiment.backtest
    assert set(small.data.symbols) <= set(experiment.data.symbols)
    assert not small.has_members


def experiment(**panel: object) -> Experiment:
    return Experiment.model_validate(
        {
            "data": {"source": "file", "symbols": ["AAA"], "interval": "1"},
            "panel": {"target": {"kind": "next_candle"}} | panel,
            "model": {"family": "candles"},
        }
    )


def test_a_history_holds_the_longest_window_several_times() -> None:
    assert rows_of(experiment(features=("candle", "volatility_1440")), QUICK) == 8 * 1_440


def test_longer_candles_that_the_history_can_not_make_known_are_left_out() -> None:
    small = shrunk(experiment(features=("candle",), multiscale=("60", "W")), QUICK)
    assert small.panel.multiscale == ("60",)
