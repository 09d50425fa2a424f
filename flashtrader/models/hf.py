"""HfDecoder: the decoder made of the `transformers` library's own layers (extra `hf`), for whoever has such a stack.

The model is transformers' `MistralModel`: a Llama with the sliding window that `LlamaModel` lacks. Width, layers, heads
and hidden width are those of `GridTransformer`, so both have as many weights, under other names: they can be read by,
and come from, anything that reads a Mistral. Nothing is downloaded; there is no tokenizer and no table of words.

What it gains is that stack: transformers' kernels, PEFT, quantisation, exporters. What it loses:

- eager and sdpa compute all N² scores under an N × N mask, window or not, where `attend` computes N · W. In processor
  time of a training step on one core, with the model of configs/demo.yaml (8 × 1,024 bars, window 384, no dropout),
  sdpa takes 2.0 times as long as GridTransformer and eager 4.9; with 2 × 4,096 bars and a window of 256, 8.0 and 27.
  flash_attention_2 skips what lies outside the window; it knows no mask, and so takes one entity only.
- No dropout on a block's branches, no factorised mixing, no choice of backend by what runs the call, no estimate of
  memory before a run.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, Cache, MistralConfig, MistralModel
from transformers.models.mistral.modeling_mistral import MistralRotaryEmbedding

from flashtrader.attention import Choice, unsupported
from flashtrader.config import Experiment
from flashtrader.errors import BackendError
from flashtrader.models.blocks import hidden_width, rotation
from flashtrader.models.cache import KeyValueCache
from flashtrader.models.decoder import Decoder, GridShape
from flashtrader.models.precision import compute_dtype, pick_device


class HfDecoder(Decoder):
    """A Mistral over our tokens, with our positions, our mask and our cache, so that it means what our decoder means.

    Raises BackendError where flash_attention_2 can't run: it needs CUDA, flash-attn, bf16 and one entity.
    """

    def __init__(self, shape: GridShape, experiment: Experiment) -> None:
        super().__init__(shape)
        self.attn_implementation = experiment.model.attn_implementation
        if self.attn_implementation == "flash_attention_2":
            self._require_flash_attention(experiment)
        config = MistralConfig(
            vocab_size=1,
            bos_token_id=None,
            eos_token_id=None,
            hidden_size=shape.width,
            intermediate_size=hidden_width(shape.width),
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            sliding_window=shape.context_bars,
        )
        self.model: MistralModel = AutoModel.from_config(  # type: ignore[no-untyped-call]
            config, attn_implementation=self.attn_implementation
        )
        self.model.set_input_embeddings(nn.Identity())
        self.model.rotary_emb = Rotary(config)

    def choose_attention(self, q_BNHD: Tensor) -> Choice:  # noqa: ARG002
        """Return transformers' attention under the name of its implementation: nothing is chosen here."""
        return Choice(f"transformers {self.attn_implementation}", {})

    def forward(self, tokens_BTED: Tensor, past: KeyValueCache | None = None) -> Tensor:
        """Return hidden states (B, T, E, D). With a cache, the chunk continues the history that the cache has read."""
        steps, entities = tokens_BTED.shape[1:3]
        hidden_BND = self.model(
            inputs_embeds=(tokens_BTED + self.entity).flatten(1, 2),
            attention_mask=self._mask(steps, past, tokens_BTED.dtype),
            position_ids=self.times(steps, past)[None],
            past_key_values=None if past is None else Memory(past),
            use_cache=past is not None,
        ).last_hidden_state
        if past is not None:
            past.advance(steps)
        return hidden_BND.unflatten(1, (steps, entities))  # type: ignore[no-any-return]

    def _mask(self, steps: int, past: KeyValueCache | None, dtype: torch.dtype) -> Tensor | None:
        """Return what is added to the scores (1, 1, N, remembered + N): 0 where a query sees a key, else −∞.

        None for flash_attention_2, which takes the window from the configuration. One mask of numbers serves all
        layers: PyTorch would turn one of booleans into numbers in each of them.
        """
        if self.attn_implementation == "flash_attention_2":
            return None
        remembered = 0 if past is None else min(past.position, self.shape.context_bars - 1)
        first, last = (step * self.shape.entities for step in (remembered, remembered + steps))
        seen = self.pattern.mask(range(first, last), range(last), self.entity.device)
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)[None, None]

    def _require_flash_attention(self, experiment: Experiment) -> None:
        """Raise BackendError unless the flash-attn library runs the training's calls."""
        device = pick_device(experiment.training)
        q_BNHD = torch.empty(
            (1, self.shape.entities, self.shape.heads, self.shape.width // self.shape.heads),
            dtype=compute_dtype(experiment.training, device),
            device=device,
        )
        if reason := unsupported(q_BNHD, q_BNHD, self.pattern, "flash-2"):
            raise BackendError(
                f"model.attn_implementation: flash_attention_2 can't run here ({reason}); take sdpa or eager"
            )


class Rotary(MistralRotaryEmbedding):
    """Rotary positions with angles in float64, in place of transformers' float32 ones (see `rotation`)."""

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and sine (1, N, d) of positions (1, N), both halves of d alike."""
        head_width = self.config.hidden_size // self.config.num_attention_heads
        cosine, sine = (turn.transpose(0, 1) for turn in rotation(position_ids[0], head_width, x.dtype))
        return torch.cat((cosine, cosine), dim=-1), torch.cat((sine, sine), dim=-1)


class Memory(Cache):
    """Our cache in the role of transformers' own, which keeps everything where the window is one bar."""

    def __init__(self, past: KeyValueCache) -> None:
        super().__init__(layers=[])
        self._past = past

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Return remembered and new keys and values (B, H, N, d) of a layer; remember the newest."""
        k_BNHD, v_BNHD = self._past.extend(layer_idx, key_states.transpose(1, 2), value_states.transpose(1, 2))
        return k_BNHD.transpose(1, 2), v_BNHD.transpose(1, 2)
