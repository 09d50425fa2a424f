"""Where a trained model looks: the attention weights of chosen bars, and what flows to them through the layers.

The model runs as it always does; what its attentions were asked is kept aside, and the weights are computed from that
by the naive formula for the rows that are wanted, never for all of them at once.

Shapes: T time steps, E entities, H heads, d width of a head; B sequences of N tokens, as an attention reads them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flashtrader.arrays import Floats
from flashtrader.attention import AttentionPattern, naive
from flashtrader.config import PLAIN_FAMILIES, TrainingConfig, utc
from flashtrader.errors import ConfigError
from flashtrader.files import finite
from flashtrader.forecasting.forecast import load_best, part_rows
from flashtrader.market.spans import iso_time
from flashtrader.models.blocks import Attend
from flashtrader.models.model import GridModel
from flashtrader.models.precision import autocast, device_of
from flashtrader.models.stream import check_finite, forecasts_of
from flashtrader.models.weights import save_tensors
from flashtrader.panel.books import quotes
from flashtrader.panel.loading import load_panel
from flashtrader.panel.panel import Panel
from flashtrader.run import Run

_BLOCK_ENTRIES = 2**24  # weights that are held at once, in all heads: 64 MiB


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """What the forecast at one bar looked at."""

    times_ms: NDArray[np.int64]
    """(T,) opening times of the bars that can influence the forecast, oldest first; the last is the bar itself."""
    entities: tuple[str, ...]
    """Names of the E entities; of one that stands for a whole bar, `bar`."""
    forecasts: dict[str, float]
    """Of every symbol; NaN where there is none."""
    weights: dict[str, NDArray[np.float32]]
    """By layer: (H, E asking, K seen, E seen) of the last K bars; each row (K, E) sums to one.

    Factorised mixing has two attentions in a layer: `time` sees its own entity alone (H, E, K, 1), `across` its own bar
    alone (H, E, 1, E).
    """
    rollout: NDArray[np.float32]
    """(E asking, T, E seen): `rollout` of all layers; each row (T, E) sums to one."""
    prices: dict[str, Floats]
    """(T,) of each symbol at `times_ms`: close, or mid-price; NaN where there is none."""

    @property
    def time(self) -> str:
        """The bar's opening time in ISO 8601, UTC; `look` takes it back."""
        opened_ms = int(self.times_ms[-1])
        return iso_time(opened_ms, "ms" if opened_ms % 1000 else "s")

    @property
    def file_name(self) -> str:
        """The bar's opening time as any file system takes it, to the millisecond where it has some."""
        moment, milliseconds = divmod(int(self.times_ms[-1]), 1000)
        fraction = f".{milliseconds:03d}" if milliseconds else ""
        return f"{pd.Timestamp(moment, unit='s'):%Y%m%dT%H%M%S}{fraction}Z"


def look(run: Run, data_dir: Path, bars: str) -> Iterator[AttentionMap]:
    """Yield where a run's best model looks at each of the chosen bars, in order of time.

    bars: opening times, separated by commas; `latest`; or how many bars to take, spread over the run's test part.
    Of a row that is an event, the last one at or before the time is meant.
    Raises ConfigError for a model without attention of flashtrader's own, or a bar without a forecast; else what
    `forecast_run` raises.
    """
    experiment = run.experiment
    if experiment.model.family in PLAIN_FAMILIES:
        raise ConfigError(
            f"{run.path}: a plain model ({experiment.model.family}) has no attention; leave --attention out"
        )
    if experiment.model.backbone != "grid":
        raise ConfigError(
            f"{run.path}: model.backbone is {experiment.model.backbone}, whose attention can't be looked into here; "
            "take `output_attentions` of the transformers library, or train with model.backbone: grid"
        )
    loaded = load_panel(experiment, data_dir)
    model = load_best(run)
    for row in chosen_rows(run, loaded.panel, bars):
        yield map_row(model, experiment.training, loaded.panel, loaded.tables, row)


