"""The decoder of the transformers library means what our own means: it is held against it, weight by weight."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from transformers import AttentionInterface, MistralModel

from flashtrader.attention import AttentionPattern, attend
from flashtrader.config import DataConfig, Experiment, ModelConfig, load_config
from flashtrader.errors import BackendError, ConfigError
from flashtrader.models.decoder import Decoder
from flashtrader.models.model import build_decoder
from flashtrader.models.precision import autocast
from flashtrader.training.budget import estimate, rehearse, untrained_model

SMOKE = Path(__file__).parents[2] / "configs" / "smoke" / "hf.yaml"


def decoder(entities: int = 1, **changes: Any) -> Decoder:
    settings = {"backbone": "hf", "width": 16, "heads": 2, "layers": 2, "context_bars": 5} | changes
    torch.manual_seed(0)
    built = build_decoder(Experiment(data=DataConfig(symbols=("A",)), model=ModelConfig(**settings)), entities).eval()
    for weight in built.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.3)  # as drawn at first, attention is nearly an average
    return built


def tokens(entities: int = 1, steps: int = 37) -> Tensor:
    return torch.randn(2, steps, entities, 16, generator=torch.Generator().manual_seed(1))


def with_weights_of(hf: Decoder, entities: int, **changes: Any) -> Decoder:
    """Return our own decoder with the very weights of a Mistral: q, k, v are one matrix there, gate and value too."""
    ours = decoder(entities, backbone="grid", **changes)
    theirs = {name.removeprefix("model."): weight for name, weight in hf.state_dict().items()}
    weights = {"entity": theirs["entity"], "norm.weight": theirs["norm.weight"]}
    for layer in range(ours.shape.layers):
        here, there = f"blocks.{layer}", f"layers.{layer}"
        qkv = [theirs[f"{there}.self_attn.{part}_proj.weight"] for part in "qkv"]
        gate_and_value = [theirs[f"{there}.mlp.{part}_proj.weight"] for part in ("gate", "up")]
        weights |= {
            f"{here}.attention_norm.weight": theirs[f"{there}.input_layernorm.weight"],
            f"{here}.attention.qkv.weight": torch.cat(qkv),
            f"{here}.attention.out.weight": theirs[f"{there}.self_attn.o_proj.weight"],
            f"{here}.feedforward_norm.weight": theirs[f"{there}.post_attention_layernorm.weight"],
            f"{here}.feedforward.gate_and_value.weight": torch.cat(gate_and_value),
            f"{here}.feedforward.out.weight": theirs[f"{there}.mlp.down_proj.weight"],
        }
    ours.load_state_dict(weights)
    return ours


@pytest.mark.parametrize("entities", [1, 3])
@pytest.mark.parametrize("context_bars", [1, 2, 5, 50])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_same_weights_give_the_same_numbers_as_our_own_decoder(
    implementation: str, context_bars: int, entities: int
) -> None:
    hf = decoder(entities, context_bars=context_bars, attn_implementation=implementation)
    ours = with_weights_of(hf, entities, context_bars=context_bars)
    assert ours.receptive_bars == hf.receptive_bars
    torch.testing.assert_close(hf(tokens(entities)), ours(tokens(entities)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_query_sees_its_window_to_the_bar(implementation: str) -> None:
    """One layer: bar 20 depends on bars 16 … 20 under a window of five, and on no other, by its gradient."""
    model = decoder(layers=1, attn_implementation=implementation)
    leaf = tokens().requires_grad_()
    model(leaf)[0, 20].square().sum().backward()
    assert leaf.grad is not None
    seen = leaf.grad[0].abs().sum(dim=(1, 2)).nonzero()[:, 0]
    assert seen.tolist() == [16, 17, 18, 19, 20]


@pytest.mark.parametrize("entities", [1, 3])
@pytest.mark.parametrize("context_bars", [1, 2, 5, 50])
def test_reading_in_chunks_equals_reading_at_once_with_a_memory_of_a_window(entities: int, context_bars: int) -> None:
    model = decoder(entities, context_bars=context_bars)
    whole = model(tokens(entities))
    for sizes in ([1] * 37, [4, 1, 11, 21], [30, 7]):
        past = model.new_cache()
        chunks = [model(chunk, past) for chunk in tokens(entities).split(sizes, dim=1)]
        torch.testing.assert_close(torch.cat(chunks, dim=1), whole, rtol=0, atol=1e-5)
        kept = [keys.shape[1] for keys, _ in filter(None, past._kept)]
        assert kept == [min(37, context_bars - 1) * entities] * 2


def test_a_million_bars_later_the_same_bars_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """With transformers' own positions, in float32, they would not."""
    model = decoder()
    early, times = model(tokens()), model.times
    monkeypatch.setattr(model, "times", lambda *arguments: times(*arguments) + 1_000_000)
    torch.testing.assert_close(model(tokens()), early, rtol=0, atol=1e-5)


def test_later_bars_change_no_bit_of_earlier_outputs() -> None:
    model, changed = decoder(entities=2), tokens(2)
    changed[:, 23:] *= -100
    before, after = model(tokens(2)), model(changed)
    assert torch.equal(before[:, :23], after[:, :23])
    assert not torch.equal(before[:, 23:], after[:, 23:])


