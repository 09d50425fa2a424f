"""What a causal model remembers of the bars that it has already seen."""

from torch import Tensor, cat


class KeyValueCache:
    """The last keys and values of every layer, so that a history can be read in chunks.

    Holds the last `memory_tokens` of each sequence: with a sliding window of W steps, the tokens of W − 1 earlier ones
    are all that the next chunk can see, which makes reading in chunks equal to reading at once, in memory that does not
    grow.
    """

    def __init__(self, layers: int, memory_tokens: int) -> None:
        self.position = 0
        self.memory_tokens = memory_tokens
        self._kept: list[tuple[Tensor, Tensor] | None] = [None] * layers

    def extend(self, layer: int, k_BNHD: Tensor, v_BNHD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the remembered keys and values of a layer followed by the new ones; remember the newest."""
        kept = self._kept[layer]
        if kept is not None:
            k_BNHD, v_BNHD = cat((kept[0], k_BNHD), dim=1), cat((kept[1], v_BNHD), dim=1)
        start = max(k_BNHD.shape[1] - self.memory_tokens, 0)
        self._kept[layer] = (k_BNHD[:, start:], v_BNHD[:, start:])
        return k_BNHD, v_BNHD

    def repeat(self, count: int) -> "KeyValueCache":
        """Return a cache of so many sequences that have all read what this one has, and then go their own ways."""
        copy = KeyValueCache(len(self._kept), self.memory_tokens)
        copy.position = self.position
        copy._kept = [
            None if kept is None else (kept[0].repeat(count, 1, 1, 1), kept[1].repeat(count, 1, 1, 1))
            for kept in self._kept
        ]
        return copy

    def advance(self, steps: int) -> None:
        """Count the time steps of a chunk that every layer has read."""
        self.position += steps
