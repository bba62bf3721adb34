"""The prompting baseline: a language model without a latent space and without training."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from string import Formatter
from typing import Any, cast, final

import torch
from torch import Tensor

from llamavae.errors import UserError, check_number
from llamavae.guidance.sampling import check_draws, seeded
from llamavae.modeling import TextDecoder
from llamavae.modeling.tokenizing import tokenize
from llamavae.modes import evaluating

_FIELDS = [["word", "", None], ["context", "", None]]  # name, format, conversion


@final
class PromptedDecoder:
    """Continues a prompt that contains the word, as in Brown et al., arXiv 2005.14165.

    A text ends at its first line break, since a model that was not trained on single sentences
    continues with further lines.

    Args:
        decoder: A causal language model, or the folder, name or hub id that `TextDecoder.load`
            loads it from. Only the language model of a VAE's decoder is used.
        template: The prompt, with `{word}` and, for (word, context) pairs, `{context}`. It can
            contain examples of the task in preceding lines. It should not end with a space, since
            most tokenizers join a space with the following word.

    Raises:
        UserError: The template lacks `{word}`, or has another field.
    """

    def __init__(
        self, decoder: TextDecoder | str | os.PathLike[str], template: str = "{word}:"
    ) -> None:
        try:
            parts = [part for _, *part in Formatter().parse(template) if part[0] is not None]
        except ValueError as error:
            raise UserError(f"the template {template!r} cannot be read: {error}") from error
        if _FIELDS[0] not in parts or any(part not in _FIELDS for part in parts):
            raise UserError(
                "expected a template with {word}, optionally {context}, and no other field; got "
                f"{template!r}"
            )
        self.decoder = decoder if isinstance(decoder, TextDecoder) else TextDecoder.load(decoder)
        self.template = template
        self._with_context = _FIELDS[1] in parts

    @torch.no_grad()
    def generate(
        self,
        conditions: Sequence[Any] | Tensor,
        n: int = 1,
        spread: float = 1.0,
        seed: int | None = None,
        batch_size: int = 64,
        *,
        temperature: float | None = None,
        **options: Any,
    ) -> list[str]:
        """The continuation of each prompt, without the prompt.

        There is no latent space, so several texts of a condition differ by their sampled tokens.

        Args:
            conditions: B words or (word, context) pairs; a context may be None.
            n: Number of texts per condition.
            spread: Ignored, since there are no latent codes.
            seed: Makes sampling reproducible for the same `conditions` and `batch_size`; None uses
                torch's default generator.
            batch_size: Number of prompts per batch; a batch has prompts of equal length in tokens,
                so that no padding is needed.
            temperature: Temperature of the sampled tokens. None decodes one text greedily, and
                samples several at temperature 1.
            **options: Arguments of transformers' `generate`.

        Returns:
            B * n texts; the texts of one word are adjacent.

        Raises:
            UserError: The conditions are not words, or lack the context required by the template.
        """
        check_draws(n, spread)
        rows = self.tokenize(conditions)
        if temperature is None and n > 1:
            temperature = 1.0
        if temperature is not None:
            check_number("temperature", temperature, above=True)
            options = {"do_sample": True, "temperature": float(temperature), **options}
        options["num_return_sequences"] = n
        if "max_length" in options:
            options.setdefault("max_new_tokens", None)
        texts = [""] * (len(rows) * n)
        with evaluating(self.decoder), seeded(seed, self.decoder.device):
            for part in _batches([len(row) for row in rows], batch_size):
                predictions = self._continue([rows[i] for i in part], options)
                for k, i in enumerate(part):
                    texts[i * n : (i + 1) * n] = predictions[k * n : (k + 1) * n]
        return texts

    def tokenize(self, conditions: Sequence[Any] | Tensor) -> list[list[int]]:
        """Token ids of the prompts of B conditions, each with the bos token.

        Raises:
            UserError: As for `generate`.
        """
        return [self._ids(prompt) for prompt in self._prompts(conditions)]

    def _prompts(self, conditions: Sequence[Any] | Tensor) -> Iterator[str]:
        if isinstance(conditions, str | Tensor):
            raise UserError(
                "expected a list of words or (word, context) pairs; got a "
                f"{type(conditions).__name__}"
            )
        for one in conditions:
            match one:
                case (str() as word) | (str() as word, None):
                    if self._with_context:
                        raise UserError(
                            f"the template {self.template!r} needs (word, context) pairs; got the "
                            f"word {word!r} alone"
                        )
                    yield self.template.format(word=word)
                case (str() as word, str() as context):
                    yield self.template.format(word=word, context=context)
                case _:
                    raise UserError(f"expected a word or a (word, context) pair; got {one!r}")

    def _ids(self, prompt: str) -> list[int]:
        decoder = self.decoder
        ids = tokenize(decoder.tokenizer, prompt, add_special_tokens=False)["input_ids"]
        return [decoder.tokens.bos, *cast(list[int], ids)]

    def _continue(self, rows: list[list[int]], options: dict[str, Any]) -> list[str]:
        """First lines of the continuations of prompts (B, T) of equal length."""
        ids = torch.tensor(rows, device=self.decoder.device)
        output = cast(Callable[..., Any], self.decoder.lm.generate)(
            input_ids=ids, attention_mask=torch.ones_like(ids), **options
        )
        new = getattr(output, "sequences", output)[:, ids.shape[1] :]
        return [text.partition("\n")[0] for text in self.decoder.texts(new)]


def _batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of equal length."""
    groups: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        groups.setdefault(length, []).append(i)
    for group in groups.values():
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]
