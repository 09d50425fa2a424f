"""Which query sees which key: the mask against the definition, and everything derived from it against the mask."""

import itertools

import pytest
import torch

from flashtrader.attention import AttentionPattern, attend
from flashtrader.errors import BackendError, ConfigError

PATTERNS = [
    AttentionPattern(causal=False),
    *(AttentionPattern(True, window, entities) for window in (None, 1, 2, 3, 50) for entities in (1, 2, 3)),
]
LENGTHS = [(6, 6), (6, 12), (12, 18), (18, 18)]
CPU = torch.device("cpu")


def definition(pattern: AttentionPattern, num_queries: int, num_keys: int) -> torch.Tensor:
    rows = []
    for i, j in itertools.product(range(num_queries), range(num_keys)):
        query_step = (i + num_keys - num_queries) // pattern.entities_per_step
        key_step = j // pattern.entities_per_step
        window = pattern.window_steps or num_keys
        rows.append(not pattern.causal or query_step - window < key_step <= query_step)
    return torch.tensor(rows).view(num_queries, num_keys)


def mask_of(pattern: AttentionPattern, num_queries: int, num_keys: int) -> torch.Tensor:
    return pattern.mask(range(num_keys - num_queries, num_keys), range(num_keys), CPU)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize(("num_queries", "num_keys"), LENGTHS)
class TestEveryPattern:
    def test_mask_is_the_definition(self, pattern: AttentionPattern, num_queries: int, num_keys: int) -> None:
        assert torch.equal(mask_of(pattern, num_queries, num_keys), definition(pattern, num_queries, num_keys))

    def test_pairs_are_counted(self, pattern: AttentionPattern, num_queries: int, num_keys: int) -> None:
        assert pattern.num_pairs(num_queries, num_keys) == mask_of(pattern, num_queries, num_keys).sum()

    def test_reduced_pattern_means_the_same(self, pattern: AttentionPattern, num_queries: int, num_keys: int) -> None:
        reduced, first_key = pattern.reduced(num_queries, num_keys)
        mask = mask_of(pattern, num_queries, num_keys)
        assert not mask[:, :first_key].any()
        assert torch.equal(mask_of(reduced, num_queries, num_keys - first_key), mask[:, first_key:])

    def test_ranges_of_keys(self, pattern: AttentionPattern, num_queries: int, num_keys: int) -> None:
        mask = mask_of(pattern, num_queries, num_keys)
        cached = num_keys - num_queries
        for start, stop in itertools.combinations(range(num_queries + 1), 2):
            by_any = range(*pattern.seen_by_any(cached + start, cached + stop, num_keys))
            by_all = range(*pattern.seen_by_all(cached + start, cached + stop, num_keys))
            assert mask[start:stop].any(0).nonzero().flatten().tolist() == list(by_any)
            assert mask[start:stop].all(0).nonzero().flatten().tolist() == list(by_all)


def test_a_window_of_every_key_is_none() -> None:
    assert AttentionPattern(window_steps=8).reduced(8, 8) == (AttentionPattern(), 0)
    assert AttentionPattern(window_steps=7).reduced(8, 8) == (AttentionPattern(window_steps=7), 0)


def test_one_step_sees_its_window_whole() -> None:
    assert AttentionPattern(window_steps=3, entities_per_step=2).reduced(2, 20) == (
        AttentionPattern(causal=False, entities_per_step=2),
        14,
    )


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ({"window_steps": 0}, "window_steps is 0; it must be at least 1, or null for no window"),
        ({"entities_per_step": 0}, "entities_per_step is 0; it must be at least 1"),
        (
            {"causal": False, "window_steps": 4},
            "a window needs causal attention; drop window_steps, or set causal",
        ),
    ],
)
def test_impossible_patterns(pattern: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        AttentionPattern(**pattern)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("q", "k", "v", "message"),
    [
        ((1, 4, 2), (1, 4, 2), (1, 4, 2), "attention takes tensors of shape (batch, tokens, heads, head_dim)"),
        (
            (1, 4, 2, 8),
            (1, 4, 1, 8),
            (1, 4, 1, 8),
            "q, k, v of shapes (1, 4, 2, 8), (1, 4, 1, 8), (1, 4, 1, 8): all but the number of tokens must agree, "
            "heads included",
        ),
        (
            (1, 4, 2, 8),
            (1, 4, 2, 8),
            (1, 4, 2, 4),
            "q, k, v of shapes (1, 4, 2, 8), (1, 4, 2, 8), (1, 4, 2, 4): all but the number of tokens must agree, "
            "heads included",
        ),
        ((1, 6, 2, 8), (1, 4, 2, 8), (1, 4, 2, 8), "6 queries for 4 keys: the queries are the last of the keys"),
        ((1, 0, 2, 8), (1, 4, 2, 8), (1, 4, 2, 8), "0 queries for 4 keys: the queries are the last of the keys"),
        ((1, 3, 2, 8), (1, 4, 2, 8), (1, 4, 2, 8), "3 queries and 4 keys are not whole steps of 2 entities"),
    ],
)
def test_shapes_that_do_not_fit(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], message: str) -> None:
    with pytest.raises(BackendError) as refused:
        attend(torch.ones(q), torch.ones(k), torch.ones(v), AttentionPattern(entities_per_step=2))
    assert str(refused.value) == message


def test_dtypes_that_do_not_agree() -> None:
    single = torch.ones(1, 4, 2, 8)
    with pytest.raises(BackendError) as refused:
        attend(single, single.double(), single.double(), AttentionPattern())
    assert str(refused.value) == "q, k, v of float32, float64, float64: attention takes one floating dtype"
