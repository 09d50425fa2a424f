"""GridTransformer: one causal decoder over tokens on a time × entity grid, the same for every family."""

import math

from torch import Tensor, nn

from flashtrader.attention import Choice, choose
from flashtrader.models.blocks import Block, FactorisedBlock, rotation
from flashtrader.models.cache import KeyValueCache
from flashtrader.models.decoder import Decoder, GridShape

__all__ = ["GridShape", "GridTransformer"]


class GridTransformer(Decoder):
    """Flashtrader's own decoder."""

    def __init__(self, shape: GridShape) -> None:
        super().__init__(shape)
        block = FactorisedBlock if shape.factorised else Block
        self.blocks = nn.ModuleList(
            block(shape.width, shape.heads, shape.dropout, shape.backend) for _ in range(shape.layers)
        )
        self.norm = nn.RMSNorm(shape.width, eps=1e-6)
        self._initialise()

    def choose_attention(self, q_BNHD: Tensor) -> Choice:
        """Return the fastest backend that runs such queries, or the named one. Raises BackendError when it can't."""
        return choose(q_BNHD, q_BNHD, self.pattern, self.shape.backend)

    def forward(self, tokens_BTED: Tensor, past: KeyValueCache | None = None) -> Tensor:
        """Return hidden states (B, T, E, D). With a cache, the chunk continues the history that the cache has read."""
        steps = tokens_BTED.shape[1]
        turn = rotation(self.times(steps, past), self.shape.width // self.shape.heads, tokens_BTED.dtype)
        x_BTED = tokens_BTED + self.entity
        for layer, block in enumerate(self.blocks):
            x_BTED = block(x_BTED, turn, self.pattern, layer, past)
        if past is not None:
            past.advance(steps)
        return self.norm(x_BTED)  # type: ignore[no-any-return]

    def _initialise(self) -> None:
        """Draw weights with standard deviation 0.02, smaller where a branch joins the residual (GPT-2's scheme)."""
        matrices = {name: weight for name, weight in self.named_parameters() if weight.ndim == 2}
        joining = [name for name in matrices if name.endswith("out.weight")]
        for name, weight in matrices.items():
            nn.init.normal_(weight, std=0.02 / math.sqrt(len(joining)) if name in joining else 0.02)
