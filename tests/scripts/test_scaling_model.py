"""The model of scaling, and the page that shows it."""

import re
from pathlib import Path

import pytest

from scaling_model import LINKS, table, workload_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
COMMANDS = re.findall(
    r"scaling_model\.py (\S+) --step-seconds (\S+) --validation-bars (\d+)(?: --faster (\d+))?\n", PAGE
)


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) == 3


@pytest.mark.parametrize(("config", "seconds", "bars", "faster"), COMMANDS)
def test_the_page_shows_what_the_script_computes(config: str, seconds: str, bars: str, faster: str) -> None:
    assert table(workload_of(ROOT / config, float(seconds) / float(faster or 1), int(bars))) in PAGE


def test_no_device_count_beats_its_number_and_a_slower_link_is_never_faster() -> None:
    workload = workload_of(ROOT / "configs" / "crypto-hourly.yaml", 1.0, 0)
    for devices in (2, 4, 8, 16):
        times = [workload.seconds(devices, link) for link in LINKS]
        assert times == sorted(times)
        assert times[0] > workload.step_s / devices


def test_a_segment_is_cut_no_shorter_than_its_window() -> None:
    workload = workload_of(ROOT / "configs" / "crypto-hourly.yaml", 1.0, 0)
    assert [workload.stretches(devices) for devices in (1, 4, 8, 16, 32)] == [1, 1, 2, 4, None]
