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
    checkpoint_every: PositiveInt | None = None
    """Steps between checkpoints, from which a killed training goes on; null is evaluate_every. Each new best comes with
    one."""
    patience: PositiveInt | None = None
    """Evaluations without a better validation loss before training stops; null never stops early."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Autocast; auto is bf16 on a GPU and fp32 on a CPU, where bf16 is slower."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU that is there."""
    distributed: Literal["none", "ddp", "fsdp"] = "none"
    """Under torchrun, what each of its processes holds: the whole model (ddp), or a part of every weight, its gradient
    and its moments (fsdp). They share each batch. Without torchrun there is one process, and nothing to share."""
    context_parallel: PositiveInt = 1
    """Processes that share a segment, each with as many of its bars: what a window sees crosses the borders."""
    seed: NonNegativeInt = 0
    """Of the weights, the segments and dropout."""
    seeds: Annotated[tuple[NonNegativeInt, ...], EachOnce] = ()
    """In place of `seed`: a model is trained from each, and forecasts are their mean. Plain models are fitted once."""
    plain_models: Annotated[tuple[PlainFamily, ...], EachOnce] = PLAIN_FAMILIES
    """Of a log_return target: fitted on the same rows before training, and shown beside the run in every table."""
    tensorboard: bool = False
    """Also write TensorBoard events (extra `tracking`)."""

    @property
    def steps_between_checkpoints(self) -> int:
        """`checkpoint_every`, or what it stands for."""
        return self.checkpoint_every or self.evaluate_every

    @model_validator(mode="after")
    def _labels_remain(self) -> Self:
        if self.warmup_bars is not None and self.warmup_bars >= self.segment_bars:
            raise ValueError(f"warmup_bars ({self.warmup_bars}) must be below segment_bars ({self.segment_bars})")
        return self

    @model_validator(mode="after")
    def _stretches_are_equal(self) -> Self:
        if self.context_parallel > 1 and self.distributed == "none":
            raise ValueError("context_parallel needs processes to share a segment; set distributed to ddp or fsdp")
        if self.segment_bars % self.context_parallel:
            raise ValueError(
                f"segment_bars ({self.segment_bars}) must be a multiple of context_parallel ({self.context_parallel})"
            )
        return self
