"""GridTransformer: one causal decoder over tokens on a time × entity grid, the same for every family."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flashtrader.attention import AttentionPattern
from flashtrader.models.blocks import Block, rotation
from flashtrader.models.cache import KeyValueCache


@dataclass(frozen=True)
class GridShape:
    """Size of the decoder."""

    entities: int
    width: int
    layers: int
    heads: int
    context_bars: int
    dropout: float
    backend: str


class GridTransformer(nn.Module):
    """Decoder over tokens (B, T, E, D); each sees all entities of its own and the `context_bars − 1` steps before.

    Rotary positions stand on the time index, so only differences in time matter; every entity has a learned embedding.
    """

    def __init__(self, shape: GridShape) -> None:
        super().__init__()
        self.shape = shape
        self.entity = nn.Parameter(torch.zeros(shape.entities, shape.width))
        self.blocks = nn.ModuleList(
            Block(shape.width, shape.heads, shape.dropout, shape.backend) for _ in range(shape.layers)
        )
        self.norm = nn.RMSNorm(shape.width, eps=1e-6)
        self._initialise()

    @property
    def pattern(self) -> AttentionPattern:
        """Who sees whom."""
        return AttentionPattern(
            causal=True, window_steps=self.shape.context_bars, entities_per_step=self.shape.entities
        )

    @property
    def receptive_bars(self) -> int:
        """Earlier bars that can influence an output: each layer reaches a window further back."""
        return self.shape.layers * (self.shape.context_bars - 1)

    def new_cache(self) -> KeyValueCache:
        """Return an empty cache: the next chunk begins a history."""
        return KeyValueCache(self.shape.layers, (self.shape.context_bars - 1) * self.shape.entities)

    def forward(self, tokens_BTED: Tensor, past: KeyValueCache | None = None) -> Tensor:
        """Return hidden states (B, T, E, D). With a cache, the chunk continues the history that the cache has read."""
        steps, entities = tokens_BTED.shape[1:3]
        first = past.position if past is not None else 0
        times_N = torch.arange(first, first + steps, device=tokens_BTED.device).repeat_interleave(entities)
        turn = rotation(times_N, self.shape.width // self.shape.heads, tokens_BTED.dtype)
        x_BND = (tokens_BTED + self.entity).flatten(1, 2)
        for layer, block in enumerate(self.blocks):
            x_BND = block(x_BND, turn, self.pattern, layer, past)
        if past is not None:
            past.advance(steps)
        return self.norm(x_BND).unflatten(1, (steps, entities))  # type: ignore[no-any-return]

    def _initialise(self) -> None:
        """Draw weights with standard deviation 0.02, smaller where a branch joins the residual (GPT-2's scheme)."""
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                residual = name.endswith("out.weight")
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * self.shape.layers) if residual else 0.02)
