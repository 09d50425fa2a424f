"""The main job with the decoder of the transformers library, on bars of the simulated exchange."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from command import Command

pytest.importorskip("transformers")

CONFIG = Path(__file__).parents[2] / "configs" / "smoke" / "hf.yaml"
FETCH = ("fetch", "--source", "simulated", "--symbols", "SIM1,SIM2", "--start", "2024-01-01", "--end", "2024-04-01")


def test_train_resume_predict_and_backtest(flashtrader: Command, tmp_path: Path) -> None:
    places = ("--data-dir", tmp_path / "data")

    def job(*arguments: object, runs: str = "runs") -> Any:
        return flashtrader.succeeds(*arguments, *places, "--runs-dir", tmp_path / runs, "--json").json

    flashtrader.succeeds(*FETCH, *places)
    new = ("train", "--config", CONFIG, "--set", "training.device=cpu", "--set", "training.plain_models=[]")
    job(*new, "--set", "training.max_steps=4")
    job("train", "--resume", "hf-001", "--set", "training.max_steps=8")
    job(*new, "--set", "training.max_steps=8", runs="at-once")
    assert job("predict")["scores"][0]["bars"] > 300
    job("predict", runs="at-once")
    in_two, at_once = (pd.read_parquet(tmp_path / runs / "hf-001/forecasts.parquet") for runs in ("runs", "at-once"))
    pd.testing.assert_frame_equal(in_two, at_once, check_exact=True)
    assert job("backtest")["metrics"]["num_trades"] > 0
    manifest = json.loads((tmp_path / "runs/hf-001/manifest.json").read_text())
    assert manifest["attention"]["backend"] == "transformers sdpa"
    assert "transformers" in manifest["versions"]
