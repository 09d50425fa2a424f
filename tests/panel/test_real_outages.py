from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from random_bars import HOUR_MS

from flashtrader.config import PanelConfig
from flashtrader.interval import Interval
from flashtrader.panel.panel import build_panel
from flashtrader.panel.segments import Segments
from flashtrader.panel.splits import Rows


@pytest.mark.market_data
def test_real_outages_split_the_history(market_data: Path) -> None:
    bars = pd.read_parquet(market_data / "binance-spot" / "BTCUSDT-60.parquet")
    panel = build_panel({"BTCUSDT": bars}, Interval("60"), PanelConfig())
    missing = np.diff(panel.timestamps) // HOUR_MS - 1
    assert (missing > 0).sum() == 28
    np.testing.assert_array_equal(panel.run_starts, [0, *np.flatnonzero(missing > 3) + 1])
    for start, stop in zip(panel.run_starts, panel.run_starts + panel.run_lengths, strict=True):
        assert not panel.mask[start : start + 24].any()  # 24 returns need 25 bars
        assert panel.mask[start + 24 : stop].all()
        assert np.isnan(panel.targets[max(start, stop - 24) : stop]).all()
    segments = Segments(panel, Rows(0, len(bars)), segment_bars=1_000, warmup_bars=100)
    assert len(segments) > 40_000
    assert missing[segments.starts[:, None][::97] + np.arange(999)].max() <= 3
