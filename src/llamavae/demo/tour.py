"""Examples of what a pretrained model does."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llamavae.metrics.metric import Rows
from llamavae.modeling import LlaMaVAE

SEED = 1
_REFINED = 20  # steps

_PLAIN = (
    "a dog is a kind of animal",
    "a person who plays the violin",
    "the act of making something more beautiful",
    "plants require sunlight to grow",
    "someone who repairs old clocks",
)
_HARD = (
    "Anna paid 34 dollars for two tickets to Berlin",
    "Marie Curie was born in Warsaw in 1867",
    "the meeting on Thursday was moved to room 217",
    "our neighbour's grey cat has been asleep on the garage roof since noon",
    "he bought three loaves of bread, a pound of butter and a dozen eggs",
)
_ENDS = ("a small bird that lives in trees", "a person who plays the violin")
_ANALOGIES = (
    ("a person who plays the violin", "a person who plays music", "a person who paints pictures"),
    ("a dog is a kind of animal", "a dog barks", "a cat sleeps"),
    ("the boy opened the door", "the boy opens the door", "the girl closes the window"),
)


@dataclass(frozen=True)
class Example:
    """An example of model output, with an explanation."""

    name: str
    rows: Rows
    seen: str


def tour(model: LlaMaVAE) -> Iterator[Example]:
    """Examples of all operations of a model, each computed when it is reached."""
    for example in (_reconstruct, _refine, _interpolate, _arithmetic, _sample):
        yield example(model)


def prior_of(model: LlaMaVAE) -> str:
    """The prior that the model samples from."""
    return "N(0, I)" if model.default_prior is None else model.default_prior.kind


def interpolations(model: LlaMaVAE, pairs: Sequence[tuple[str, str]], steps: int = 9) -> Rows:
    """Sentences on the straight lines between the posterior means of pairs of sentences.

    Row: `pair` (from 1), `position` on the line (0 to 1), `text`.
    """
    return [
        {"pair": number, "position": round(step / (steps - 1), 3), "text": text}
        for number, (a, b) in enumerate(pairs, 1)
        for step, text in enumerate(model.interpolate(a, b, steps))
    ]


def _reconstruct(model: LlaMaVAE) -> Example:
    right = model.reconstruct(list(_PLAIN))
    return Example(
        "reconstruct",
        [
            {"text": text, "reconstruction": own, "shuffled": other}
            for text, own, other in zip(_PLAIN, right, right[1:] + right[:1], strict=True)
        ],
        f"Each sentence is encoded as a latent code z of {model.config.latent_dim} numbers and "
        "decoded from z alone. Shuffled is the control: the text decoded from the z of the next "
        "sentence.",
    )


def _refine(model: LlaMaVAE) -> Example:
    texts = list(_HARD)
    begin = time.perf_counter()
    refined = model.refine(texts, steps=_REFINED, variance=False)
    seconds = time.perf_counter() - begin
    before, after = model.reconstruct(texts), model.decode(refined.mean)
    rows = [
        {"text": text, "encoder": guess, "refined": better}
        for text, guess, better in zip(texts, before, after, strict=True)
    ]
    exact = {key: sum(row[key] == row["text"] for row in rows) for key in ("encoder", "refined")}
    return Example(
        f"refine, {_REFINED} steps",
        rows,
        "Names, numbers and long sentences. Refinement improves the z of the encoder for each "
        f"sentence by up to {_REFINED} gradient steps, with the model frozen. Exact: "
        f"{exact['encoder']} of {len(texts)} before, {exact['refined']} after, in {seconds:.1f} "
        "seconds.",
    )


def _interpolate(model: LlaMaVAE) -> Example:
    rows = interpolations(model, [_ENDS], steps=7)
    seen = "Latent codes on the straight line from one sentence to another."
    shown = [{name: row[name] for name in ("position", "text")} for row in rows]
    return Example("interpolate", shown, seen)


def _arithmetic(model: LlaMaVAE) -> Example:
    return Example(
        "arithmetic",
        [
            {"a": a, "- b": b, "+ c": c, "text": model.arithmetic(a, b, c)[0]}
            for a, b, c in _ANALOGIES
        ],
        "The text decoded from a - b + c of the latent codes. Whether such a difference is "
        "meaningful depends on the sentences.",
    )


def _sample(model: LlaMaVAE) -> Example:
    prior = prior_of(model)
    if model.default_prior is not None:
        prior = f"the prior ({prior}) that was fitted to training sentences"
    return Example(
        "sample",
        [{"text": text} for text in model.sample(6, seed=SEED)],
        f"Latent codes drawn from {prior}, decoded greedily; not selected.",
    )