def chosen_rows(run: Run, panel: Panel, bars: str) -> list[int]:
    """Return the rows that `bars` means, as in `look`, sorted. Raises ConfigError for one without a forecast."""
    rows = np.arange(len(panel.timestamps))
    before_T = rows - panel.run_starts[np.searchsorted(panel.run_starts, rows, side="right") - 1]
    warmup_bars = run.experiment.warmup_bars
    known_T = np.asarray(panel.forecastable.any(axis=1))
    forecast_T = known_T & (before_T >= warmup_bars)
    if bars.isdecimal() and len(bars) < len("20240131"):
        test = part_rows(run, panel, "test")
        there = (test.start + np.flatnonzero(forecast_T[test.start : test.stop])).tolist()
        if not 0 < int(bars) <= len(there):
            raise ConfigError(
                f"--attention {bars}: the run's test part has {len(there):,} bars with a forecast; ask for some of them"
            )
        return [there[round(place)] for place in np.linspace(0, len(there) - 1, int(bars))]
    asked = {len(rows) - 1} if bars == "latest" else {_row_at(panel, text.strip()) for text in bars.split(",")}
    for row in sorted(asked):
        if not forecast_T[row]:
            reason = f"it has {before_T[row]} bars before it without an outage, and a forecast needs {warmup_bars}"
            raise ConfigError(
                f"--attention: there is no forecast at {iso_time(int(panel.timestamps[row]))}, for "
                f"{reason if known_T[row] else 'features are missing there'}; choose another bar"
            )
    return sorted(asked)


def _row_at(panel: Panel, text: str) -> int:
    """Return the row of a time. Raises ConfigError for what is no time, or not that of a bar."""
    try:
        moment: Any = utc(text)
    except ValueError as error:
        raise ConfigError(f"--attention: {error}; or give `latest`, or a number of bars") from None
    time_ms = round(moment.timestamp() * 1000)
    row = int(np.searchsorted(panel.timestamps, time_ms, side="right")) - 1
    if row < 0 or (panel.interval is not None and panel.timestamps[row] != time_ms):
        nearest = panel.timestamps[np.abs(panel.timestamps - time_ms).argmin()]
        raise ConfigError(f"--attention {text}: no bar opens then; the nearest opens at {iso_time(int(nearest))}")
    return row


@torch.inference_mode()
def map_row(
    model: GridModel, training: TrainingConfig, panel: Panel, tables: Mapping[str, pd.DataFrame], row: int
) -> AttentionMap:
    """Return what the forecast at a row looked at: one pass over the bars that can influence it.

    training: the precision of that pass; the weights are computed from its queries and keys in fp32. tables: bars or
    books of each symbol, for the prices. Raises TrainingError when the model answers with no number.
    """
    run_start = panel.run_starts[panel.run_starts <= row].max()
    seen = slice(max(int(run_start), row - model.decoder.receptive_bars), row + 1)
    values, mask = (torch.from_numpy(part[None, seen]).to(device_of(model)) for part in (panel.values, panel.mask))
    with autocast(training, device_of(model)), recorded(model.decoder) as calls:
        outputs_TKP = model(values, mask)[0].float().cpu().numpy()
    times_ms, entities = panel.timestamps[seen].copy(), model.decoder.shape.entities
    check_finite(outputs_TKP, times_ms)
    known_K = panel.mask[row, panel.target_entities]
    forecasts_K = np.where(known_K, forecasts_of(model, outputs_TKP[-1:])[0], np.nan)[panel.symbol_targets]
    return AttentionMap(
        times_ms=times_ms,
        entities=("bar",) if entities == 1 else panel.entity_names or panel.symbols,
        forecasts=dict(zip(panel.symbols, forecasts_K.tolist(), strict=True)),
        weights={name: last_step(call, entities).cpu().numpy() for name, call in named(calls).items()},
        rollout=rollout(calls, len(times_ms), entities).cpu().numpy(),
        prices={symbol: _prices(tables[symbol], times_ms) for symbol in panel.symbols},
    )


