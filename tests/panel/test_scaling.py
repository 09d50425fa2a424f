from dataclasses import replace

import numpy as np
import pytest
from random_bars import EVERY_FEATURE, HOURLY, hours_with_holes, random_bars

from flashtrader.config import PanelConfig
from flashtrader.errors import DataError
from flashtrader.panel import scaling
from flashtrader.panel.panel import Panel, build_panel
from flashtrader.panel.scaling import fit_scaler
from flashtrader.panel.splits import Rows

ROWS = Rows(0, 400)


@pytest.fixture(scope="module")
def panel() -> Panel:
    bars = {name: random_bars(hours_with_holes(600, i) + 7 * i, i) for i, name in enumerate("AB")}
    return build_panel(bars, HOURLY, PanelConfig(features=EVERY_FEATURE))


def arrays(scaler: scaling.Scaler) -> tuple[np.ndarray, ...]:
    return scaler.feature_mean, scaler.feature_std, scaler.target_std


def test_scaled_features_of_the_rows_have_mean_0_and_deviation_1(panel: Panel) -> None:
    scaler = fit_scaler(panel, ROWS)
    assert [array.dtype for array in arrays(scaler)] == [np.float32] * 3
    mask = panel.mask[:400]
    scaled = (panel.values[:400] - scaler.feature_mean) / scaler.feature_std
    for asset in range(2):
        known = scaled[mask[:, asset], asset].astype(np.float64)
        assert 0 < len(known) < 400
        np.testing.assert_allclose(known.mean(axis=0), 0, atol=1e-4)
        np.testing.assert_allclose(known.std(axis=0), 1, rtol=1e-4)
    np.testing.assert_allclose(scaler.target_std, np.nanstd(panel.targets[:400], axis=0), rtol=1e-5)


def test_only_the_training_rows_count(panel: Panel) -> None:
    values, mask, targets = panel.values.copy(), panel.mask.copy(), panel.targets.copy()
    generator = np.random.default_rng(0)
    values[400:] = generator.standard_normal(values[400:].shape) * 1e6
    mask[400:] = generator.random(mask[400:].shape) > 0.5
    targets[400:] = generator.standard_normal(targets[400:].shape) * 1e6
    noisy = replace(panel, values=values, mask=mask, targets=targets)
    for ours, theirs in zip(arrays(fit_scaler(panel, ROWS)), arrays(fit_scaler(noisy, ROWS)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_sums_are_the_same_in_any_chunks(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = arrays(fit_scaler(panel, ROWS))
    monkeypatch.setattr(scaling, "_CHUNK_VALUES", 7 * panel.values[0].size)
    for ours, theirs in zip(whole, arrays(fit_scaler(panel, ROWS)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("constant", [0.0, 0.1, -1e7, 3e-30])
def test_a_constant_feature_is_scaled_to_zero(panel: Panel, constant: float) -> None:
    values, targets = panel.values.copy(), panel.targets.copy()
    values[:, 1, 2] = np.float32(constant)
    targets[:, 1] = 0
    still = replace(panel, values=values, targets=targets)
    scaler = fit_scaler(still, ROWS)
    assert scaler.feature_std[1, 2] == 1
    assert scaler.target_std[1] == scaler.target_std[0] > 0, "what never moved has a unit of the others' size"
    nothing_moves = replace(still, targets=np.zeros_like(targets))
    assert (fit_scaler(nothing_moves, ROWS).target_std == 1).all()
    assert (still.values[:, 1, 2] == scaler.feature_mean[1, 2]).all()


def test_an_asset_unknown_in_the_training_rows_is_named(panel: Panel) -> None:
    mask, targets = panel.mask.copy(), panel.targets.copy()
    mask[:400, 1] = False
    where = "in the training part (2024-01-01T01:00:00Z to 2024-01-19T20:00:00Z)"
    advice = "fetch older bars, move split.validation, or leave it out"
    with pytest.raises(DataError) as refused:
        fit_scaler(replace(panel, mask=mask), ROWS)
    assert str(refused.value) == f"B: no bar with every feature {where}; {advice}"
    targets[:400, 0] = np.nan
    with pytest.raises(DataError) as refused:
        fit_scaler(replace(panel, targets=targets), ROWS)
    assert str(refused.value) == f"A: no known target {where}; {advice}"
