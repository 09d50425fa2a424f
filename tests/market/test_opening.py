"""The options that a source takes: whatever belongs to another one is refused in words that name its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flashtrader.config import DataConfig
from flashtrader.errors import ConfigError
from flashtrader.market.sources.opening import open_funding, open_source

SOMEWHERE = Path("bars.csv")
ELSEWHERE = "http://127.0.0.1:9"
NOT_FILE = "--source file needs --path: a Parquet or CSV file, or a directory of them"


@pytest.mark.parametrize(
    ("opening", "data", "path", "base_url", "message"),
    [
        (open_source, {}, SOMEWHERE, None, "--path goes with --source file, not bybit"),
        (
            open_source,
            {"source": "file"},
            SOMEWHERE,
            ELSEWHERE,
            "--base-url goes with --source bybit or yahoo, not file",
        ),
        (
            open_source,
            {"source": "yahoo", "category": "spot"},
            None,
            None,
            "--category spot goes with --source bybit, not yahoo",
        ),
        (open_source, {"noise_only": True}, None, None, "--noise-only goes with --source simulated, not bybit"),
        (open_source, {"source": "file"}, None, None, NOT_FILE),
        (open_funding, {"category": "spot"}, None, None, "--kind funding is of perpetuals; --category spot has none"),
        (open_funding, {"source": "yahoo"}, None, None, "--kind funding goes with --source bybit or file, not yahoo"),
        (open_funding, {}, SOMEWHERE, None, "--path goes with --source file, not bybit"),
        (open_funding, {"source": "file"}, SOMEWHERE, ELSEWHERE, "--base-url goes with --source bybit, not file"),
        (open_funding, {"source": "file"}, None, None, "--source file needs --path: one file of settlements"),
    ],
)
def test_what_belongs_to_another_source_is_refused(
    opening: Callable[..., object], data: dict[str, Any], path: Path | None, base_url: str | None, message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        opening(DataConfig(symbols=("BTCUSDT",), **data), path, base_url)
    assert str(refused.value) == message
