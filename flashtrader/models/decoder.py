"""What every decoder over tokens on a time × entity grid answers to, whoever wrote its layers."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from flashtrader.attention import AttentionPattern, Choice
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
    mixing: Literal["joint", "factorised"] = "joint"

    @property
    def factorised(self) -> bool:
        """Whether time and entities are attended to in turn: one entity has no others to mix with."""
        return self.mixing == "factorised" and self.entities > 1


class Decoder(nn.Module, ABC):
    """Tokens (B, T, E, D) → hidden states: none sees a later step, and in each layer those `context_bars − 1` back.

    Joint mixing: each token attends to all entities of those steps. Factorised: to its own entity's, then to all
    entities of its own step, so that what it learns of another entity's past came through that entity. Rotary positions
    stand on the time index, so only differences in time matter; every entity has a learned embedding, and nothing else
    tells entities apart.
    """

    def __init__(self, shape: GridShape) -> None:
        super().__init__()
        self.shape = shape
        self.entity = nn.Parameter(torch.zeros(shape.entities, shape.width))

    @abstractmethod
    def forward(self, tokens_BTED: Tensor, past: KeyValueCache | None = None) -> Tensor:
        """Return hidden states (B, T, E, D). With a cache, the chunk continues the history that the cache has read."""

    @abstractmethod
    def choose_attention(self, q_BNHD: Tensor) -> Choice:
        """Return what computes attention among such queries, and why others are passed over."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one time step in a sequence that attention along time reads: of all entities, or of one."""
        return 1 if self.shape.factorised else self.shape.entities

    @property
    def pattern(self) -> AttentionPattern:
        """Who sees whom along time."""
        return AttentionPattern(
            causal=True, window_steps=self.shape.context_bars, entities_per_step=self.tokens_per_step
        )

    @property
    def receptive_bars(self) -> int:
        """Earlier bars that can influence an output: each layer reaches a window further back."""
        return self.shape.layers * (self.shape.context_bars - 1)

    def new_cache(self) -> KeyValueCache:
        """Return an empty cache: the next chunk begins a history."""
        return KeyValueCache(self.shape.layers, (self.shape.context_bars - 1) * self.tokens_per_step)

    def times(self, steps: int, past: KeyValueCache | None) -> Tensor:
        """Return the time index of each token (steps · tokens_per_step) in a chunk of so many steps."""
        first = past.position if past is not None else 0
        return torch.arange(first, first + steps, device=self.entity.device).repeat_interleave(self.tokens_per_step)
