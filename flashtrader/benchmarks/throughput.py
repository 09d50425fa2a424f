"""How much work a second is done, or in how much memory, each beside the plain way of doing it in the same run.

The plain way is what articles and most code do: a window is copied for every bar, a model is run for every window and
trained for one label of it, the matrix of attention weights is written out, pages are asked for one after another.
"""

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import torch
from torch.nn.functional import scaled_dot_product_attention

from flashtrader.attention import BACKENDS, AttentionPattern, attend, choose, unsupported
from flashtrader.attention.cost import AttentionShape, attention_cost
from flashtrader.benchmarks.backtest import measure_backtest
from flashtrader.benchmarks.local_exchange import HOURLY, LocalExchange
from flashtrader.benchmarks.machine import Machine, machine
from flashtrader.benchmarks.peak_memory import PeakMemory
from flashtrader.config import Experiment, PanelConfig, SplitConfig
from flashtrader.market.bars import Bars
from flashtrader.market.fetch import fetch
from flashtrader.market.sources.bybit import PAGE_BARS, BybitSource
from flashtrader.market.store import Store
from flashtrader.models.model import GridModel
from flashtrader.models.stream import forecast_rows
from flashtrader.panel.panel import Panel, build_panel
from flashtrader.panel.scaling import fit_scaler
from flashtrader.panel.segments import Segments
from flashtrader.panel.splits import Rows, split_by_time
from flashtrader.training.budget import rehearse, untrained_model

AIMS = {
    "forecast": 200.0,
    "train_labels": 300.0,
    "train_step": 4.0,
    "attention_window": 6.0,
    "attention_auto": 0.95,
    "attention_memory": 25.0,
    "panel_memory": 1_000.0,
}
"""Ratios that the program is built to reach on two cores, at the sizes that `Sizes` has unless told otherwise."""
FEATURES = (
    *("log_return", "calendar", "log_close", "log1p_volume"),
    *(f"{name}_{bars}" for name in ("volatility", "volume_ratio", "price_ratio", "range", "rsi") for bars in (24, 96)),
    *("rsi_mean_24", "rsi_mean_96", "volatility_480"),
)
"""20 features of one asset."""
CPU = torch.device("cpu")
_SECONDS = 1.0
"""How long calls are repeated, where two of each do not take longer."""


@dataclass(frozen=True)
class Sizes:
    """How much of each work is measured."""

    width: int = 64
    layers: int = 4
    heads: int = 8
    context_bars: int = 2_048
    segment_bars: int = 8_192
    forecast_bars: int = 20_000
    sampled_windows: int = 16
    """Of one window per bar, which would take hours, this many are timed."""
    attention_length: int = 16_384
    attention_window: int = 1_024
    auto_lengths: tuple[int, ...] = (512, 1_024, 2_048, 4_096, 8_192, 16_384)
    memory_length: int = 8_192
    panel_bars: int = 1_000_000
    panel_context_bars: int = 8_192
    backtest: tuple[int, int] = (100_000, 100)
    fetch_bars: int = 50_000
    fetch_latency_s: float = 0.05


QUICK = Sizes(sampled_windows=8, auto_lengths=(512, 1_024, 2_048, 4_096))
"""Less of what takes longest; figures of one bar or one label stay what they are."""


@dataclass(frozen=True)
class Work:
    """One work, done here and done plainly."""

    work: str
    size: str
    unit: str
    ours: float
    reference: float
    reference_is: str

    @property
    def ratio(self) -> float:
        """How many times better ours is: of rates ours over the reference, of time and memory the other way round."""
        return self.ours / self.reference if self.unit.endswith("/s") else self.reference / self.ours

    def to_json(self) -> dict[str, Any]:
        """Return the fields and the ratio."""
        return asdict(self) | {"ratio": self.ratio}


@dataclass(frozen=True)
class Throughput:
    """All works of a run, and the machine."""

    rows: tuple[Work, ...]
    machine: Machine

    def to_json(self) -> dict[str, Any]:
        """Return the benchmark as plain values."""
        return {"rows": [row.to_json() for row in self.rows], "machine": asdict(self.machine)}


