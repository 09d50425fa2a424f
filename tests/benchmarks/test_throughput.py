"""What `bench throughput` measures, on sizes that say nothing about speed."""

import json
import math
from typing import Any

import httpx
import pytest

from flashtrader.benchmarks import throughput
from flashtrader.benchmarks.local_exchange import HOURLY, LocalExchange
from flashtrader.benchmarks.throughput import AIMS, Sizes, Throughput, Work, measure_throughput

TINY = Sizes(
    width=8,
    layers=1,
    heads=2,
    context_bars=16,
    segment_bars=64,
    forecast_bars=300,
    sampled_windows=4,
    attention_length=256,
    attention_window=32,
    auto_lengths=(64, 256),
    memory_length=2_048,
    panel_bars=20_000,
    panel_context_bars=1_000,
    backtest=(300, 5),
    fetch_bars=2_500,
    fetch_latency_s=0.0,
)


@pytest.fixture(scope="module")
def measured() -> Throughput:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(throughput, "_SECONDS", 0.05)
        return measure_throughput(TINY)


def test_every_work_is_measured_beside_its_reference(measured: Throughput) -> None:
    units = {row.work: row.unit for row in measured.rows}
    assert units == {
        "forecast": "bars/s",
        "train_labels": "labels/s",
        "train_step": "ms",
        "attention_window": "ms",
        "attention_auto": "ms",
        "attention_memory": "bytes",
        "panel_memory": "bytes",
        "backtest": "bar·assets/s",
        "fetch": "bars/s",
    }
    for row in measured.rows:
        assert math.isfinite(row.ours)
        assert row.ours > 0
        assert math.isfinite(row.reference)
        assert row.reference > 0
        assert row.size
        assert row.reference_is
    assert set(AIMS) <= set(units)


@pytest.mark.parametrize(("unit", "ratio"), [("bars/s", 4.0), ("ms", 0.25), ("bytes", 0.25)])
def test_a_ratio_above_one_is_better_than_the_reference(unit: str, ratio: float) -> None:
    row = Work("forecast", "", unit, ours=8.0, reference=2.0, reference_is="")
    assert row.ratio == ratio
    assert row.to_json()["ratio"] == ratio


def test_the_json_has_rows_and_the_machine(measured: Throughput) -> None:
    found = json.loads(json.dumps(measured.to_json()))
    assert set(found) == {"rows", "machine"}
    assert all({"work", "unit", "ours", "reference", "reference_is", "ratio"} <= set(row) for row in found["rows"])
    assert found["machine"]["cores"] >= 1


def test_copied_windows_are_computed(measured: Throughput) -> None:
    (panel,) = (row for row in measured.rows if row.work == "panel_memory")
    assert panel.reference == (20_000 - 1_000 + 1) * 1_000 * 20 * 4
    assert 20_000 * 20 * 4 < panel.ours < 10 * 20_000 * 20 * 4


def test_the_cost_model_stands_for_the_matrix(measured: Throughput) -> None:
    (memory,) = (row for row in measured.rows if row.work == "attention_memory")
    assert memory.reference > 3 * TINY.memory_length**2 * TINY.heads * 4
    assert memory.ratio > 25


def test_auto_is_never_ahead_of_the_fastest(measured: Throughput) -> None:
    (auto,) = (row for row in measured.rows if row.work == "attention_auto")
    assert auto.reference <= auto.ours


def test_the_local_exchange_answers_as_the_real_one() -> None:
    with LocalExchange(num_bars=30, latency_s=0.0) as exchange:
        hour_ms, first_ms = HOURLY.milliseconds, exchange.span.start_ms

        def opened(**window: int) -> list[int]:
            query = {"category": "linear", "symbol": "A", "interval": "60", "limit": 10, **window}
            rows: list[Any] = httpx.get(f"{exchange.url}/v5/market/kline", params=query).json()["result"]["list"]
            return [(int(row[0]) - first_ms) // hour_ms for row in rows]

        assert opened(start=1) == list(range(9, -1, -1)), "the oldest of all"
        assert opened(start=first_ms, end=first_ms + 20 * hour_ms) == list(range(20, 10, -1)), "the newest of a window"
        assert opened(start=first_ms + 5 * hour_ms - 1, end=first_ms + 7 * hour_ms - 1) == [6, 5]
        assert opened(start=first_ms + 40 * hour_ms, end=first_ms + 50 * hour_ms) == []
