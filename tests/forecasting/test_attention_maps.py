"""The weights that are shown are those that the model used, and only the wanted rows are ever computed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from experiments import BOOKKEEPING, manifest_of
from flashtrader.attention import AttentionPattern, naive
from flashtrader.config import DataConfig, Experiment, ModelConfig, TrainingConfig
from flashtrader.errors import ConfigError
from flashtrader.forecasting import attention_maps
from flashtrader.forecasting.attention_maps import (
    AttentionCall,
    chosen_rows,
    last_step,
    look,
    map_row,
    named,
    recorded,
    rollout,
    write_map,
)
from flashtrader.models.blocks import Attend
from flashtrader.models.decoder import GridShape
from flashtrader.models.families import build_model
from flashtrader.models.grid import GridTransformer
from flashtrader.models.model import GridModel, unit_scaler
from flashtrader.models.stream import forecast_rows
from flashtrader.models.weights import load_tensors
from flashtrader.panel.loading import PanelShape
from flashtrader.panel.panel import Panel
from flashtrader.panel.splits import Rows
from flashtrader.run import Run
from panels import HOUR_MS, random_panel

STEPS, WIDTH, HEADS, LAYERS = 19, 16, 2, 3
GRIDS = pytest.mark.parametrize(
    ("entities", "mixing"), [(1, "joint"), (3, "joint"), (3, "factorised")], ids=["one", "joint", "factorised"]
)
CONTEXTS = pytest.mark.parametrize("context_bars", [1, 5, 100])


def decoder(entities: int, mixing: Any, context_bars: int, backend: str = "auto") -> GridTransformer:
    torch.manual_seed(0)
    shape = GridShape(
        entities=entities,
        width=WIDTH,
        layers=LAYERS,
        heads=HEADS,
        context_bars=context_bars,
        dropout=0.0,
        backend=backend,
        mixing=mixing,
    )
    built = GridTransformer(shape).eval()
    for parameter in built.parameters():
        if parameter.ndim == 2:  # weights of this size make attention uneven
            torch.nn.init.normal_(parameter, std=0.5)
    return built


@torch.inference_mode()
def read(model: GridTransformer) -> list[AttentionCall]:
    with recorded(model) as calls:
        model(torch.randn(1, STEPS, model.shape.entities, WIDTH))
    return calls


def whole(call: AttentionCall, entities: int) -> Tensor:
    """Return the weights (H, T, E, T, E) of every query of the grid over all of it, from whole matrices."""
    _, weights_BHNN = naive.attend_with_weights(call.q_BNHd, call.k_BNHd, call.k_BNHd, call.pattern)
    grid = torch.zeros(HEADS, STEPS, entities, STEPS, entities)
    match call.mixing:
        case "joint":
            grid[:] = weights_BHNN[0].view(HEADS, STEPS, entities, STEPS, entities)
        case "time":
            for entity in range(entities):
                grid[:, :, entity, :, entity] = weights_BHNN[entity]
        case "across":
            for step in range(STEPS):
                grid[:, step, :, step] = weights_BHNN[step]
    return grid


@GRIDS
@CONTEXTS
def test_the_rows_are_those_of_the_whole_matrix(entities: int, mixing: str, context_bars: int) -> None:
    calls = read(decoder(entities, mixing, context_bars))
    assert list(named(calls)) == (
        ["layer 1", "layer 2", "layer 3"]
        if mixing == "joint"
        else [f"layer {layer} {kind}" for layer in (1, 2, 3) for kind in ("time", "across")]
    )
    for call in calls:
        rows_HEKE = last_step(call, entities)
        expected_HETE = whole(call, entities)[:, -1]
        seen = 1 if call.mixing == "across" else min(context_bars, STEPS)
        own = torch.arange(entities)
        if call.mixing == "time":
            expected_HETE = expected_HETE[:, own, :, own].transpose(0, 1)[..., None]
        assert rows_HEKE.shape == (HEADS, entities, seen, 1 if call.mixing == "time" else entities)
        torch.testing.assert_close(rows_HEKE, expected_HETE[:, :, -seen:], rtol=0, atol=1e-6)
        assert (expected_HETE[:, :, :-seen] == 0).all()
        torch.testing.assert_close(rows_HEKE.sum(dim=(2, 3)), torch.ones(HEADS, entities))


@GRIDS
@CONTEXTS
def test_what_is_recorded_is_what_the_model_used(entities: int, mixing: str, context_bars: int) -> None:
    """Of every attention, the recorded weights times its values are what its own backend gave."""
    model = decoder(entities, mixing, context_bars)
    used: list[tuple[Tensor, Tensor]] = []
    for module in model.modules():
        if isinstance(module, Attend):
            module.register_forward_hook(lambda _, asked, answer: used.append((asked[2], answer)))
    calls = read(model)
    assert len(calls) == len(used) == LAYERS * (2 if mixing == "factorised" else 1)
    for call, (v_BNHd, answer_BNHd) in zip(calls, used, strict=True):
        for sequences, positions in call.blocks():
            weights_BHNN, keys = call.weights(sequences, positions)
            attended = torch.einsum("bhnk,bkhd->bnhd", weights_BHNN, v_BNHd[sequences, keys])
            rows = slice(positions.start, positions.stop)
            torch.testing.assert_close(attended, answer_BNHd[sequences, rows], rtol=1e-4, atol=1e-5)


@GRIDS
@CONTEXTS
@pytest.mark.parametrize("block_entries", [1, 50, 2**24])
def test_rollout_is_the_product_of_whole_matrices(
    entities: int, mixing: str, context_bars: int, block_entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_maps, "_BLOCK_ENTRIES", block_entries)
    calls = read(decoder(entities, mixing, context_bars))
    tokens = STEPS * entities
    flow = torch.eye(tokens)
    for call in calls:
        attended = whole(call, entities).mean(0).view(tokens, tokens)
        flow = (attended + torch.eye(tokens)) / 2 @ flow
    expected = flow.view(STEPS, entities, STEPS, entities)[-1]
    found = rollout(calls, STEPS, entities)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.sum(dim=(1, 2)), torch.ones(entities))


@pytest.mark.parametrize("block_entries", [1, 40, 1_000, 2**24])
@pytest.mark.parametrize(("sequences", "tokens", "entities"), [(1, 30, 1), (1, 30, 3), (7, 10, 1)])
@pytest.mark.parametrize("window", [None, 4])
def test_blocks_hold_every_query_once(
    block_entries: int, sequences: int, tokens: int, entities: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_maps, "_BLOCK_ENTRIES", block_entries)
    q = torch.zeros(sequences, tokens, HEADS, 2)
    pattern = AttentionPattern(window_steps=window, entities_per_step=entities)
    call = AttentionCall("time", q, q, pattern)
    times = np.zeros((sequences, tokens), dtype=int)
    for chosen, positions in call.blocks():
        times[chosen, positions.start : positions.stop] += 1
        weights, _ = call.weights(chosen, positions)
        assert weights.numel() <= max(block_entries, HEADS * tokens)
    assert (times == 1).all()


class _Largest(TorchDispatchMode):
    """Records the entries of the largest tensor that any kernel returns."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **kwargs or {})
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.entries = max(self.entries, tensor.untyped_storage().size() // tensor.element_size())
        return out


@contextmanager
def largest_tensor() -> Iterator[_Largest]:
    with _Largest() as recorder:
        yield recorder


@torch.inference_mode()
def test_a_long_history_takes_memory_in_proportion_to_it() -> None:
    steps, window, width = 20_000, 64, 8
    q, k = (torch.randn(1, steps, HEADS, width) for _ in range(2))
    windowed = AttentionCall("joint", q, k, AttentionPattern(window_steps=window))
    with largest_tensor() as largest:
        flow = rollout([windowed, windowed], steps, entities=1)
    assert largest.entries <= steps * HEADS * width
    assert not flow[0, : -2 * window + 1].any()
    everything = AttentionCall("joint", q, k, AttentionPattern())
    with largest_tensor() as largest:
        assert last_step(everything, entities=1).shape == (HEADS, 1, steps, 1)
    assert largest.entries <= steps * HEADS * width


TRAINING = TrainingConfig(segment_bars=32, warmup_bars=6)
FAMILIES = pytest.mark.parametrize("family", ["returns", "portfolio"])


def experiment(family: Any) -> Experiment:
    return Experiment(
        data=DataConfig(symbols=("S0", "S1")),
        model=ModelConfig(family=family, context_bars=6, width=16, layers=2, heads=2),
        training=TRAINING,
    )


def built(family: str) -> GridModel:
    model = build_model(experiment(family), unit_scaler(PanelShape(entities=2, features=3, targets=2)))
    torch.nn.init.normal_(model.head.weight)
    return model.eval()


def tables(panel: Panel) -> dict[str, pd.DataFrame]:
    """Return bars of every symbol at every second row."""
    rows = slice(None, None, 2)
    prices = np.arange(len(panel.timestamps), dtype=np.float64)
    return {
        symbol: pd.DataFrame({"timestamp": panel.timestamps[rows], "close": prices[rows]}) for symbol in panel.symbols
    }


@FAMILIES
def test_a_map_holds_the_forecast_of_its_bar_and_all_that_it_can_see(family: str, tmp_path: Path) -> None:
    model, panel = built(family), random_panel(90, breaks=(60,))
    whole_pass = forecast_rows(model, panel, Rows(0, 90), warmup_bars=6)
    for row, num_seen in ((40, 11), (59, 11), (66, 7), (89, 11)):
        found = map_row(model, TRAINING, panel, tables(panel), row)
        np.testing.assert_allclose(list(found.forecasts.values()), whole_pass[row], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(found.times_ms, panel.timestamps[row + 1 - num_seen : row + 1])
        places = np.arange(row + 1 - num_seen, row + 1)
        np.testing.assert_array_equal(found.prices["S1"], np.where(places % 2, np.nan, places))
        entities = 2 if family == "portfolio" else 1
        assert len(found.entities) == entities
        assert found.rollout.shape == (entities, num_seen, entities)
        assert {weights.shape for weights in found.weights.values()} == {(2, entities, 6, entities)}

        tensors, facts = load_tensors(write_map(tmp_path, found))
        np.testing.assert_array_equal(tensors["layer_2"].numpy(), found.weights["layer 2"])
        np.testing.assert_array_equal(tensors["times_ms"].numpy(), found.times_ms)
        assert facts["entities"] == list(found.entities)


@FAMILIES
def test_weights_of_a_pass_in_bf16_are_exact(family: str) -> None:
    model, panel = built(family), random_panel(40)
    found = map_row(model, TrainingConfig(precision="bf16"), panel, tables(panel), 39)
    for weights in (*found.weights.values(), found.rollout[None]):
        np.testing.assert_allclose(weights.sum(axis=(2, 3)), 1, atol=1e-6)


def test_the_price_of_a_book_is_its_mid() -> None:
    model, panel = built("returns"), random_panel(30)
    quoted = np.arange(30, dtype=np.float64)
    book = pd.DataFrame({"timestamp": panel.timestamps, "bid_price_1": quoted, "ask_price_1": quoted + 1})
    found = map_row(model, TRAINING, panel, dict.fromkeys(panel.symbols, book), 25)
    np.testing.assert_array_equal(found.prices["S0"], np.arange(15, 26) + 0.5)


def test_nothing_is_recorded_afterwards() -> None:
    model = decoder(1, "joint", 5)
    calls = read(model)
    model(torch.randn(1, STEPS, 1, WIDTH))
    assert len(calls) == LAYERS


def run_of(tmp_path: Path, panel: Panel) -> Run:
    run = Run(tmp_path)
    run.write_config(experiment("returns"))
    starts = {"validation_start_ms": int(panel.timestamps[30]), "test_start_ms": int(panel.timestamps[50])}
    run.write_manifest(manifest_of(run.experiment, split=BOOKKEEPING["split"] | starts))
    return run


def test_bars_are_chosen_by_time_or_spread_over_the_test(tmp_path: Path) -> None:
    panel = random_panel(90, breaks=(60,))
    panel.mask[:] = True
    run = run_of(tmp_path, panel)
    assert chosen_rows(run, panel, "latest") == [89]
    assert chosen_rows(run, panel, "1970-01-02T06:00,1970-01-02T02:00+00:00, 1970-01-02T06:00") == [26, 30]
    spread = chosen_rows(run, panel, "5")
    assert spread[0] == 50
    assert spread[-1] == 89
    assert len(spread) == 5
    assert not set(spread) & set(range(60, 66)), "the bars after an outage have no forecast"


def test_an_event_is_the_last_one_by_then(tmp_path: Path) -> None:
    panel = replace(random_panel(90), interval=None)
    panel.mask[:] = True
    assert chosen_rows(run_of(tmp_path, panel), panel, "1970-01-02T06:59:59.999") == [30]


@pytest.mark.parametrize(
    ("bars", "message"),
    [
        (
            "1970-01-02T06:30",
            "--attention 1970-01-02T06:30: no bar opens then; the nearest opens at 1970-01-02T06:00:00Z",
        ),
        (
            "1970-01-01T03:00",
            "--attention: there is no forecast at 1970-01-01T03:00:00Z, for it has 3 bars before it without an outage, "
            "and a forecast needs 6; choose another bar",
        ),
        (
            "1970-01-03T00:00",
            "--attention: there is no forecast at 1970-01-03T00:00:00Z, for features are missing there; choose another "
            "bar",
        ),
        (
            "tomorrow",
            "--attention: 'tomorrow' is not a date such as 2024-01-31 or 2024-01-31T12:00; or give `latest`, or a "
            "number of bars",
        ),
        ("900", "--attention 900: the run's test part has 40 bars with a forecast; ask for some of them"),
        ("0", "--attention 0: the run's test part has 40 bars with a forecast; ask for some of them"),
    ],
)
def test_a_bar_that_cannot_be_shown_is_named(bars: str, message: str, tmp_path: Path) -> None:
    panel = random_panel(90)
    panel.mask[:] = True
    panel.mask[48] = False
    with pytest.raises(ConfigError) as refused:
        chosen_rows(run_of(tmp_path, panel), panel, bars)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"family": "ridge"}, "a plain model (ridge) has no attention; leave --attention out"),
        (
            {"backbone": "hf"},
            "model.backbone is hf, whose attention can't be looked into here; take `output_attentions` of the "
            "transformers library, or train with model.backbone: grid",
        ),
    ],
)
def test_a_model_without_attention_of_our_own_is_refused(overrides: Any, message: str, tmp_path: Path) -> None:
    plain = Experiment(data=DataConfig(symbols=("S0",)), model=ModelConfig(**overrides))
    Run(tmp_path).write_config(plain)
    with pytest.raises(ConfigError) as refused:
        next(look(Run(tmp_path), tmp_path, "latest"))
    assert str(refused.value) == f"{tmp_path}: {message}"


def test_file_names_hold_milliseconds_where_there_are_some() -> None:
    panel = random_panel(30)
    panel.mask[:] = True
    model = built("returns")
    assert map_row(model, TRAINING, panel, tables(panel), 20).file_name == "19700101T200000Z"
    panel.timestamps[20] = 20 * HOUR_MS + 7
    found = map_row(model, TRAINING, panel, tables(panel), 20)
    assert found.file_name == "19700101T200000.007Z"
    assert found.time == "1970-01-01T20:00:00.007Z"
