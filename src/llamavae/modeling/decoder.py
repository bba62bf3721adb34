"""The decoder p(x|z): a causal language model, its token policy, its loss and its generation.

The file is long because all of these need the same model and tokens: it is one public class.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from llamavae.errors import UserError, check_int, check_number, memory_errors
from llamavae.modeling.backbones import freeze_or_adapt, quick_backward, quiet_dropout
from llamavae.modeling.cross_entropy import CHUNK, cross_entropy
from llamavae.modeling.injection import Steering, first_inputs, steered, steered_inputs
from llamavae.modeling.names import DecoderTraining
from llamavae.modeling.quantised import keep_gradients, quiet_bitsandbytes
from llamavae.modeling.tokenizing import (
    AS_TEXT,
    TokenPolicy,
    check_vocabulary,
    detokenize,
    tokenize,
)
from llamavae.modes import evaluating
from llamavae.pretrained import resolve
from llamavae.pretrained.loading import (
    check_placement,
    hub_errors,
    is_gguf,
    load_tokenizer,
    load_whole,
    model_folder,
)

MIN_TEMPERATURE = 1e-6
"""Lower limit of the temperature: logits that are divided by less can exceed float32."""
MAX_BEAMS = 1000  # each has a cache of keys and values of its own
_ADVICE = "Use a smaller batch_size, or fewer return sequences, beams or new tokens"


class Scores(NamedTuple):
    """Scores of B sentences under teacher forcing, each of shape (B,).

    Attributes:
        nll: -log p(x|z) in nats, with a gradient.
        worst: The largest -log p of a token of the sentence, in nats, without a gradient.
        exact: Whether each token is the most probable one given the preceding tokens, so that
            greedy decoding reproduces the sentence exactly.
    """

    nll: Tensor
    worst: Tensor
    exact: Tensor


class TextDecoder(nn.Module):
    """A causal language model steered by z.

    Trainable weights are none (`frozen`), token embeddings and LM head (`heads`), these and LoRA
    matrices in the hidden layers (`lora`), or all (`full`). A tied embedding and head are one
    parameter.

    Args:
        lm: Any transformers causal language model.
        tokenizer: Its tokenizer.
        max_tokens: Maximum number of tokens per sentence, including the end-of-sentence token.
        training: `frozen`, `heads`, `lora` or `full`.
        lora_rank: Rank of the LoRA matrices.
        lora_alpha: Scale of the LoRA matrices.
    """

    def __init__(
        self,
        lm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_tokens: int = 64,
        training: DecoderTraining = "frozen",
        lora_rank: int = 16,
        lora_alpha: int = 32,
    ) -> None:
        super().__init__()
        self.lm = lm
        self.tokenizer = tokenizer
        self.tokens = TokenPolicy.of(tokenizer)
        self.max_tokens = max_tokens
        self.training_mode = training
        keep_gradients(lm)
        hidden = {"heads": "frozen"}.get(training, training)
        freeze_or_adapt(lm, hidden, lora_rank, lora_alpha)
        if lm.get_output_embeddings() is None:
            raise UserError(
                f"expected a causal language model with a head; got {type(lm).__name__}"
            )
        check_vocabulary(tokenizer, lm, "decoder")
        self.embeddings.requires_grad_(training != "frozen")
        self.head.requires_grad_(training != "frozen")
        # the sampling settings of a checkpoint would affect greedy decoding
        lm.generation_config = self._greedy()

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        max_tokens: int = 64,
        training: DecoderTraining = "frozen",
        lora_rank: int = 16,
        lora_alpha: int = 32,
        token: str | bool | None = None,
        cache_dir: str | None = None,
        local_files_only: bool = False,
        **options: Any,
    ) -> TextDecoder:
        """Load from a folder, a GGUF file, a name that `llamavae models` lists, or a hub id.

        `options` go to transformers' `from_pretrained` (`dtype`, `device_map`,
        `quantization_config`, `attn_implementation`, ...).

        Raises:
            UserError: The model cannot be found, read or reached.
        """
        check_placement(**options)
        if "quantization_config" in options:
            quiet_bitsandbytes()
        source = resolve(source)
        with hub_errors("decoder", source, options):
            if is_gguf(source):
                from llamavae.modeling.gguf import read_gguf  # slow import

                lm, tokenizer = read_gguf(source, **options)
            else:
                hub: dict[str, Any] = {
                    "revision": revision,
                    "token": token,
                    "cache_dir": cache_dir,
                    "local_files_only": local_files_only,
                }
                folder = model_folder(source, **hub)
                lm = load_whole(AutoModelForCausalLM, folder, **options)
                tokenizer = load_tokenizer(folder)
        return cls(lm, tokenizer, max_tokens, training, lora_rank, lora_alpha)

    @property
    def device(self) -> torch.device:
        """Device of the input embeddings, and so of the token ids."""
        return self.embeddings.weight.device

    @property
    def hidden_size(self) -> int:
        """Size H of the input embeddings."""
        return self.embeddings.weight.shape[1]

    @property
    def embeddings(self) -> nn.Embedding:
        """The input embeddings (V, H)."""
        return cast(nn.Embedding, self.lm.get_input_embeddings())

    @property
    def head(self) -> nn.Linear:
        """The LM head (V, H); it shares its weight with `embeddings` if they are tied."""
        return cast(nn.Linear, self.lm.get_output_embeddings())

    def train(self, mode: bool = True) -> TextDecoder:
        """Enter training or eval mode; dropout of frozen layers stays off in both."""
        super().train(mode)
        if mode and self.training_mode in ("frozen", "heads"):
            quiet_dropout(self.lm)
        return self

    # ------------------------------------------------------------------ text and token ids

    def tokenize(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        """Token ids `bos x_1 ... x_n eos` of each text, and the number of truncated texts.

        A text of more than `max_tokens` tokens is truncated and has no eos, so that the decoder
        does not learn to stop there.
        """
        if not texts:
            return [], 0
        ids = tokenize(self.tokenizer, texts, add_special_tokens=False, **AS_TEXT)["input_ids"]
        whole = [[*row, self.tokens.eos] for row in ids]
        rows = [[self.tokens.bos, *row[: self.max_tokens]] for row in whole]
        return rows, sum(len(row) > self.max_tokens for row in whole)

    def pad(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask (B, T), padded on the right to the longest row."""
        lengths = np.fromiter(map(len, rows), np.int64)
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, self.tokens.pad)
        ids[mask] = np.concatenate(rows)
        return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))

    def texts(self, ids: Tensor | Sequence[list[int]]) -> list[str]:
        """Texts of generated ids (B, T), or of B lists of ids, each up to its first eos."""
        rows = []
        for row in ids.tolist() if isinstance(ids, Tensor) else ids:
            end = row.index(self.tokens.eos) if self.tokens.eos in row else len(row)
            rows.append(row[:end])
        return [text.strip() for text in detokenize(self.tokenizer, rows)]

    # ------------------------------------------------------------------ -log p(x|z)

    def nll(
        self,
        ids: Tensor,
        mask: Tensor,
        steering: Steering | None = None,
        keep: Tensor | None = None,
        per_sentence: bool = False,
        start: Tensor | None = None,
    ) -> Tensor:
        """-log p(x|z) in nats, summed over tokens (including eos, given bos).

        The (B, T, V) logits are never materialised: head and cross entropy are computed in chunks,
        over the positions without padding. The exception is a head that is more than a linear map
        (Gemma 2's soft cap); the model then computes its own logits.

        Args:
            ids: `bos x_1 ... x_n eos pad ...`, shape (B, T).
            mask: 1 for tokens, 0 for padding on the right, shape (B, T).
            steering: Effect of z on the decoder; None for the unconditional language model.
            keep: Word dropout (Bowman et al., arXiv 1511.06349): False replaces the embedding of
                that input token by zeros, shape (B, T - 1). Targets are never changed.
            per_sentence: Return one value per sentence instead of their sum.
            start: Index of the first token of each sentence that is counted, shape (B,); the tokens
                before it are a prompt. None counts all tokens after bos.

        Returns:
            The sum over sentences, a scalar, or the values of the sentences, shape (B,).

        Raises:
            ValueError: The shapes of mask and ids differ, or padding is on the left.
        """
        rows, targets, where = self._read(ids, mask, steering, keep)
        if start is not None:
            counted = where[:, 1] + 1 >= start.to(where.device)[where[:, 0]]
            rows, targets, where = rows[counted], targets[counted], where[counted]
        losses = self._losses(rows, targets, "none" if per_sentence else "sum")
        return _per_sentence(losses, where, len(ids)) if per_sentence else losses

    def score(self, ids: Tensor, mask: Tensor, steering: Steering | None = None) -> Scores:
        """-log p(x|z) of each sentence, and whether greedy decoding reproduces it.

        A token with a probability above 1/2 is the most probable one. Otherwise, logits are
        compared first at the least probable token of each sentence, and at the remaining tokens
        only if that one is correct.

        Args:
            ids: As for `nll`, shape (B, T).
            mask: As for `nll`, shape (B, T).
            steering: Effect of z on the decoder; None for the unconditional language model.
        """
        rows, targets, where = self._read(ids, mask, steering, None)
        losses = self._losses(rows, targets, "none")
        sentence = where[:, 0]
        with torch.no_grad():
            worst = losses.new_zeros(len(ids)).scatter_reduce(0, sentence, losses, "amax")
            unsure, first = ~(losses < math.log(2)), losses == worst[sentence]
            exact = torch.ones_like(worst, dtype=torch.bool)
            for chosen in (first, ~first):
                for part in (unsure & chosen & exact[sentence]).nonzero()[:, 0].split(CHUNK):
                    wrong = self._logits(rows[part]).argmax(-1) != targets[part]
                    exact[sentence[part[wrong]]] = False
        return Scores(_per_sentence(losses, where, len(ids)), worst, exact)

    def log_probabilities(self, ids: Tensor, steering: Steering | None = None) -> Tensor:
        """Log-probabilities of all tokens at each position, shape (B, T - 1, V), in float32.

        Args:
            ids: `bos x_1 ... x_n` without padding, shape (B, T).
            steering: Effect of z on the decoder; None for the unconditional language model.
        """
        rows, _, _ = self._read(ids, torch.ones_like(ids), steering, None)
        return self._logits(rows).float().log_softmax(-1).unflatten(0, (len(ids), -1))

    def fisher_information(
        self, ids: Tensor, mask: Tensor, steering: Steering, z: Tensor, uniform: Tensor
    ) -> Tensor:
        """Diagonal of the Fisher information of the tokens about z, summed over tokens, (B, D).

        sum_t E[(d log p(y_t | x_<t, z) / dz)^2] with y_t ~ p(. | x_<t, z): the diagonal of the
        generalised Gauss-Newton matrix of `nll` (Martens, arXiv 1412.1193, section 9.2). The mean
        over draws of all tokens at once is an unbiased estimate, since gradients of different
        tokens have expectation 0 and are independent. All draws share one forward pass.

        Args:
            ids: As for `nll`, shape (B, T).
            mask: As for `nll`, shape (B, T).
            steering: Computed from z.
            z: Latent codes (B, D), which must require a gradient.
            uniform: Random numbers in [0, 1) for each draw and position, shape (K, >= T - 1).
        """
        rows, _, where = self._read(ids, mask, steering, None)
        leaf = rows.detach().requires_grad_()
        draws = uniform.to(rows.device)[:, where[:, 1]].T.contiguous()  # (N, K)
        tokens = torch.empty(draws.shape, dtype=torch.long, device=rows.device)
        with torch.no_grad():
            for part in torch.arange(len(rows), device=rows.device).split(CHUNK):
                below = self._logits(rows[part]).float().softmax(-1).cumsum(-1)
                token = torch.searchsorted(below, draws[part], right=True)
                tokens[part] = token.clamp(max=below.shape[-1] - 1)
        total = torch.zeros_like(z)
        for drawn in tokens.T:
            losses = self._losses(leaf, drawn, "none")
            (pull,) = torch.autograd.grad(losses.sum(), leaf)
            (gradient,) = torch.autograd.grad(rows, z, pull, retain_graph=True)
            total += gradient.square()
        return total / len(uniform)

    def _read(
        self, ids: Tensor, mask: Tensor, steering: Steering | None, keep: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Teacher-forced pass: inputs of the head at the N positions without padding, (N, H).

        If the head is more than a linear map, these are the logits (N, V). Also returns the targets
        (N,) and their positions in the batch (N, 2).
        """
        if mask.shape != ids.shape:
            raise ValueError(
                f"ids and attention mask must have one shape (B, T); got {tuple(ids.shape)} and "
                f"{tuple(mask.shape)}. The mask is over the text alone, without memory slots"
            )
        if bool((mask[:, 1:] > mask[:, :-1]).any()):
            raise ValueError("expected padding on the right; got an attention mask with 0 before 1")
        counted = mask[:, 1:].bool()
        steering = steering or Steering()
        if keep is not None or steering.offset is not None or steering.prompt is not None:
            self._check_embeddings()
        # no mask, since padding on the right is invisible to causal attention
        first = first_inputs(self.lm, ids[:, :-1], steering, keep)
        inputs = steered_inputs(self.lm, steering, **first, use_cache=False)
        with quick_backward(self.device, self.embeddings.weight.dtype):
            if self._head_is_linear:
                states = self.lm.base_model(**inputs).last_hidden_state
            else:
                states = self.lm(**inputs).logits
        return states[:, steering.slots :][counted], ids[:, 1:][counted], counted.nonzero()

    def _losses(self, rows: Tensor, targets: Tensor, reduction: str) -> Tensor:
        """Cross entropy in nats of the output of `_read`."""
        if self._head_is_linear:
            return cross_entropy(self.head, rows, targets, reduction)
        return F.cross_entropy(rows.float(), targets, reduction=reduction)

    def _logits(self, rows: Tensor) -> Tensor:
        """Logits (N, V) of the output of `_read`."""
        return self.head(rows) if self._head_is_linear else rows

    @functools.cached_property
    @torch.no_grad()
    def _head_is_linear(self) -> bool:
        """Whether logits are exactly head(hidden), without a soft cap or a scale."""
        inputs: dict[str, Any] = {"input_ids": self._two_tokens(), "use_cache": False}
        with evaluating(self):
            hidden = getattr(self.lm.base_model(**inputs), "last_hidden_state", None)
            logits = self.lm(**inputs).logits
            fits = hidden is not None and hidden.shape[-1] == self.head.weight.shape[1]
            return fits and torch.equal(self.head(hidden).to(logits), logits)

    @functools.cached_property
    @torch.no_grad()
    def _reads_embeddings_alone(self) -> bool:
        """Whether embeddings in place of token ids give the same logits (not Gemma 3n and 4)."""
        ids = self._two_tokens()
        with evaluating(self):
            by_id = self.lm(input_ids=ids, use_cache=False).logits
            embeds = self.embeddings(ids)
            by_embedding = self.lm(inputs_embeds=embeds, use_cache=False).logits
            try:  # of no token
                self.lm(inputs_embeds=torch.ones_like(embeds), use_cache=False)
            except (RuntimeError, ValueError):
                return False
        return torch.allclose(by_id, by_embedding, rtol=1e-3, atol=1e-3)

    def _check_embeddings(self) -> None:
        if not self._reads_embeddings_alone:
            raise UserError(
                f"{type(self.lm).__name__} reads token ids in addition to its input embeddings, so "
                "it does not support the injections 'soft_prompt' and 'add' or word dropout. "
                "Use injection='memory' without word dropout"
            )

    def _two_tokens(self) -> Tensor:
        return torch.tensor([[self.tokens.bos, self.tokens.eos]], device=self.device)

    # ------------------------------------------------------------------ x ~ p(x|z)

    def _greedy(self) -> GenerationConfig:
        return GenerationConfig(
            bos_token_id=self.tokens.bos,
            eos_token_id=self.tokens.eos,
            pad_token_id=self.tokens.pad,
            max_new_tokens=self.max_tokens,
        )

    @property
    def is_greedy(self) -> bool:
        """Whether `generate` without options is greedy: its settings have not been changed."""
        return self.lm.generation_config == self._greedy()

    @torch.no_grad()
    def generate(self, steering: Steering, batch: int, prompt: str = "", **options: Any) -> Any:
        """Token ids generated under `steering`, by transformers' `generate`.

        Args:
            steering: Effect of the latent codes z on the decoder, for `batch` rows.
            batch: Number B of latent codes.
            prompt: Text at the start of every sentence; names of special tokens in it are text.
            **options: Arguments of `generate`. By default, greedy decoding with at most
                `max_tokens` new tokens.

        Returns:
            New tokens (B * num_return_sequences, T'), with adjacent samples of each z. With
            `return_dict_in_generate`, transformers' output with these as its `sequences`.
        """
        check_options(options)
        if not isinstance(prompt, str):
            raise UserError(f"expected a text as prompt; got {prompt!r:.40}")
        if steering.prompt is not None or steering.offset is not None:
            self._check_embeddings()
        start = [self.tokens.bos]
        if prompt:
            ids = tokenize(self.tokenizer, prompt, add_special_tokens=False, **AS_TEXT)
            start += ids["input_ids"]
        ids = torch.tensor([start] * batch, device=self.device)
        if "max_length" in options:
            options.setdefault("max_new_tokens", None)
        elif options.get("max_new_tokens", 1) is None:
            del options["max_new_tokens"]
        inputs = first_inputs(self.lm, ids, steering)
        # of embeddings, generate returns the new tokens alone
        skip = ids.shape[1] if "input_ids" in inputs else 0
        first = next(iter(inputs.values()))
        mask = torch.ones(first.shape[:2], dtype=torch.long, device=first.device)
        with evaluating(self), memory_errors("generation", _ADVICE):
            try:
                output = cast(Callable[..., Any], steered(self.lm, steering).generate)(
                    **inputs, attention_mask=mask, **options
                )
            except (ValueError, TypeError, AttributeError) as error:
                if not options:
                    raise
                raise UserError(
                    f"text cannot be generated with the options {', '.join(options)}: "
                    f"{' '.join(str(error).split())[:200]}"
                ) from error
        if isinstance(output, Tensor):
            return output[:, skip:]
        output.sequences = output.sequences[:, skip:]
        return output


def check_options(options: Mapping[str, Any]) -> None:
    """Check the options of `generate` that transformers checks late, or not at all."""
    given = {name: value for name, value in options.items() if value is not None}
    for name in ("num_return_sequences", "max_new_tokens", "max_length"):
        if name in given:
            check_int(name, given[name])
    if "num_beams" in given:
        check_int("num_beams", given["num_beams"], maximum=MAX_BEAMS)
    if "top_k" in given:
        check_int("top_k", given["top_k"], 0)
    if "temperature" in given:
        check_number("temperature", given["temperature"], MIN_TEMPERATURE)
    if "top_p" in given:
        check_number("top_p", given["top_p"], 0, 1, above=True)
    if not isinstance(given.get("do_sample", False), bool):
        raise UserError(f"do_sample must be True or False; got {given['do_sample']!r:.40}")


def _per_sentence(losses: Tensor, where: Tensor, batch: int) -> Tensor:
    return losses.new_zeros(batch).index_add(0, where[:, 0], losses)
