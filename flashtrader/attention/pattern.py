"""Which query sees which key."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flashtrader.errors import BackendError, ConfigError


@dataclass(frozen=True)
class AttentionPattern:
    """Which query sees which key, on a time-major grid of tokens.

    Token p belongs to time step p // entities_per_step. The queries are the *last* Nq of the Nk positions (a
    key/value cache makes Nk > Nq), so query i stands at position i + Nk - Nq: bottom-right alignment. With `causal`, a
    query at step t sees the keys of steps t - window_steps + 1 … t, every entity of them, its own step included; no
    window means all steps up to t. Without `causal` every query sees every key.

    Six steps (x: seen), two of them cached, Nq = 4, Nk = 6:

        causal              causal, window_steps=3        causal, two entities per step (three steps, Nq = 4)
        x x x . . .         x x x . . .                   x x x x . .
        x x x x . .         . x x x . .                   x x x x . .
        x x x x x .         . . x x x .                   x x x x x x
        x x x x x x         . . . x x x                   x x x x x x

    Raises ConfigError for a window or a number of entities below one, and for a window without `causal`.
    """

    causal: bool = True
    window_steps: int | None = None
    """Time steps that a query sees, its own included."""
    entities_per_step: int = 1
    """Tokens of one time step; they see each other."""

    def __post_init__(self) -> None:
        if self.entities_per_step < 1:
            raise ConfigError(f"entities_per_step is {self.entities_per_step}; it must be at least 1")
        if self.window_steps is not None and self.window_steps < 1:
            raise ConfigError(f"window_steps is {self.window_steps}; it must be at least 1, or null for no window")
        if self.window_steps is not None and not self.causal:
            raise ConfigError("a window needs causal attention; drop window_steps, or set causal")

    def __str__(self) -> str:
        name = "causal" if self.causal else "full"
        if self.window_steps is not None:
            name += f" window {self.window_steps}"
        return name if self.entities_per_step == 1 else f"{name} × {self.entities_per_step} entities"

    @property
    def window_tokens(self) -> int | None:
        """Tokens in a window of `window_steps`."""
        return None if self.window_steps is None else self.window_steps * self.entities_per_step

    def check(self, q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor) -> None:
        """Raise BackendError unless the shapes fit each other and this pattern."""
        if any(x.dim() != 4 for x in (q_BNHD, k_BNHD, v_BNHD)):
            raise BackendError("attention takes tensors of shape (batch, tokens, heads, head_dim)")
        (batch, num_queries, heads, head_dim), num_keys = q_BNHD.shape, k_BNHD.shape[1]
        if k_BNHD.shape != (batch, num_keys, heads, head_dim) or v_BNHD.shape != k_BNHD.shape:
            shapes = ", ".join(str(tuple(x.shape)) for x in (q_BNHD, k_BNHD, v_BNHD))
            raise BackendError(f"q, k, v of shapes {shapes}: all but the number of tokens must agree, heads included")
        if not (q_BNHD.dtype == k_BNHD.dtype == v_BNHD.dtype and q_BNHD.is_floating_point()):
            dtypes = ", ".join(str(x.dtype).removeprefix("torch.") for x in (q_BNHD, k_BNHD, v_BNHD))
            raise BackendError(f"q, k, v of {dtypes}: attention takes one floating dtype")
        if not 0 < num_queries <= num_keys:
            raise BackendError(f"{num_queries} queries for {num_keys} keys: the queries are the last of the keys")
        if num_queries % self.entities_per_step or num_keys % self.entities_per_step:
            raise BackendError(
                f"{num_queries} queries and {num_keys} keys are not whole steps of {self.entities_per_step} entities"
            )

    def reduced(self, num_queries: int, num_keys: int) -> tuple["AttentionPattern", int]:
        """Return the simplest pattern that means the same for these lengths, and the first key that any query sees.

        A window that holds every key is none, and the queries of one last step see all that their window leaves.
        """
        first_key = self.seen_by_any(num_keys - num_queries, num_keys, num_keys)[0]
        pattern = self
        if self.window_tokens is not None and self.window_tokens >= num_keys - first_key:
            pattern = replace(pattern, window_steps=None)
        if pattern.window_steps is None and num_queries <= self.entities_per_step:
            pattern = replace(pattern, causal=False)
        return pattern, first_key

    def num_pairs(self, num_queries: int, num_keys: int) -> int:
        """Return how many pairs of a query and a key there are, of those Nq·Nk, that see each other."""
        if not self.causal:
            return num_queries * num_keys
        steps, cached_steps = num_keys // self.entities_per_step, (num_keys - num_queries) // self.entities_per_step

        def pairs_of_steps(first: int) -> int:
            """Sum min(t, window) over t = 1 … first."""
            growing = first if self.window_steps is None else min(first, self.window_steps)
            return growing * (growing + 1) // 2 + (first - growing) * growing

        return (pairs_of_steps(steps) - pairs_of_steps(cached_steps)) * self.entities_per_step**2

    def seen_by_any(self, start: int, stop: int, num_keys: int) -> tuple[int, int]:
        """Return the half-open range of keys that at least one of the positions [start, stop) sees."""
        return self._seen(first=start, last=stop - 1, num_keys=num_keys)

    def seen_by_all(self, start: int, stop: int, num_keys: int) -> tuple[int, int]:
        """Return the half-open range of keys that all of the positions [start, stop) see; it may be empty."""
        return self._seen(first=stop - 1, last=start, num_keys=num_keys)

    def _seen(self, first: int, last: int, num_keys: int) -> tuple[int, int]:
        """Return the keys from where the position `first` begins to see to where the position `last` stops."""
        if not self.causal:
            return 0, num_keys
        entities = self.entities_per_step
        stop = (last // entities + 1) * entities
        start = 0 if self.window_steps is None else (first // entities + 1 - self.window_steps) * entities
        return max(start, 0), min(stop, num_keys)

    def mask(self, positions: range, keys: range, device: torch.device) -> Tensor:
        """Return (len(positions), len(keys)) booleans: True where the query at that position sees the key."""
        if not self.causal:
            return torch.ones(len(positions), len(keys), dtype=torch.bool, device=device)
        query_step = torch.arange(positions.start, positions.stop, device=device)[:, None] // self.entities_per_step
        key_step = torch.arange(keys.start, keys.stop, device=device)[None, :] // self.entities_per_step
        seen = key_step <= query_step
        return seen if self.window_steps is None else seen & (key_step > query_step - self.window_steps)
