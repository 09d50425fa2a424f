"""What several test modules share."""

import os
from pathlib import Path

# Tensors are tiny here: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

MARKET_DATA = Path(os.environ.get("FLASHTRADER_MARKET_DATA", Path(__file__).parents[2] / "shared" / "data"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this machine can't run."""
    for item in items:
        if item.get_closest_marker("gpu"):
            import torch

            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if item.get_closest_marker("network") and not os.environ.get("FLASHTRADER_NETWORK"):
            item.add_marker(pytest.mark.skip(reason="talks to a real exchange; set FLASHTRADER_NETWORK=1"))
        if item.get_closest_marker("market_data") and not MARKET_DATA.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"no market records in {MARKET_DATA}; set FLASHTRADER_MARKET_DATA"))


@pytest.fixture(scope="session")
def market_data() -> Path:
    """The folder of real market records, read where it lies. Mark the test `market_data`."""
    return MARKET_DATA