def measure_throughput(sizes: Sizes = Sizes(), on_row: Callable[[Work], None] | None = None) -> Throughput:
    """Measure every work on the CPU. on_row: is told each as it is done."""
    rows = []
    for measure in (
        _forecast,
        _train_labels,
        _train_step,
        _attention_window,
        _attention_auto,
        _attention_memory,
        _panel_memory,
        _backtest,
        _fetch,
    ):
        row = measure(sizes)
        rows.append(row)
        if on_row is not None:
            on_row(row)
    return Throughput(tuple(rows), machine(CPU))


def _fastest(*calls: Callable[[], object], margin: float = math.inf) -> list[float]:
    """Return the shortest time of each call in seconds.

    Calls take turns, twice at least, so that what else the machine does falls on all of them. One that takes more than
    `margin` times as long as the fastest gets no third turn.
    """
    times: list[list[float]] = [[] for _ in calls]
    began = time.perf_counter()
    while len(times[0]) < 2 or time.perf_counter() - began < _SECONDS:
        fastest = min(map(min, times)) if times[0] else 0.0
        for call, durations in zip(calls, times, strict=True):
            if len(durations) < 2 or min(durations) <= margin * fastest:
                started = time.perf_counter()
                call()
                durations.append(time.perf_counter() - started)
    return [min(durations) for durations in times]


# The model ----------------------------------------------------------------------------------------------------------


def _experiment(sizes: Sizes, backend: str = "auto", **training: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "data": {"source": "simulated", "symbols": ["A"], "interval": "60"},
            "panel": {"features": FEATURES},
            "model": {
                "context_bars": sizes.context_bars,
                "width": sizes.width,
                "layers": sizes.layers,
                "heads": sizes.heads,
                "attention": backend,
            },
            "training": {"device": "cpu", **training},
        }
    )


def _model_is(sizes: Sizes) -> str:
    return f"context {sizes.context_bars:,}, width {sizes.width}, {sizes.layers} layers"


def _forecast(sizes: Sizes) -> Work:
    num_bars, context = sizes.forecast_bars, sizes.context_bars
    experiment = _experiment(sizes, segment_bars=sizes.segment_bars)
    model = untrained_model(experiment).eval()
    panel = _noise_panel(num_bars, experiment)
    batch = min(8, sizes.sampled_windows)
    values, mask = (
        np.lib.stride_tricks.sliding_window_view(array, context, axis=0) for array in (panel.values, panel.mask)
    )
    starts = np.linspace(0, num_bars - context, sizes.sampled_windows).astype(int)

    @torch.inference_mode()
    def one_window_per_bar() -> None:
        for first in range(0, len(starts), batch):
            windows = starts[first : first + batch]
            copied = (np.ascontiguousarray(np.moveaxis(array[windows], -1, 1)) for array in (values, mask))
            model.forecast(model(*map(torch.from_numpy, copied))[:, -1])

    ours, reference = _fastest(
        lambda: forecast_rows(model, panel, Rows(0, num_bars), experiment.warmup_bars), one_window_per_bar
    )
    return Work(
        work="forecast",
        size=f"{num_bars:,} bars, {_model_is(sizes)}",
        unit="bars/s",
        ours=num_bars / ours,
        reference=len(starts) / reference,
        reference_is=f"one window of {context:,} bars per bar through the same model, {batch} at once; "
        f"{len(starts)} windows were timed",
    )


def _noise_panel(num_bars: int, experiment: Experiment) -> Panel:
    model: GridModel = untrained_model(experiment)
    features = model.standardiser.shape.features
    return Panel(
        timestamps=np.arange(num_bars) * HOURLY.milliseconds,
        interval=HOURLY,
        symbols=("A",),
        feature_names=tuple(f"feature {number}" for number in range(features)),
        values=np.random.default_rng(0).standard_normal((num_bars, 1, features), np.float32),
        mask=np.ones((num_bars, 1), np.bool_),
        targets=np.full((num_bars, 1), np.nan, np.float32),
        target_names=("A",),
        target_entities=np.zeros(1, np.int64),
        symbol_targets=np.zeros(1, np.int64),
        run_starts=np.zeros(1, np.int64),
    )


def _train_labels(sizes: Sizes) -> Work:
    context, segment = sizes.context_bars, sizes.segment_bars
    windows = segment // context
    dense = rehearse(_experiment(sizes, segment_bars=segment, warmup_bars=context, batch_size=1))
    single = rehearse(_experiment(sizes, segment_bars=context, labels="last", batch_size=windows))
    ours, reference = _fastest(dense, single)
    return Work(
        work="train_labels",
        size=f"a segment of {segment:,} bars a step, {_model_is(sizes)}",
        unit="labels/s",
        ours=(segment - context) / ours,
        reference=windows / reference,
        reference_is=f"{windows} windows of {context:,} bars a step, one label each, same model",
    )


