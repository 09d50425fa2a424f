"""The parts of the transformer: rotary positions, attention, SwiGLU, the blocks.

Shapes: B sequences, T time steps, E entities, N tokens, D width, H heads, d width of a head.
"""

import math

import torch
from torch import Tensor, nn

from flashtrader.attention import AttentionPattern, attend
from flashtrader.models.cache import KeyValueCache

Rotation = tuple[Tensor, Tensor]

ACROSS = AttentionPattern(causal=False)
"""Among the entities of one step: everyone sees everyone."""


def rotation(positions_N: Tensor, head_width: int, dtype: torch.dtype, base: float = 10_000.0) -> Rotation:
    """Return cosine and sine (N, 1, d/2) of rotary positions (Su et al. 2021, RoFormer, equation 34).

    Angles are computed in float64: at bar 1,000,000 a float32 angle would be off by 0.06 rad, and only differences
    of positions may matter.
    """
    exponents = torch.arange(0, head_width, 2, dtype=torch.float64, device=positions_N.device) / head_width
    angles = positions_N.to(torch.float64)[:, None, None] * base**-exponents
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x_BNHd: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Return queries or keys turned by their positions."""
    first, second = x_BNHd.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, first * sine + second * cosine), dim=-1)


class Attend(nn.Module):
    """The one call in which tokens see each other, as a module: a hook on it sees what is attended to.

    Holds no weights.
    """

    def __init__(self, backend: str) -> None:
        super().__init__()
        self.backend = backend

    def forward(self, q_BNHd: Tensor, k_BNHd: Tensor, v_BNHd: Tensor, pattern: AttentionPattern) -> Tensor:
        """Return (B, N, H, d)."""
        return attend(q_BNHd, k_BNHd, v_BNHd, pattern, self.backend)


class SelfAttention(nn.Module):
    """Multi-head attention; the pattern says who sees whom."""

    def __init__(self, width: int, heads: int, backend: str) -> None:
        super().__init__()
        self.heads = heads
        self.attend = Attend(backend)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self,
        x_BND: Tensor,
        turn: Rotation | None,
        pattern: AttentionPattern,
        layer: int,
        past: KeyValueCache | None,
    ) -> Tensor:
        """Return (B, N, D); with a cache, the tokens also see what it remembers of this layer.

        turn: the tokens' rotary positions; None where they have none.
        """
        q_BNHd, k_BNHd, v_BNHd = self.qkv(x_BND).unflatten(-1, (3, self.heads, -1)).unbind(2)
        if turn is not None:
            q_BNHd, k_BNHd = rotate(q_BNHd, *turn).to(v_BNHd.dtype), rotate(k_BNHd, *turn).to(v_BNHd.dtype)
        if past is not None:
            k_BNHd, v_BNHd = past.extend(layer, k_BNHd, v_BNHd)
        attended: Tensor = self.attend(q_BNHd, k_BNHd, v_BNHd, pattern)
        return self.out(attended.flatten(-2))  # type: ignore[no-any-return]


def hidden_width(width: int) -> int:
    """Return the hidden features of a block's feed-forward layer: 8/3 of the width, in whole eights."""
    return 8 * math.ceil(width / 3)


class SwiGLU(nn.Module):
    """Gated feed-forward layer (Shazeer 2020), with the parameters of a plain one four times as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate_and_value = nn.Linear(width, 2 * hidden_width(width), bias=False)
        self.out = nn.Linear(hidden_width(width), width, bias=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return (B, N, D)."""
        gate, value = self.gate_and_value(x_BND).chunk(2, dim=-1)
        return self.out(nn.functional.silu(gate) * value)  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm transformer block: one attention over the whole grid, then SwiGLU, each added to its input."""

    def __init__(self, width: int, heads: int, dropout: float, backend: str) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width, eps=1e-6)
        self.attention = SelfAttention(width, heads, backend)
        self.feedforward_norm = nn.RMSNorm(width, eps=1e-6)
        self.feedforward = SwiGLU(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x_BTED: Tensor,
        turn: Rotation,
        pattern: AttentionPattern,
        layer: int,
        past: KeyValueCache | None,
    ) -> Tensor:
        """Return (B, T, E, D); `turn` holds the positions of the T·E tokens, time-major."""
        grid_BND = self.attention_norm(x_BTED).flatten(1, 2)
        attended_BND = self.attention(grid_BND, turn, pattern, layer, past)
        return self._feed_forward(x_BTED + self.dropout(attended_BND.view_as(x_BTED)))

    def _feed_forward(self, x_BTED: Tensor) -> Tensor:
        return x_BTED + self.dropout(self.feedforward(self.feedforward_norm(x_BTED)))  # type: ignore[no-any-return]


class FactorisedBlock(Block):
    """Attention along time for each entity, then across the entities of each step, then SwiGLU.

    Divided attention, of Bertasius et al. (2021), "Is Space-Time Attention All You Need for Video Understanding?",
    section 3. Entities have no order: across them there are no positions.
    """

    def __init__(self, width: int, heads: int, dropout: float, backend: str) -> None:
        super().__init__(width, heads, dropout, backend)
        self.across_norm = nn.RMSNorm(width, eps=1e-6)
        self.across = SelfAttention(width, heads, backend)

    def forward(
        self,
        x_BTED: Tensor,
        turn: Rotation,
        pattern: AttentionPattern,
        layer: int,
        past: KeyValueCache | None,
    ) -> Tensor:
        """Return (B, T, E, D); `turn` holds the positions of the T steps; the cache has B·E sequences."""
        batch, _, entities, _ = x_BTED.shape
        series_BND = self.attention_norm(x_BTED).transpose(1, 2).flatten(0, 1)
        along_BND = self.attention(series_BND, turn, pattern, layer, past)
        x_BTED = x_BTED + self.dropout(along_BND.unflatten(0, (batch, entities)).transpose(1, 2))
        steps_BND = self.across_norm(x_BTED).flatten(0, 1)
        across_BND = self.across(steps_BND, None, ACROSS, layer, None)
        return self._feed_forward(x_BTED + self.dropout(across_BND.view_as(x_BTED)))
