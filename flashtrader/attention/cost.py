"""What attention costs before it runs: arithmetic and memory, by backend, shape and pattern.

Arithmetic is counted as the field does (Dao 2023, section 4): a pair of a query and a key takes 4·D operations forward,
two products of a multiplication and an addition each, so 4·B·H·N²·D in all and half of it if causal; the backward pass
takes 2.5 times that, as it computes the scores again, and twice where they were kept.
"""

from dataclasses import dataclass

import torch

from flashtrader.attention import sdpa, tiled
from flashtrader.attention.pattern import AttentionPattern

MATRIX_BACKENDS = ("naive", "sdpa-math")
"""Those that keep the matrix of weights."""


@dataclass(frozen=True)
class AttentionShape:
    """The shape of one call."""

    batch: int
    num_queries: int
    num_keys: int
    heads: int
    head_dim: int
    dtype: torch.dtype = torch.float32

    @property
    def query_bytes(self) -> int:
        """Bytes of the queries, and of the output."""
        return self.batch * self.num_queries * self.heads * self.head_dim * self.dtype.itemsize

    @property
    def key_bytes(self) -> int:
        """Bytes of the keys, and of the values."""
        return self.batch * self.num_keys * self.heads * self.head_dim * self.dtype.itemsize


@dataclass(frozen=True)
class AttentionCost:
    """The arithmetic and memory of one call and of its backward pass."""

    useful_flops: int
    """Forward, of the pairs that the pattern shows: what a speed in TFLOP/s is given by."""
    forward_flops: int
    """Forward, of all pairs that this backend computes, hidden ones included."""
    backward_flops: int
    saved_bytes: int
    """Held from the forward to the backward pass: q, k, v, the output, and what the backend adds to them."""
    forward_peak_bytes: int
    """Largest allocation above q, k and v in a forward pass without gradients."""
    training_peak_bytes: int
    """Largest allocation above q, k, v and the output's gradient, forward and backward."""


def attention_cost(
    backend: str, shape: AttentionShape, pattern: AttentionPattern, device_type: str = "cpu"
) -> AttentionCost:
    """Return what `backend` will need for one call; an estimate for kernels whose buffers are their own affair.

    device_type: "cpu" or "cuda", where SDPA takes a mask in other ways.
    """
    pattern, first_key = pattern.reduced(shape.num_queries, shape.num_keys)
    num_queries, num_keys = shape.num_queries, shape.num_keys - first_key
    flops_per_pair = 4 * shape.batch * shape.heads * shape.head_dim
    blocks = _blocks(backend, pattern, num_queries, num_keys, device_type)
    useful_pairs = pattern.num_pairs(num_queries, num_keys)
    computed_pairs = useful_pairs
    if blocks is not None:
        computed_pairs = sum((rows.stop - rows.start) * (keys.stop - keys.start) for rows, keys in blocks)
    sum_bytes = torch.promote_types(shape.dtype, torch.float32).itemsize
    lse_bytes = shape.batch * shape.heads * num_queries * sum_bytes
    inputs_bytes = shape.query_bytes + 2 * shape.key_bytes
    if backend in MATRIX_BACKENDS:
        matrix_bytes = shape.batch * shape.heads * computed_pairs * shape.dtype.itemsize
        mask_bytes = num_queries * num_keys if pattern.causal else 0
        # PyTorch's batched product copies operands whose heads are not contiguous, and keeps the copies.
        saved = inputs_bytes + shape.query_bytes + matrix_bytes + mask_bytes
        forward_peak = 2 * matrix_bytes + mask_bytes + inputs_bytes
        training_peak = 3 * matrix_bytes + mask_bytes + 2 * inputs_bytes + shape.query_bytes
        backward_per_forward = 2.0
    else:
        mask_bytes, copied_bytes = _of_blocks(blocks, backend, shape, pattern, device_type)
        block_bytes = 0
        if blocks is not None and backend != "tiled":  # a block's gradients live until the next block's are there
            largest = max(rows.stop - rows.start + 2 * (keys.stop - keys.start) for rows, keys in blocks)
            block_bytes = 2 * largest * shape.batch * shape.heads * shape.head_dim * shape.dtype.itemsize
        saved = inputs_bytes + shape.query_bytes + lse_bytes + copied_bytes
        forward_peak = shape.query_bytes + lse_bytes + mask_bytes + copied_bytes
        gradient_bytes = inputs_bytes * (sum_bytes // shape.dtype.itemsize if blocks is not None else 1)
        training_peak = forward_peak + gradient_bytes + copied_bytes + block_bytes
        backward_per_forward = 2.5
    return AttentionCost(
        useful_flops=useful_pairs * flops_per_pair,
        forward_flops=computed_pairs * flops_per_pair,
        backward_flops=int(backward_per_forward * computed_pairs * flops_per_pair),
        saved_bytes=saved,
        forward_peak_bytes=forward_peak,
        training_peak_bytes=training_peak,
    )


def _blocks(
    backend: str, pattern: AttentionPattern, num_queries: int, num_keys: int, device_type: str
) -> list[tuple[slice, slice]] | None:
    """Return the blocks that the backend computes whole, or None where it computes no hidden pair to speak of."""
    if backend == "naive":
        return [(slice(0, num_queries), slice(0, num_keys))]
    if backend == "tiled":
        return list(sdpa.blocks_of(pattern, num_queries, num_keys, tiled.BLOCK))
    if not backend.startswith("sdpa") or (backend == "sdpa-flash" and device_type == "cuda"):
        return None
    if not sdpa.needs_mask(pattern, num_queries, num_keys):
        return [(slice(0, num_queries), slice(0, num_keys))] if backend == "sdpa-math" else None
    if device_type == "cpu" and backend != "sdpa-math":
        block = sdpa.CPU_BLOCK
    else:
        block = sdpa.ROWS_BLOCK if pattern.window_tokens is None else pattern.window_tokens // 2
    return list(sdpa.blocks_of(pattern, num_queries, num_keys, sdpa.block_tokens(pattern, block)))


def _of_blocks(
    blocks: list[tuple[slice, slice]] | None,
    backend: str,
    shape: AttentionShape,
    pattern: AttentionPattern,
    device_type: str,
) -> tuple[int, int]:
    """Return the bytes of the mask that the blocks share and of the keys and values that they copy."""
    if blocks is None:
        return 0, 0
    rows = max(queries.stop - queries.start for queries, _ in blocks)
    columns = max(keys.stop - keys.start for _, keys in blocks)
    if backend == "tiled":
        scores_of_a_tile = shape.batch * shape.heads * rows * min(columns, tiled.BLOCK)
        return 4 * scores_of_a_tile * torch.promote_types(shape.dtype, torch.float32).itemsize, 0
    mask_bytes = 0 if rows <= pattern.entities_per_step else rows * columns * shape.dtype.itemsize
    if device_type == "cpu" or pattern.window_steps is None:
        return mask_bytes, 0
    copies = sum(keys.stop - keys.start for _, keys in blocks) / shape.num_keys
    return mask_bytes, int(2 * shape.key_bytes * copies)
