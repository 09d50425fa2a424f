from typing import Any

import pytest
import torch

from flashtrader.models.blocks import rotate, rotation
from flashtrader.models.grid import GridShape, GridTransformer


def decoder(**changes: Any) -> GridTransformer:
    shape = {"entities": 1, "width": 16, "layers": 2, "heads": 2, "context_bars": 5, "dropout": 0.0, "backend": "auto"}
    torch.manual_seed(0)
    return GridTransformer(GridShape(**(shape | changes))).double().eval()


GRIDS = [(1, "joint"), (3, "joint"), (3, "factorised")]


@pytest.mark.parametrize(("entities", "mixing"), GRIDS)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("context_bars", [1, 2, 5, 50])
def test_reading_in_chunks_equals_reading_at_once(entities: int, mixing: str, layers: int, context_bars: int) -> None:
    model = decoder(entities=entities, mixing=mixing, layers=layers, context_bars=context_bars)
    tokens = torch.randn(2, 37, entities, 16, dtype=torch.float64)
    whole = model(tokens)
    for sizes in ([37], [1] * 37, [4, 1, 11, 21], [30, 7]):
        past = model.new_cache()
        chunks = [model(chunk, past) for chunk in tokens.split(sizes, dim=1)]
        torch.testing.assert_close(torch.cat(chunks, dim=1), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("entities", "mixing"), GRIDS)
@pytest.mark.parametrize(("layers", "context_bars"), [(1, 7), (2, 5), (3, 3)])
def test_an_output_does_not_depend_on_where_the_pass_began(
    entities: int, mixing: str, layers: int, context_bars: int
) -> None:
    model = decoder(entities=entities, mixing=mixing, layers=layers, context_bars=context_bars)
    tokens = torch.randn(1, 60, entities, 16, dtype=torch.float64)
    reach = model.receptive_bars
    assert reach == layers * (context_bars - 1)
    whole = model(tokens)
    later = model(tokens[:, 20:])
    torch.testing.assert_close(later[:, reach:], whole[:, 20 + reach :], rtol=0, atol=1e-12)
    assert not torch.allclose(later[:, reach - 1], whole[:, 20 + reach - 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("entities", "mixing"), GRIDS)
def test_a_change_of_any_entity_changes_no_bit_of_earlier_outputs_and_every_entity_from_there_on(
    entities: int, mixing: str
) -> None:
    model = decoder(entities=entities, mixing=mixing)
    torch.nn.init.normal_(model.entity)
    tokens = torch.randn(1, 40, entities, 16, dtype=torch.float64)
    before = model(tokens)
    for entity in range(entities):
        changed = tokens.clone()
        changed[:, 23, entity] += torch.randn(16, dtype=torch.float64)
        after = model(changed)
        assert torch.equal(before[:, :23], after[:, :23])
        moved_TE = (before != after).any(dim=-1)[0]
        assert moved_TE[23 : 23 + model.receptive_bars + 1].all()
        assert not moved_TE[23 + model.receptive_bars + 1 :].any()


@pytest.mark.parametrize("mixing", ["joint", "factorised"])
def test_a_permutation_of_the_entities_permutes_the_outputs(mixing: str) -> None:
    model = decoder(entities=4, mixing=mixing)
    torch.nn.init.normal_(model.entity)
    tokens, order = torch.randn(2, 12, 4, 16, dtype=torch.float64), torch.tensor([2, 0, 3, 1])
    outputs = model(tokens)
    assert not torch.allclose(model(tokens[:, :, order]), outputs[:, :, order])
    model.entity.data = model.entity.data[order]
    torch.testing.assert_close(model(tokens[:, :, order]), outputs[:, :, order], rtol=0, atol=1e-12)


def test_one_entity_has_none_to_mix_with() -> None:
    joint, factorised = (decoder(mixing=mixing) for mixing in ("joint", "factorised"))
    assert joint.state_dict().keys() == factorised.state_dict().keys()


def test_only_differences_of_positions_matter() -> None:
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def score(q_position: int, k_position: int) -> torch.Tensor:
        turned = [rotate(x, *rotation(torch.tensor([at]), 8, x.dtype)) for x, at in ((q, q_position), (k, k_position))]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(score(7, 3), score(10_000_007, 10_000_003), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(score(7, 3), score(7, 4))
