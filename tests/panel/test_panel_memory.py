"""What preparing a panel costs beside the panel itself, measured in a process of its own."""

import subprocess
import sys

import pytest

PEAK = """
import sys
from pathlib import Path
import numpy as np
from random_bars import HOURLY, random_bars
from flashtrader.config import PanelConfig, SplitConfig
from flashtrader.panel.panel import build_panel
from flashtrader.panel.scaling import fit_scaler
from flashtrader.panel.segments import Segments
from flashtrader.panel.splits import split_by_time

CONTEXT_BARS = 8_192
FEATURES = ["log_return", "calendar", "log_close", "log1p_volume"]
FEATURES += [f"{name}_{window}" for name in ("volatility", "volume_ratio", "price_ratio", "range", "rsi")
             for window in (24, 96)] + ["rsi_mean_24", "rsi_mean_96", "volatility_8192"]

def prepare(bars):
    panel = build_panel({"A": bars}, HOURLY, PanelConfig(features=FEATURES))
    split = split_by_time(panel, SplitConfig(), 24)
    scaler = fit_scaler(panel, split.train)
    segments = Segments(panel, split.train, CONTEXT_BARS, 512)
    for first in range(0, len(segments), len(segments) // 5):
        segments.batch(segments.starts[first : first + 4])
    return panel, scaler, segments

def resident_bytes(key):
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(key + ":")[1].split()[0])

prepare(random_bars(np.arange(20_000)))  # compile first: the compiler's memory is not the panel's
bars = random_bars(np.arange(int(sys.argv[1])))
Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins here
before = resident_bytes("VmRSS")
panel, *_ = prepare(bars)
assert panel.values.shape[-1] == 20
print((resident_bytes("VmHWM") - before) / panel.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the high-water mark from /proc")
def test_a_million_bars_of_20_features_peak_below_three_panels() -> None:
    found = subprocess.run(
        [sys.executable, "-c", PEAK, "1_000_000"],
        capture_output=True,
        text=True,
        check=False,
        cwd=__file__.rpartition("/")[0],
    )
    assert found.returncode == 0, found.stderr
    assert 1.0 <= float(found.stdout) < 3.0, f"peak is {found.stdout.strip()} panels"
