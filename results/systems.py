"""Texts of the systems that are compared on reconstruction, as files of predictions.

    python -m results.systems vae --model small --corpus worldtree --output FILE
    python -m results.systems vae --model small --refine 20 --corpus worldtree --output FILE
    python -m results.systems vae --model small --refine 20 --from-prior --output FILE
    python -m results.systems nearest --corpus worldtree --output FILE
    python -m results.systems prompted --corpus worldtree --output FILE

`vae` decodes the posterior mean of each test sentence greedily, or with --sample one draw of tokens
at temperature 1. With --from-prior, refinement starts from the mean of the prior instead of the
encoder's code, so the encoder is not used. `nearest` answers with the training sentence whose
vector has the highest cosine with that of the sentence. `prompted` asks a language model for a
paraphrase; it reads the sentence itself, so it has no latent space. The control of an item is the
text of another item (shuffled).

A file next to the output, `NAME.cost.json`, has the processor seconds per sentence and the peak
memory. The seconds contain neither the imports nor the loading of the model. For a VAE, it also has
the number of weights of the decoder.
"""

from __future__ import annotations

import argparse
import random
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llamavae import LlaMaVAE
from llamavae.baselines import PromptedDecoder
from llamavae.corpora import load_corpus
from llamavae.evaluation import Prediction, Predictions, write_predictions
from llamavae.evaluation.evaluators.reconstruction import decode_by_length
from llamavae.files import write_json
from llamavae.latent import nearest_neighbours
from llamavae.metrics.control import derangement
from llamavae.modeling import TextDecoder
from llamavae.modeling.loading import load_sentence_encoder

PROMPTS = {
    "example": (
        "Paraphrase the sentence.\nSentence: a puppy is a young dog\nParaphrase: a young dog is "
        "called a puppy\nSentence: {word}\nParaphrase:"
    ),
    "bare": "Sentence: {word}\nThe same in other words:",
    "chat": (
        "<|im_start|>user\nParaphrase this sentence in one line: {word}<|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
}
"""Prompts for a paraphrase, by name."""

System = Callable[[Sequence[str]], list[str]]
"""From sentences to the texts of a system."""


@dataclass
class _Decoder:
    """A VAE that decodes with options of `generate`."""

    model: LlaMaVAE
    options: dict[str, Any]

    def decode(self, z: torch.Tensor) -> list[str]:
        return self.model.decode(z, **self.options)


def vae_system(
    model: LlaMaVAE, refine: int = 0, from_prior: bool = False, sample: bool = False, seed: int = 0
) -> System:
    """Encode, and decode the posterior means.

    Args:
        model: The VAE.
        refine: Steps of refinement of the codes.
        from_prior: Refine the mean of the prior instead of the encoder's codes.
        sample: Sample tokens at temperature 1.
        seed: Seed of these tokens.
    """
    options = {"do_sample": True, "temperature": 1.0} if sample else {}
    decoder = _Decoder(model, options)

    def texts(sentences: Sequence[str]) -> list[str]:
        if refine:
            start = torch.zeros(len(sentences), model.config.latent_dim) if from_prior else None
            z = model.refine(sentences, refine, start=start).mean
        else:
            z = model.encode(sentences).mean
        torch.manual_seed(seed)  # of sampled tokens
        lengths = [len(sentence) for sentence in sentences]
        return decode_by_length(decoder, z, lengths, progress=True)

    return texts


def nearest_system(encoder: str, training: Sequence[str]) -> System:
    """The training sentence nearest to each sentence."""
    model = load_sentence_encoder(encoder)
    known = model.encode(list(training))

    def texts(sentences: Sequence[str]) -> list[str]:
        _, index = nearest_neighbours(model.encode(list(sentences)), known, 1)
        return [training[int(i)] for i in index[:, 0]]

    return texts


def prompted_system(decoder: str, prompt: str) -> System:
    """A paraphrase by a prompted language model."""
    model = PromptedDecoder(TextDecoder.load(decoder, max_tokens=40), PROMPTS[prompt])

    def texts(sentences: Sequence[str]) -> list[str]:
        return [text.strip() for text in model.generate(sentences, max_new_tokens=40)]

    return texts


def main() -> None:
    """Write the texts of one system."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("kind", choices=("vae", "nearest", "prompted"))
    parser.add_argument("--model", default="small", help="VAE of `vae`")
    parser.add_argument("--refine", type=int, default=0, help="steps of refinement of the codes")
    parser.add_argument("--from-prior", action="store_true", help="refine without the encoder")
    parser.add_argument("--sample", action="store_true", help="sample tokens at temperature 1")
    parser.add_argument("--encoder", default="all-minilm-l6-v2", help="sentence encoder")
    parser.add_argument("--decoder", default="smollm2-135m-instruct", help="language model")
    parser.add_argument("--prompt", choices=PROMPTS, default="example")
    parser.add_argument("--corpus", default="worldtree")
    parser.add_argument("--split", default="test")
    parser.add_argument("--max-words", type=int, default=None)
    parser.add_argument(
        "--limit", type=int, default=None, help="number of sentences, with the seed"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default=None, help="name of the system")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()

    options = {} if given.max_words is None else {"max_words": given.max_words}
    split = None if given.split == "all" else given.split
    sentences = list(load_corpus(given.corpus, split, **options)["text"])
    chosen = list(range(len(sentences)))
    if given.limit is not None and given.limit < len(sentences):
        chosen = sorted(random.Random(given.seed).sample(chosen, given.limit))
    asked = [sentences[i] for i in chosen]
    weights = {}
    if given.kind == "vae":
        model = LlaMaVAE.from_pretrained(given.model)
        weights["decoder weights"] = sum(weight.numel() for weight in model.decoder.parameters())
        system = vae_system(model, given.refine, given.from_prior, given.sample, given.seed)
    elif given.kind == "nearest":
        training = list(load_corpus(given.corpus, "train", **options)["text"])
        system = nearest_system(given.encoder, training)
    else:
        system = prompted_system(given.decoder, given.prompt)
    start = time.process_time()
    texts = system(asked)
    seconds = time.process_time() - start
    other = derangement(len(asked), torch.Generator().manual_seed(given.seed), asked).tolist()
    items = [
        Prediction(str(i), text, (sentence,), texts[j])
        for i, sentence, text, j in zip(chosen, asked, texts, other, strict=True)
    ]
    given.output.parent.mkdir(parents=True, exist_ok=True)
    about = {"task": "reconstruction", "benchmark": given.corpus, "split": given.split}
    write_predictions(Predictions(items, given.name or given.kind, **about), given.output)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cost = {"processor seconds per sentence": seconds / len(asked), "peak memory": peak, **weights}
    write_json(given.output.with_suffix(".cost.json"), cost)


if __name__ == "__main__":
    main()
