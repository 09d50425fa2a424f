"""Attacks that train: a healthy pipeline passes each, and each notices one that is broken."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flashtrader.panel.loading
from flashtrader.config import load_config
from flashtrader.models.plain import PlainModel
from flashtrader.panel.panel import Panel
from flashtrader.run import Run, create_run
from flashtrader.verification import trained
from flashtrader.verification.checks import Attack, Check, Subject
from flashtrader.verification.planted import trending_market
from flashtrader.verification.trained import noise_only_market, planted_signal, shuffled_targets

SMOKE = Path(__file__).parents[2] / "configs" / "smoke"
Attacked = Callable[..., Check]


@pytest.fixture
def attacked(tmp_path: Path) -> Attacked:
    """Attack an untrained run of a smoke config, whose bars follow a strong rule."""

    def attacked(attack: Attack, config: str, *overrides: str) -> Check:
        experiment = load_config(SMOKE / f"{config}.yaml", overrides)
        experiment = experiment.model_copy(
            update={"data": experiment.data.model_copy(update={"start": None, "end": None})}
        )
        if experiment.data.kind == "bars":
            trending_market(experiment, tmp_path / "data", 3_000)
        (tmp_path / "scratch").mkdir(exist_ok=True)
        run = create_run(tmp_path / "runs", experiment)
        (check,) = attack(Subject(run, tmp_path / "data", tmp_path / "scratch"))
        return check

    return attacked


@pytest.mark.parametrize("config", ["returns", "hf", "candles", "portfolio", "portfolio-weights", "orderbook", "plain"])
def test_every_family_finds_a_planted_rule(attacked: Attacked, config: str) -> None:
    check = attacked(planted_signal, config)
    figures: Any = check.figures
    assert check.outcome == "passed"
    assert figures["share_to_find"] * figures["best_ic"] < figures["low"] < figures["ic"] < figures["best_ic"] + 0.05


@pytest.mark.parametrize("config", ["returns", "candles", "orderbook", "plain"])
def test_nothing_is_found_in_noise(attacked: Attacked, config: str) -> None:
    check = attacked(noise_only_market, config)
    figures: Any = check.figures
    assert check.outcome == "passed"
    assert figures["low"] < 0 < figures["high"] < 0.5


@pytest.mark.parametrize("config", ["plain", "returns"])
def test_targets_of_other_times_teach_nothing_where_there_is_much_to_learn(
    attacked: Attacked, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On these bars any forecast that follows the newest return is right, and one against it wrong."""
    monkeypatch.setattr(trained, "QUICK", replace(trained.QUICK, max_steps=16))
    check = attacked(shuffled_targets, config, "panel.features=[log_return]", "panel.target.horizon_bars=2")
    figures: Any = check.figures
    assert check.outcome == "passed"
    assert figures["low"] < 0 < figures["high"]
    up, down, *_ = map(float, figures["ic_of_each"].split())
    assert up == pytest.approx(-down, abs=0.02), "what was learned of the opposite targets is the opposite"
    assert abs(up) > 0.03, "by chance, each training did learn something"


def test_a_feature_of_the_future_is_found_in_noise(attacked: Attacked, monkeypatch: pytest.MonkeyPatch) -> None:
    real = flashtrader.panel.loading.build_panel

    def build_early(*arguments: Any) -> Panel:
        panel = real(*arguments)
        return replace(panel, values=np.roll(panel.values, -1, axis=0), mask=np.roll(panel.mask, -1, axis=0))

    monkeypatch.setattr(flashtrader.panel.loading, "build_panel", build_early)
    check = attacked(noise_only_market, "plain")
    assert check.outcome == "failed"
    assert "there was nothing to learn" in check.reason


def test_forecasts_that_are_told_outcomes_need_no_targets(attacked: Attacked, monkeypatch: pytest.MonkeyPatch) -> None:
    real = PlainModel.forecast
    monkeypatch.setattr(
        PlainModel,
        "forecast",
        lambda model, priced, rows: real(model, priced, rows) + priced.panel.targets[rows.start : rows.stop],
    )
    assert attacked(shuffled_targets, "plain").outcome == "failed"


def test_a_model_that_sees_nothing_of_the_rule_fails_to_find_it(attacked: Attacked) -> None:
    check = attacked(planted_signal, "plain", "panel.features=[calendar]")
    assert check.outcome == "failed"
    assert "of the best IC of 0." in check.reason


def test_forecasts_of_the_wrong_rows_fail_to_find_a_rule(attacked: Attacked, monkeypatch: pytest.MonkeyPatch) -> None:
    real = PlainModel.forecast
    monkeypatch.setattr(
        PlainModel, "forecast", lambda model, priced, rows: np.roll(real(model, priced, rows), 50, axis=0)
    )
    assert attacked(planted_signal, "plain").outcome == "failed"


@pytest.mark.parametrize("family", ["persistence", "momentum"])
def test_a_model_that_learns_nothing_is_not_asked_to(attacked: Attacked, family: str) -> None:
    overrides = f"model.family={family}"
    for attack in (planted_signal, shuffled_targets):
        check = attacked(attack, "plain", overrides)
        assert check.outcome == "skipped"
        assert family in check.reason
    assert attacked(noise_only_market, "plain", overrides).outcome == "passed"


def test_too_short_a_history_is_said_and_not_failed(attacked: Attacked) -> None:
    check = attacked(shuffled_targets, "plain", "panel.target.horizon_bars=900")
    assert check.outcome == "skipped"
    assert "do not suffice" in check.reason


def test_an_attack_comes_out_the_same_and_leaves_the_run_and_its_bars_alone(attacked: Attacked, tmp_path: Path) -> None:
    def files() -> dict[Path, int]:
        kept = (path for name in ("data", "runs") for path in (tmp_path / name).rglob("*") if path.is_file())
        return {path: path.stat().st_mtime_ns for path in kept}

    first = attacked(shuffled_targets, "plain")
    before = files()
    experiment_run = next((tmp_path / "runs").iterdir())
    (again,) = shuffled_targets(Subject(Run(experiment_run), tmp_path / "data", tmp_path / "scratch"))
    assert again == first
    assert files() == before
