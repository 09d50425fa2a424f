from typing import Any

import pytest
import torch

from flashtrader.models.blocks import rotate, rotation
from flashtrader.models.grid import GridShape, GridTransformer


def decoder(**changes: Any) -> GridTransformer:
    shape = {"entities": 1, "width": 16, "layers": 2, "heads": 2, "context_bars": 5, "dropout": 0.0, "backend": "auto"}
    torch.manual_seed(0)
    return GridTransformer(GridShape(**(shape | changes))).double().eval()


@pytest.mark.parametrize("entities", [1, 3])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("context_bars", [1, 2, 5, 50])
def test_reading_in_chunks_equals_reading_at_once(entities: int, layers: int, context_bars: int) -> None:
    model = decoder(entities=entities, layers=layers, context_bars=context_bars)
    tokens = torch.randn(2, 37, entities, 16, dtype=torch.float64)
    whole = model(tokens)
    for sizes in ([37], [1] * 37, [4, 1, 11, 21], [30, 7]):
        past = model.new_cache()
        chunks = [model(chunk, past) for chunk in tokens.split(sizes, dim=1)]
        torch.testing.assert_close(torch.cat(chunks, dim=1), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("entities", [1, 2])
@pytest.mark.parametrize(("layers", "context_bars"), [(1, 7), (2, 5), (3, 3)])
def test_an_output_does_not_depend_on_where_the_pass_began(entities: int, layers: int, context_bars: int) -> None:
    model = decoder(entities=entities, layers=layers, context_bars=context_bars)
    tokens = torch.randn(1, 60, entities, 16, dtype=torch.float64)
    reach = model.receptive_bars
    assert reach == layers * (context_bars - 1)
    whole = model(tokens)
    later = model(tokens[:, 20:])
    torch.testing.assert_close(later[:, reach:], whole[:, 20 + reach :], rtol=0, atol=1e-12)
    assert not torch.allclose(later[:, reach - 1], whole[:, 20 + reach - 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("entities", [1, 2])
def test_later_bars_change_no_bit_of_earlier_outputs(entities: int) -> None:
    model = decoder(entities=entities).float()
    tokens = torch.randn(1, 40, entities, 16)
    changed = tokens.clone()
    changed[:, 23:] = torch.randn_like(changed[:, 23:]) * 100
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :23], after[:, :23])
    assert not torch.equal(before[:, 23:], after[:, 23:])


def test_an_entity_sees_the_others_of_its_own_step() -> None:
    model = decoder(entities=2)
    torch.nn.init.normal_(model.entity)
    tokens = torch.randn(1, 6, 2, 16, dtype=torch.float64)
    changed = tokens.clone()
    changed[:, 4, 1] += 1
    assert not torch.equal(model(tokens)[:, 4, 0], model(changed)[:, 4, 0])
    swapped = model(tokens.flip(2)).flip(2)
    assert not torch.allclose(swapped, model(tokens))


def test_only_differences_of_positions_matter() -> None:
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def score(q_position: int, k_position: int) -> torch.Tensor:
        turned = [rotate(x, *rotation(torch.tensor([at]), 8, x.dtype)) for x, at in ((q, q_position), (k, k_position))]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(score(7, 3), score(10_000_007, 10_000_003), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(score(7, 3), score(7, 4))
