"""Section `model`: the transformer, or a plain model in its place."""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, PositiveInt, model_validator

from flashtrader.config.section import Section

PlainFamily = Literal["persistence", "drift", "momentum", "ridge", "dlinear", "boosting"]
Family = Literal["returns", "candles", "portfolio", "orderbook", PlainFamily]
PLAIN_FAMILIES: tuple[PlainFamily, ...] = get_args(PlainFamily)


class ModelConfig(Section):
    """The transformer, or a plain model in its place."""

    family: Family = "returns"
    """What a token is and what is predicted; the names after orderbook are plain models."""
    context_bars: PositiveInt | None = 512
    """Sliding window: each layer attends to this many bars, its own included; null is the whole segment."""
    width: Annotated[PositiveInt, Field(le=65_536)] = 64
    """Features of a token."""
    layers: Annotated[PositiveInt, Field(le=1_024)] = 4
    """Transformer blocks."""
    heads: PositiveInt = 8
    """Attention heads; they divide the width, and each gets an even share."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """On the output of each block's branches; never inside attention, where it would switch the fused kernels off."""
    attention: str = "auto"
    """Backend: auto, or one of those that `flashtrader bench attention` lists."""
    mixing: Literal["joint", "factorised"] = "joint"
    """Of a grid with several entities: one attention over all of it, or along time for each entity and then across."""
    backbone: Literal["grid", "hf"] = "grid"
    """The decoder: flashtrader's own, or a Llama with a window (Mistral) of the `transformers` library (extra `hf`)."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    """Attention of backbone hf, in the words of transformers."""
    distribution: Literal["point", "student_t"] = "point"
    """Family candles: whether a predictive distribution is learned beside the next candle, for sample paths."""
    volume_head: bool = False
    """Family candles: predict volume by a small network of its own instead of a row of the shared head."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide width ({self.width})")
        if self.width // self.heads % 2:
            raise ValueError(f"width / heads is {self.width // self.heads}, but rotary positions need an even number")
        return self

    @model_validator(mode="after")
    def _keys_of_the_backbone(self) -> Self:
        if self.backbone == "hf":
            for key, only in (("attention", "auto"), ("dropout", 0.0), ("mixing", "joint")):
                if getattr(self, key) != only:
                    raise ValueError(f"backbone hf takes {key}: {only} and nothing else")
        elif self.attn_implementation != "sdpa":
            raise ValueError("attn_implementation: only for backbone hf; backbone grid takes model.attention")
        return self
