"""The engine against vectorbt, by figures that vectorbt 1.2.0 gave."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

# Equity after the trades of each step: python scripts/compare_vectorbt.py --steps 12 --assets 3 --seed 7
VECTORBT_EQUITY = [
    99982.59155785436,
    99856.41950445191,
    99626.59674116966,
    99666.93826569346,
    99693.39982629004,
    99719.49397335306,
    99507.96633534832,
    99538.43252921598,
    99420.5363164503,
    99395.43097335802,
    99474.8806686701,
    99402.36388173491,
]


@pytest.fixture(scope="module")
def compare_vectorbt() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "compare_vectorbt.py"
    spec = importlib.util.spec_from_file_location("compare_vectorbt", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_same_market_gives_the_figures_that_vectorbt_gave(compare_vectorbt) -> None:
    prices, weights = compare_vectorbt.market(num_steps=12, num_assets=3, seed=7)
    assert np.isnan(prices).any()
    assert np.isnan(weights).any()
    assert (weights < 0).any()
    simulation = compare_vectorbt.ours(prices, weights)
    np.testing.assert_allclose(simulation.equity_T - simulation.cost_T, VECTORBT_EQUITY, rtol=1e-12)
