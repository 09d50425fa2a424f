"""The campaign of faults and kills, in small; its figures in full are in docs/reliability.md."""

from pathlib import Path

from fetch_campaign import Campaign, FaultyExchange, minute_bars
from flashtrader.market.sources.bybit import REQUESTS


def test_nothing_is_lost_by_faults_and_kills(tmp_path: Path) -> None:
    figures = Campaign(seed=1, folder=tmp_path).run(kills=4, num_bars=6_000)
    assert figures.kills >= 4
    assert figures.rows >= 2 * 3_000 - 80
    assert figures.files_read > 0
    assert sum(figures.faults.values()) > 0
    assert (figures.wrong_rows, figures.damaged_files) == (0, 0)
    assert figures.busiest <= REQUESTS


def test_a_wrong_row_would_be_counted(tmp_path: Path) -> None:
    """Bars of the exchange that change after they were fetched stand for a fetch that got them wrong."""
    campaign = Campaign(seed=1, folder=tmp_path)
    bars = minute_bars(2_000, 0)
    with FaultyExchange({"BTCUSDT": bars, "ETHUSDT": bars}, int(bars["timestamp"].iloc[1_000]), seed=0) as exchange:
        exchange.faulty = 0.0
        done, killed = campaign._live(exchange.url, tmp_path / "data", int(bars["timestamp"].iloc[0]), 60.0)
    assert (done, killed) == (True, False)
    changed = bars.assign(close=bars["close"].where(bars.index != 5, bars["low"]))
    campaign._look(tmp_path / "data", {"BTCUSDT": bars, "ETHUSDT": changed})
    assert campaign.figures.wrong_rows == 1
    part = next(tmp_path.glob("data/bybit/BTCUSDT/1/bars-*.parquet"))
    part.write_bytes(part.read_bytes()[:-9])
    campaign._look(tmp_path / "data", {"BTCUSDT": bars})
    assert campaign.figures.damaged_files == 1
