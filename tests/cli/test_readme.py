import re
from pathlib import Path

import pandas as pd
import pytest

from command import Command
from panels import random_bars, store_bars

ROOT = Path(__file__).parents[2]


def test_the_readmes_weights_are_made_and_traded(
    flashtrader: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    assert "$ flashtrader backtest --weights weights.parquet --config configs/btc-hourly.yaml" in readme
    store_bars(tmp_path / "data", "BTCUSDT", random_bars(25_000), source="bybit")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert len(pd.read_parquet("weights.parquet")) == 25_000
    config = ROOT / "configs" / "btc-hourly.yaml"
    assert flashtrader.succeeds("backtest", "--weights", "weights.parquet", "--config", config, "--json").json[
        "metrics"
    ]
