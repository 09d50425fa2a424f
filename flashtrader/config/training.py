"""Section `training`: one loop for every family."""

from typing import Annotated, Literal, Self

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from flashtrader.config.model import PLAIN_FAMILIES, PlainFamily
from flashtrader.config.section import EachOnce, Section


class TrainingConfig(Section):
    """The training loop."""

    segment_bars: PositiveInt = 2_048
    """Bars in one segment."""
    labels: Literal["all", "last"] = "all"
    """Bars of a segment that are learned from: every one after the warm-up, or the last alone, one label a window."""
    warmup_bars: NonNegativeInt | None = None
    """Leading bars of a segment that only give context; null is the context, at most half the segment."""
    batch_size: PositiveInt = 8
    """Segments in one step."""
    accumulate: PositiveInt = 1
    """Batches whose gradients make one step."""
    max_steps: PositiveInt = 2_000
    """Optimiser steps."""
    learning_rate: PositiveFloat = 1e-3
    """Peak of the schedule."""
    schedule: Literal["cosine", "plateau"] = "cosine"
    """Cosine decay to a tenth of the peak, or halving whenever the validation loss stalls."""
    schedule_warmup_steps: NonNegativeInt = 100
    """Steps over which the learning rate rises to its peak."""
    plateau_patience: PositiveInt = 3
    """Evaluations without a better validation loss before the plateau schedule halves the rate."""
    weight_decay: NonNegativeFloat = 0.01
    """AdamW's decay of matrices; biases, norms and embeddings are left alone."""
    clip_norm: PositiveFloat = 1.0
    """Longest gradient that is applied whole."""
    loss: Literal["huber", "mse", "cross_entropy", "sharpe"] = "huber"
    """On targets in units of their training standard deviation; cross_entropy on directions; sharpe on weights, net of
    the backtest's fees, spread and slippage_bps, with every trade made, and without what else it charges."""
    volume_weight: NonNegativeFloat = 0.2
    """Family candles: of volume in the loss, where each price has 1."""
    evaluate_every: PositiveInt = 100
    """Steps between evaluations on the validation bars."""
    patience: PositiveInt | None = None
    """Evaluations without a better validation loss before training stops; null never stops early."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Autocast; auto is bf16 on a GPU and fp32 on a CPU, where bf16 is slower."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU that is there."""
    seed: NonNegativeInt = 0
    """Of the weights, the segments and dropout."""
    seeds: Annotated[tuple[NonNegativeInt, ...], EachOnce] = ()
    """In place of `seed`: a model is trained from each, and forecasts are their mean. Plain models are fitted once."""
    plain_models: Annotated[tuple[PlainFamily, ...], EachOnce] = PLAIN_FAMILIES
    """Of a log_return target: fitted on the same rows before training, and shown beside the run in every table."""
    tensorboard: bool = False
    """Also write TensorBoard events (extra `tracking`)."""

    @model_validator(mode="after")
    def _labels_remain(self) -> Self:
        if self.warmup_bars is not None and self.warmup_bars >= self.segment_bars:
            raise ValueError(f"warmup_bars ({self.warmup_bars}) must be below segment_bars ({self.segment_bars})")
        return self