def _train_step(sizes: Sizes) -> Work:
    shape = {"segment_bars": sizes.context_bars, "batch_size": 2}
    ours, reference = _fastest(*(rehearse(_experiment(sizes, backend, **shape)) for backend in ("auto", "naive")))
    return Work(
        work="train_step",
        size=f"2 segments of {sizes.context_bars:,} bars, {_model_is(sizes)}",
        unit="ms",
        ours=1e3 * ours,
        reference=1e3 * reference,
        reference_is="the same step with the matrix of attention weights written out",
    )


# Attention ----------------------------------------------------------------------------------------------------------


def _attention_window(sizes: Sizes) -> Work:
    length, window = sizes.attention_length, sizes.attention_window

    def full(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

    windowed = partial(attend, pattern=AttentionPattern(window_steps=window))
    ours, reference = _fastest(*(_forward_backward(sizes, length, forward) for forward in (windowed, full)))
    return Work(
        work="attention_window",
        size=f"{length:,} bars, window {window:,}, {_heads_are(sizes)}, forward and backward",
        unit="ms",
        ours=1e3 * ours,
        reference=1e3 * reference,
        reference_is="PyTorch's scaled_dot_product_attention, causal without a window",
    )


def _attention_auto(sizes: Sizes) -> Work:
    """Return the length and pattern at which `auto` is furthest behind the fastest backend."""
    found = []
    for pattern in (AttentionPattern(), AttentionPattern(window_steps=sizes.attention_window)):
        rivals = list(BACKENDS)
        for length in sizes.auto_lengths:
            q = torch.empty(1, length, sizes.heads, sizes.width // sizes.heads, requires_grad=True)
            chosen = choose(q, q, pattern).backend
            rivals = [name for name in rivals if name != chosen and unsupported(q, q, pattern, name) is None]
            names = [chosen, *rivals]
            calls = [
                _forward_backward(sizes, length, partial(attend, pattern=pattern, backend=name))
                for name in ("auto", *rivals)
            ]
            times = dict(zip(names, _fastest(*calls, margin=1.5), strict=True))
            fastest = min(times, key=lambda name: times[name])
            found.append((times[fastest] / times[chosen], times[chosen], times[fastest], fastest, length, pattern))
            rivals = [name for name in rivals if times[name] < 2 * times[chosen]]
    _, auto, best, fastest, length, pattern = min(found, key=lambda row: row[0])
    return Work(
        work="attention_auto",
        size=f"the worst of {min(sizes.auto_lengths):,} to {max(sizes.auto_lengths):,} bars, causal and windowed: "
        f"{length:,} bars, {pattern}, {_heads_are(sizes)}, forward and backward",
        unit="ms",
        ours=1e3 * auto,
        reference=1e3 * best,
        reference_is=f"the fastest backend that runs the call, there {fastest}; a backend that is half as fast "
        "at one length is not tried at longer ones",
    )


def _attention_memory(sizes: Sizes) -> Work:
    """Return ours as measured. The matrix at this length takes most of a small machine: it is measured at a quarter."""
    length, quarter, pattern = sizes.memory_length, sizes.memory_length // 4, AttentionPattern()

    def naive_bytes(tokens: int) -> int:
        shape = AttentionShape(1, tokens, tokens, sizes.heads, sizes.width // sizes.heads)
        return attention_cost("naive", shape, pattern).training_peak_bytes

    with PeakMemory(CPU) as memory:
        ours = memory.bytes_of(_attention_step, sizes, length, "auto")
        measured = memory.bytes_of(_attention_step, sizes, quarter, "naive")
    checked = (
        "" if not measured else f", which says {naive_bytes(quarter) / measured:.2f} of the measured at {quarter:,}"
    )
    return Work(
        work="attention_memory",
        size=f"{length:,} bars, causal, {_heads_are(sizes)}, forward and backward",
        unit="bytes",
        ours=math.nan if ours is None else ours,
        reference=naive_bytes(length),
        reference_is=f"the matrix of attention weights written out, by the cost model{checked}",
    )


def _attention_step(sizes: Sizes, length: int, backend: str) -> Callable[[], object]:
    return _forward_backward(sizes, length, partial(attend, pattern=AttentionPattern(), backend=backend))


def _forward_backward(sizes: Sizes, length: int, forward: Callable[..., torch.Tensor]) -> Callable[[], object]:
    size = (1, length, sizes.heads, sizes.width // sizes.heads)
    inputs = [torch.randn(size, requires_grad=True) for _ in "qkv"]
    dout = torch.randn(size)
    return lambda: torch.autograd.grad(forward(*inputs), inputs, dout)


def _heads_are(sizes: Sizes) -> str:
    return f"{sizes.heads} heads of {sizes.width // sizes.heads}"


# The panel ----------------------------------------------------------------------------------------------------------


def _panel_memory(sizes: Sizes) -> Work:
    with PeakMemory(CPU) as memory:
        ours = memory.bytes_of(_preparation, sizes.panel_bars, sizes.panel_context_bars)
    features, windows = 20, sizes.panel_bars - sizes.panel_context_bars + 1
    return Work(
        work="panel_memory",
        size=f"{sizes.panel_bars:,} bars × {features} features, context {sizes.panel_context_bars:,}",
        unit="bytes",
        ours=math.nan if ours is None else ours,
        reference=float(windows * sizes.panel_context_bars * features * np.dtype(np.float32).itemsize),
        reference_is="a float32 copy of every window, computed",
    )


def _preparation(num_bars: int, context_bars: int) -> Callable[[], object]:
    """Return what turns bars into the first batch of training, as `train` does."""
    bars = _random_walk(num_bars)

    def prepare() -> None:
        panel = build_panel({"A": bars}, HOURLY, PanelConfig(features=FEATURES))
        split = split_by_time(panel, SplitConfig(), 24)
        fit_scaler(panel, split.train)
        segments = Segments(panel, split.train, context_bars, context_bars // 2)
        segments.batch(segments.starts[:4])

    return prepare


def _random_walk(num_bars: int) -> Bars:
    rng = np.random.default_rng(0)
    close = 100 * np.exp(0.001 * rng.standard_normal(num_bars).cumsum())
    return pd.DataFrame(
        {
            "timestamp": np.arange(num_bars) * HOURLY.milliseconds,
            "open": close,
            "high": 1.001 * close,
            "low": 0.999 * close,
            "close": close,
            "volume": rng.lognormal(size=num_bars),
        }
    )


# Backtest and fetch -------------------------------------------------------------------------------------------------


def _backtest(sizes: Sizes) -> Work:
    (speed,) = measure_backtest([sizes.backtest])
    return Work(
        work="backtest",
        size=f"{speed.num_bars:,} bars × {speed.num_assets} assets, new weights at every bar",
        unit="bar·assets/s",
        ours=speed.engine_rate,
        reference=speed.numpy_loop_rate,
        reference_is="a loop over the bars with the same formulas in numpy",
    )


def _fetch(sizes: Sizes) -> Work:
    with LocalExchange(sizes.fetch_bars, sizes.fetch_latency_s) as exchange, tempfile.TemporaryDirectory() as directory:
        began = time.perf_counter()
        source, store = BybitSource(base_url=exchange.url), Store(Path(directory))
        (report,) = fetch(source, store, ["A"], HOURLY, exchange.span.start_ms, exchange.span.end_ms)
        fetched = time.perf_counter()
        pages = list(_one_after_another(exchange))
        read = time.perf_counter()
    return Work(
        work="fetch",
        size=f"{sizes.fetch_bars:,} bars from a local server that answers after {1e3 * sizes.fetch_latency_s:.0f} ms, "
        "checked and stored",
        unit="bars/s",
        ours=report.rows / (fetched - began),
        reference=sum(map(len, pages)) / (read - fetched),
        reference_is="one request at a time over one connection, neither checked nor stored",
    )


def _one_after_another(exchange: LocalExchange) -> Iterator[pd.DataFrame]:
    with httpx.Client(base_url=exchange.url, trust_env=False) as client:
        page_ms = PAGE_BARS * HOURLY.milliseconds
        for start_ms in range(exchange.span.start_ms, exchange.span.end_ms, page_ms):
            query = f"category=linear&symbol=A&interval={HOURLY.code}&limit={PAGE_BARS}"
            response = client.get(f"/v5/market/kline?{query}&start={start_ms}&end={start_ms + page_ms - 1}")
            yield pd.DataFrame(response.json()["result"]["list"]).astype(float)