def write_map(directory: Path, attention: AttentionMap) -> Path:
    """Write the weights of each layer, the rollout and the times as safetensors, in one step; return the path."""
    tensors = {name.replace(" ", "_"): torch.from_numpy(weights) for name, weights in attention.weights.items()}
    tensors |= {"rollout": torch.from_numpy(attention.rollout), "times_ms": torch.from_numpy(attention.times_ms)}
    facts = {"time": attention.time, "entities": attention.entities, "forecasts": finite(attention.forecasts)}
    path = directory / f"{attention.file_name}.safetensors"
    save_tensors(path, tensors, facts)
    return path


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """What one attention was asked in one pass over T steps of E entities.

    `joint`: one sequence of T·E tokens, time-major. `time`: E sequences of T. `across`: T sequences of E.
    """

    mixing: Literal["joint", "time", "across"]
    q_BNHd: Tensor
    k_BNHd: Tensor
    pattern: AttentionPattern

    def weights(self, sequences: slice, positions: range) -> tuple[Tensor, slice]:
        """Return the weights (B, H, positions, keys) of queries of those sequences, and which keys these are of."""
        start, stop = self.pattern.seen_by_any(positions.start, positions.stop, self.k_BNHd.shape[1])
        q_BNHd = self.q_BNHd[sequences, positions.start : positions.stop].float()
        k_BNHd = self.k_BNHd[sequences, start:stop].float()
        return naive.weights(q_BNHd, k_BNHd, self.pattern, positions, range(start, stop)), slice(start, stop)

    def blocks(self) -> Iterator[tuple[slice, range]]:
        """Yield all queries, as sequences and positions: so few at once that their weights stay small."""
        sequences, tokens, heads, _ = self.q_BNHd.shape
        window = self.pattern.window_tokens or tokens
        rows = max(1, _BLOCK_ENTRIES // (heads * min(2 * window, tokens)))
        length = min(rows, window, tokens)
        together = max(1, rows // tokens)
        for first in range(0, sequences, together):
            for start in range(0, tokens, length):
                yield slice(first, first + together), range(start, min(start + length, tokens))


@contextmanager
def recorded(decoder: nn.Module) -> Iterator[list[AttentionCall]]:
    """Record what every attention of a decoder is asked, in the order in which they run."""
    calls: list[AttentionCall] = []

    def record(_: nn.Module, asked: tuple[Tensor, Tensor, Tensor, AttentionPattern]) -> None:
        q_BNHd, k_BNHd, _v_BNHd, pattern = asked
        along_time: Literal["joint", "time"] = "joint" if len(q_BNHd) == 1 else "time"
        calls.append(AttentionCall(along_time if pattern.causal else "across", q_BNHd, k_BNHd, pattern))

    attentions = [module for module in decoder.modules() if isinstance(module, Attend)]
    hooks = [attention.register_forward_pre_hook(record) for attention in attentions]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def named(calls: Sequence[AttentionCall]) -> dict[str, AttentionCall]:
    """Return the calls of a pass by their layer, counted from 1: `layer 1`, or `layer 1 time` and `layer 1 across`."""
    names: dict[str, AttentionCall] = {}
    for place, call in enumerate(calls):
        layer = 1 + sum(earlier.mixing == call.mixing for earlier in calls[:place])
        names[f"layer {layer}" if call.mixing == "joint" else f"layer {layer} {call.mixing}"] = call
    return names


def last_step(call: AttentionCall, entities: int) -> Tensor:
    """Return the weights of the last step's queries, as in `AttentionMap.weights`."""
    sequences, tokens = call.q_BNHd.shape[:2]
    match call.mixing:
        case "joint":
            weights_BHQN, _ = call.weights(slice(None), range(tokens - entities, tokens))
            return weights_BHQN[0].view(*weights_BHQN.shape[1:3], -1, entities)
        case "time":
            weights_BHQN, _ = call.weights(slice(None), range(tokens - 1, tokens))
            return weights_BHQN.permute(1, 0, 3, 2)
        case "across":
            weights_BHQN, _ = call.weights(slice(sequences - 1, sequences), range(tokens))
            return weights_BHQN[0][:, :, None]


def rollout(calls: Sequence[AttentionCall], steps: int, entities: int) -> Tensor:
    """Return how attention flows from the inputs to the last step (E asking, T, E seen); each row (T, E) sums to one.

    Attention rollout of Abnar & Zuidema (2020), "Quantifying Attention Flow in Transformers", section 3: the product of
    ½A + ½I over the layers, A the mean of the heads' weights, ½I the residual connection. Only the asking rows are
    carried, from the top layer down, and each layer's weights are computed in blocks of queries: nothing is as large as
    A, and a window costs what its keys cost.
    """
    flow_QTE = torch.zeros(entities, steps, entities, device=calls[0].q_BNHd.device)
    flow_QTE[:, -1] = torch.eye(entities)
    for call in reversed(calls):
        along_time = call.mixing == "time"
        flow_QBN = (flow_QTE.transpose(1, 2) if along_time else flow_QTE).reshape(entities, *call.q_BNHd.shape[:2])
        below_QBN = flow_QBN / 2
        for sequences, positions in call.blocks():
            part_QBN = flow_QBN[:, sequences, positions.start : positions.stop]
            if part_QBN.any():
                weights_BHNN, keys = call.weights(sequences, positions)
                below_QBN[:, sequences, keys] += torch.einsum("qbn,bnk->qbk", part_QBN, weights_BHNN.mean(1)) / 2
        flow_QTE = below_QBN.transpose(1, 2) if along_time else below_QBN.reshape(entities, steps, entities)
    return flow_QTE


def _prices(table: pd.DataFrame, times_ms: NDArray[np.int64]) -> Floats:
    """Return the price at each time: of several rows at one time the last; NaN where there is none."""
    rows = np.searchsorted(table["timestamp"], times_ms, side="right") - 1
    found = table.iloc[np.maximum(rows, 0)]
    prices = found["close"].to_numpy() if "close" in table else quotes(found).mid
    return np.where(found["timestamp"].to_numpy() == times_ms, prices, np.nan)
