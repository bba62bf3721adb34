"""LSTM encoder and decoder, as transformers models: the backbones of earlier sentence VAEs.

Bowman et al., arXiv 1511.06349; the sizes and the dropout of Shen et al., arXiv 1905.12777. With
the injection `add` and a linear map from z, the decoder reads e(x_t) + W z + b at each token, as in
the latter:

x_t -> e(x_t) -> dropout -> + W z + b -> LSTM -> dropout -> head -> p(x_t+1 | x_<=t, z)

Importing this module registers both with transformers' `AutoModel` and `AutoModelForCausalLM`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
    initialization,
)
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
)

from llamavae.errors import UserError, check_int, check_number

_UNIFORM = 0.1  # the weights of embeddings and head are drawn from [-0.1, 0.1]


class LSTMConfig(PreTrainedConfig):
    """Configuration of an `LSTMEncoder` or an `LSTMDecoder`.

    Attributes:
        vocab_size: Number V of tokens.
        embedding_size: Size E of a token embedding.
        hidden_size: Size H of the output at a token. Each of the two directions of the encoder has
            half of it.
        num_hidden_layers: Number of LSTM layers.
        dropout: Dropout of token embeddings and outputs in training.
    """

    model_type = "llamavae_lstm"

    vocab_size: int = 10_000
    embedding_size: int = 512
    hidden_size: int = 1024
    num_hidden_layers: int = 1
    dropout: float = 0.5
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        for name in ("vocab_size", "embedding_size", "hidden_size", "num_hidden_layers"):
            check_int(name, getattr(self, name))
        check_number("dropout", self.dropout, 0, 1)
        super().__post_init__(**kwargs)


class LSTMState:
    """What a decoder has read so far; takes the place of transformers' key-value cache.

    Attributes:
        hidden: Output of each layer at the last token (L, B, H).
        cell: Cell state of each layer (L, B, H).
        length: Number of tokens that were read.
    """

    is_compileable = False

    def __init__(self, hidden: Tensor, cell: Tensor, length: int) -> None:
        self.hidden, self.cell, self.length = hidden, cell, length

    def get_seq_length(self) -> int:
        """Number of tokens that were read."""
        return self.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Continue from these rows of the batch; called by beam search."""
        self.hidden, self.cell = (x.index_select(1, beam_idx) for x in (self.hidden, self.cell))


class _Embeddings(nn.Embedding):
    """Token embeddings with dropout, which does not affect what is added to them later."""

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config.vocab_size, config.embedding_size)
        self.dropout = config.dropout

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(super().forward(input), self.dropout, self.training)


class _LSTM(PreTrainedModel):
    """Initialisation and helpers of both models."""

    config_class = LSTMConfig
    config: LSTMConfig
    _supports_sdpa = True  # there is no attention, so any implementation of it will do

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding | nn.Linear):
            initialization.uniform_(module.weight, -_UNIFORM, _UNIFORM)
            if isinstance(module, nn.Linear):
                initialization.zeros_(module.bias)
        elif isinstance(module, nn.LSTM):  # as torch does
            bound = module.hidden_size**-0.5
            for parameter in module.parameters(recurse=False):
                initialization.uniform_(parameter, -bound, bound)

    def _layers(self, hidden_size: int) -> nn.LSTM:
        config, layers = self.config, self.config.num_hidden_layers
        dropout = config.dropout if layers > 1 else 0.0  # torch's is between layers
        return nn.LSTM(config.embedding_size, hidden_size, layers, True, True, dropout)

    def _kernels(self) -> AbstractContextManager[Any]:
        """Context of a forward pass: cuDNN has no backward pass of an LSTM in eval mode."""
        if torch.is_grad_enabled() and not self.training:
            return cast(AbstractContextManager[Any], torch.backends.cudnn.flags(enabled=False))
        return nullcontext()


class LSTMEncoder(_LSTM):
    """A bidirectional LSTM over a text.

    The output at a token is the state of the forward direction there, and the final state of the
    backward direction. That of the last token (pooling `last`) is thus the final state of both.
    """

    base_model_prefix = "encoder"

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        if config.hidden_size % 2:
            raise UserError(
                "expected an even hidden_size, half of it for each direction of the encoder; got "
                f"{config.hidden_size}"
            )
        self.embeddings = _Embeddings(config)
        self.rightwards = self._layers(config.hidden_size // 2)
        self.leftwards = self._layers(config.hidden_size // 2)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings (V, E)."""
        return self.embeddings

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> BaseModelOutput:
        """Outputs (B, T, H) at each token.

        Args:
            input_ids: Token ids (B, T), padded on the right.
            attention_mask: 1 for tokens, 0 for padding, shape (B, T).
        """
        x = self.embeddings(input_ids)
        rows = torch.arange(len(x), device=x.device)
        last = (attention_mask.sum(1) - 1).clamp(min=0)
        steps = torch.arange(x.shape[1], device=x.device)
        # reversed up to the padding, which comes last in both directions
        backwards = (last[:, None] - steps) % x.shape[1]
        with self._kernels():
            right = self.rightwards(x)[0]
            left = self.leftwards(x[rows[:, None], backwards])[0]
        final = left[rows, last][:, None].expand_as(right)
        return BaseModelOutput(last_hidden_state=torch.cat([right, final], dim=-1))


class LSTMModel(_LSTM):
    """The decoder without its head."""

    base_model_prefix = "model"

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        self.embeddings = _Embeddings(config)
        self.lstm = self._layers(config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings (V, E)."""
        return self.embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: LSTMState | None = None,
        use_cache: bool | None = None,
        **_: Any,
    ) -> BaseModelOutputWithPast:
        """Outputs (B, T, H) at each token; padding on the right needs no mask.

        Args:
            input_ids: Token ids (B, T).
            inputs_embeds: Embeddings (B, T, E), instead of ids.
            past_key_values: State after the tokens before.
            use_cache: Return the state after the last token.
        """
        x = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        past = past_key_values
        with self._kernels():
            output, (hidden, cell) = self.lstm(
                x, None if past is None else (past.hidden, past.cell)
            )
        now = x.shape[1] + (0 if past is None else past.length)
        return BaseModelOutputWithPast(
            last_hidden_state=self.dropout(output),
            past_key_values=cast(Any, LSTMState(hidden, cell, now)) if use_cache else None,
        )


class LSTMDecoder(_LSTM, GenerationMixin):
    """A causal language model: an LSTM with a linear head."""

    base_model_prefix = "model"
    _is_stateful = True

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        self.model = LSTMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings (V, E)."""
        return self.model.embeddings

    def get_output_embeddings(self) -> nn.Module:
        """The head (V, H), with a bias."""
        return self.lm_head

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def forward(
        self,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: LSTMState | None = None,
        use_cache: bool | None = None,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, T, V) of the next token; the arguments are those of `LSTMModel.forward`."""
        output = self.model(input_ids, inputs_embeds, past_key_values, use_cache)
        return CausalLMOutputWithPast(
            logits=self.lm_head(output.last_hidden_state),
            past_key_values=output.past_key_values,
        )


AutoConfig.register(LSTMConfig.model_type, LSTMConfig)
AutoModel.register(LSTMConfig, LSTMEncoder)
AutoModelForCausalLM.register(LSTMConfig, LSTMDecoder)