def test_the_weights_come_from_the_seed_and_are_as_many_as_our_own() -> None:
    first, second = (untrained_model(load_config(SMOKE, [])).state_dict() for _ in range(2))
    ours = untrained_model(load_config(SMOKE, ["model.backbone=grid"])).state_dict()
    assert all(torch.equal(first[name], weight) for name, weight in second.items())
    assert sum(weight.numel() for weight in first.values()) == sum(weight.numel() for weight in ours.values())


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns(implementation: str, precision: str) -> None:
    changes = (f"model.attn_implementation={implementation}", f"training.precision={precision}")
    step = rehearse(load_config(SMOKE, ["training.device=cpu", "training.learning_rate=1e-2", *changes]))

    def loss() -> float:
        with torch.no_grad():
            outputs = step.model(step.values, step.mask)
            return float(step.objective(outputs, step.model.standardise(step.targets)))

    before = loss()
    for _ in range(8):
        step()
    assert loss() < 0.97 * before


def test_flash_attention_is_given_the_window_and_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in where transformers calls the flash-attn library, which takes a window but no mask."""

    def flash(
        _: Any, q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor, mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        assert mask is None
        assert not kwargs["dropout"]
        pattern = AttentionPattern(window_steps=kwargs["sliding_window"])
        return attend(*(x.transpose(1, 2) for x in (q_BHND, k_BHND, v_BHND)), pattern), None

    whole = decoder()(tokens())
    monkeypatch.setattr("flashtrader.models.hf.unsupported", lambda *_: None)
    monkeypatch.setattr(MistralModel, "_check_and_adjust_attn_implementation", lambda *_, **__: "flash_attention_2")
    monkeypatch.setitem(AttentionInterface._global_mapping, "flash_attention_2", flash)
    model = decoder(attn_implementation="flash_attention_2")
    past = model.new_cache()
    torch.testing.assert_close(model(tokens()), whole, rtol=0, atol=1e-5)
    chunks = [model(chunk, past) for chunk in tokens().split([9, 1, 27], dim=1)]
    torch.testing.assert_close(torch.cat(chunks, dim=1), whole, rtol=0, atol=1e-5)


@pytest.mark.gpu
def test_on_a_gpu_flash_attention_gives_what_sdpa_gives() -> None:
    def outputs(implementation: str) -> Tensor:
        changes = (f"model.attn_implementation={implementation}", "training.precision=bf16", "training.device=cuda")
        step = rehearse(load_config(SMOKE, changes))
        torch.nn.init.ones_(step.model.head.weight)
        with torch.no_grad(), autocast(step.training, step.values.device):
            return step.model.eval()(step.values, step.mask).float()

    try:
        flash = outputs("flash_attention_2")
    except BackendError as error:
        pytest.skip(str(error))
    torch.testing.assert_close(flash, outputs("sdpa"), rtol=0.05, atol=0.1)


def test_flash_attention_without_a_gpu_is_refused_with_the_reason() -> None:
    with pytest.raises(BackendError) as refused:
        build_decoder(load_config(SMOKE, ["model.attn_implementation=flash_attention_2", "training.device=cpu"]), 1)
    assert str(refused.value) == (
        "model.attn_implementation: flash_attention_2 can't run here (needs a CUDA device, and the tensors are on "
        "cpu); take sdpa or eager"
    )


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "flashtrader.models.hf")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError) as refused:
        decoder()
    assert str(refused.value) == (
        "model.backbone: hf needs transformers; pip install 'flashtrader[hf]', or set it to grid"
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.dropout=0.1"], "backbone hf takes dropout: 0.0 and nothing else"),
        (["model.attention=sdpa"], "backbone hf takes attention: auto and nothing else"),
        (["model.mixing=factorised"], "backbone hf takes mixing: joint and nothing else"),
        (
            ["model.backbone=grid", "model.attn_implementation=eager"],
            "attn_implementation: only for backbone hf; backbone grid takes model.attention",
        ),
    ],
)
def test_what_it_can_not_do_is_not_ignored(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(SMOKE, overrides)
    assert str(refused.value) == f"{SMOKE}: model: {message}"


@pytest.mark.parametrize("family", ["returns", "candles", "portfolio", "orderbook"])
def test_every_family_trains_on_it(family: str) -> None:
    changes = ["model.backbone=hf", "model.dropout=0", "model.mixing=joint", "training.device=cpu"]
    step = rehearse(load_config(SMOKE.with_name(f"{family}.yaml"), changes))
    before = [weight.clone() for weight in step.model.decoder.parameters()]
    step()
    step()
    assert all(not torch.equal(*pair) for pair in zip(before, step.model.decoder.parameters(), strict=True))


def test_a_dry_run_names_the_attention_and_gives_no_memory() -> None:
    budget = estimate(load_config(SMOKE, []))
    assert budget.attention == "transformers sdpa"
    assert budget.peak_bytes is None
    assert budget.step_seconds > 0
