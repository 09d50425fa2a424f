import numpy as np
import pytest
from random_bars import EVERY_FEATURE, HOUR_MS, HOURLY, MONDAY_MS, hours_with_holes, random_bars

from flashtrader.config import PanelConfig
from flashtrader.errors import ConfigError, DataError
from flashtrader.panel.panel import build_panel

CONFIG = PanelConfig(features=EVERY_FEATURE, target={"horizon_bars": 3})


def test_assets_are_joined_by_time() -> None:
    bars = {"A": random_bars([0, 1, 2, 4, 5], seed=1), "B": random_bars([2, 3, 4, 5, 6], seed=2)}
    panel = build_panel(bars, HOURLY, PanelConfig(features=("log_close", "log_return"), target={"horizon_bars": 1}))
    assert panel.symbols == panel.target_names == ("A", "B")
    np.testing.assert_array_equal(panel.timestamps, MONDAY_MS + HOUR_MS * np.arange(7))
    np.testing.assert_array_equal(panel.mask, np.array([[0, 1, 1, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1]], bool).T)
    for asset, symbol in enumerate(panel.symbols):
        by_time = bars[symbol].set_index("timestamp")["close"].reindex(panel.timestamps).to_numpy()
        known = panel.mask[:, asset]
        np.testing.assert_array_equal(panel.values[known, asset, 0], np.log(by_time[known]).astype(np.float32))
        np.testing.assert_array_equal(panel.targets[:-1, asset], np.diff(np.log(by_time)).astype(np.float32))
    assert (panel.values[~panel.mask] == 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_an_asset_has_the_same_features_alone_and_among_others(seed: int) -> None:
    bars = {name: random_bars(hours_with_holes(300, seed + i) + 7 * i, seed + i) for i, name in enumerate("ABC")}
    together = build_panel(bars, HOURLY, CONFIG)
    for asset, (symbol, table) in enumerate(bars.items()):
        alone = build_panel({symbol: table}, HOURLY, CONFIG)
        rows = np.searchsorted(together.timestamps, alone.timestamps)
        np.testing.assert_array_equal(together.values[rows, asset], alone.values[:, 0])
        np.testing.assert_array_equal(together.mask[rows, asset], alone.mask[:, 0])
        assert together.mask[:, asset].sum() == alone.mask.sum() > 0


def test_a_panel_of_cut_or_noisy_bars_is_the_same_before() -> None:
    bars = {name: random_bars(hours_with_holes(300, i) + 7 * i, i) for i, name in enumerate("AB")}
    full = build_panel(bars, HOURLY, CONFIG)
    for row in (120, 200, 290):
        now = full.timestamps[row]
        noisy = {}
        for symbol, table in bars.items():
            noise = random_bars(np.arange(len(table)), seed=row)
            noisy[symbol] = table.where(table["timestamp"] <= now, noise.assign(timestamp=table["timestamp"]))
        cut = {symbol: table[table["timestamp"] <= now].reset_index(drop=True) for symbol, table in bars.items()}
        for changed in (build_panel(noisy, HOURLY, CONFIG), build_panel(cut, HOURLY, CONFIG)):
            np.testing.assert_array_equal(changed.timestamps[: row + 1], full.timestamps[: row + 1])
            np.testing.assert_array_equal(changed.values[: row + 1], full.values[: row + 1])
            np.testing.assert_array_equal(changed.mask[: row + 1], full.mask[: row + 1])
            np.testing.assert_array_equal(changed.targets[: row - 2], full.targets[: row - 2])


def test_a_run_ends_only_where_every_asset_is_out() -> None:
    outage = {"A": random_bars([0, 1, 2, 7, 8, 9]), "B": random_bars([0, 1, 2, 7, 8, 9])}
    one_trades_on = outage | {"B": random_bars(range(10))}
    config = PanelConfig(features=("log_close",), max_gap_bars=3)
    np.testing.assert_array_equal(build_panel(outage, HOURLY, config).run_starts, [0, 3])
    np.testing.assert_array_equal(build_panel(outage, HOURLY, config).run_lengths, [3, 3])
    np.testing.assert_array_equal(build_panel(one_trades_on, HOURLY, config).run_starts, [0])
    bridged = build_panel(outage, HOURLY, PanelConfig(features=("log_close",), max_gap_bars=4))
    np.testing.assert_array_equal(bridged.run_starts, [0])


@pytest.mark.parametrize(
    ("bars", "features", "message"),
    [
        (
            {"A": range(5), "B": range(9, 12)},
            ("log_close",),
            "data.symbols have no common period: A ends at 2024-01-01T04:00:00Z, before B begins at "
            "2024-01-01T09:00:00Z; leave one out or fetch more of its bars",
        ),
        (
            {"A": range(5), "B": [], "C": []},
            ("log_close",),
            "B, C: no bars in the period asked for; fetch them, or change data.start and data.end",
        ),
        (
            {"A": range(5)},
            ("log_close", "rsi_5"),
            "A: rsi_5 is nowhere known; its longest stretch without an outage has 5 bars: shorten the windows in "
            "panel.features, raise panel.max_gap_bars, or fetch more bars",
        ),
        (
            {"A": [0, 1, 2, 9, 10]},
            ("volatility_3",),
            "A: volatility_3 is nowhere known; its longest stretch without an outage has 3 bars: shorten the windows "
            "in panel.features, raise panel.max_gap_bars, or fetch more bars",
        ),
    ],
)
def test_data_that_make_no_panel(bars: dict[str, list[int]], features: tuple[str, ...], message: str) -> None:
    tables = {symbol: random_bars(hours) for symbol, hours in bars.items()}
    with pytest.raises(DataError) as refused:
        build_panel(tables, HOURLY, PanelConfig(features=features))
    assert str(refused.value) == message


def test_a_series_without_volume_has_no_volume_ratio() -> None:
    tables = {"A": random_bars(range(50)), "B": random_bars(range(50)).assign(volume=0.0)}
    with pytest.raises(DataError) as refused:
        build_panel(tables, HOURLY, PanelConfig())
    assert str(refused.value) == (
        "B: volume_ratio_24 is nowhere known, for the bars have no volume; take it out of panel.features"
    )


def test_features_that_are_never_known_together() -> None:
    table = random_bars(range(6)).assign(volume=[3.0, 3.0, 0, 0, 0, 0])
    with pytest.raises(DataError) as refused:
        build_panel({"A": table}, HOURLY, PanelConfig(features=("volume_ratio_2", "rsi_3")))
    assert str(refused.value) == (
        "A: the whole of panel.features is nowhere known; its longest stretch without an outage has 6 bars: shorten "
        "the windows in panel.features, raise panel.max_gap_bars, or fetch more bars"
    )


def test_an_unknown_feature_is_a_wrong_request() -> None:
    with pytest.raises(ConfigError) as refused:
        build_panel({"A": random_bars(range(50))}, HOURLY, PanelConfig(features=("rsj_14",)))
    assert str(refused.value) == "panel.features: unknown feature 'rsj_14'; the nearest is rsi_14"
