"""The wording of docstrings, comments and messages: phrases that have a plainer form.

Each entry is a regular expression of a phrase and its replacement. White space in a phrase matches
any white space, so that phrases across line breaks are found.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHECKED = (
    ("src/llamavae", "*.py"),
    ("src/llamavae/recipes", "*.yaml"),
    ("docs", "*.md"),
    ("pretrained", "*.py"),
    ("benchmarks", "*.py"),
    ("results", "*.py"),
    ("results", "*.yaml"),
    ("results", "*.md"),
    (".", "README.md"),
    (".", "CONTRIBUTING.md"),
)
"""Folders that are checked, with the pattern of their files."""
PHRASES = {
    # personification and metaphors
    r"in the eyes of": "according to",
    r"dealt out": "shuffled",
    r"tells? (?:apart|chance from)": "distinguishes",
    r"none special": "not special",
    r"know(?:s)? no (?:model|context|condition)": "does not depend on, or does not support",
    r"learn\w* by heart": "memorise",
    r"(?:is|are) welcome": "is allowed",
    r"what (?:was|is|are|were) asked": "the condition, or the requested value",
    r"(?:is|are|was|were) asked for": "requested",
    r"asked of": "required of",
    r"bears? (?:the|their|its) name": "is labelled",
    r"look(?:s|ed|ing)? at the held-out": "evaluates on the held-out data",
    r"(?:\d|each|the last|two|many) looks?\b": "evaluation",
    r"are looked at": "are used",
    r"held against": "compared with",
    # literal translations
    r"for want of": "without",
    r"as it stands": "unchanged",
    r"stays? as (?:it|they) (?:is|are|was|were)": "is not changed",
    r"goes? on (?:from|after|with)": "resumes from, or continues with",
    r"(?:is|are|was) there (?:already|before)": "already exists",
    r"not there any ?more": "does not exist",
    r"(?:is|are|lies|lie) beside": "next to",
    r"saved beside": "saved in its own folder",
    r"by turns": "alternately",
    r"made ready": "prepared",
    r"(?:gives?|takes?) the (?:lie|way) to": "contradicts",
    r"one a (?:line|row|file|number|model)": "one per line, row, file, value or model",
    r"one row a ": "one row per ",
    r"(?:numbers|vector|sentence|definition|object) a (?:row|line)\b": "... per row, or per line",
    r"nats a dimension": "nats per dimension",
    r"(?:condition|word|z) side by side": "adjacent",
    r"shall\b": "must, or the present tense",
    r"make room": "free some disk space",
    r"is cut off": "is truncated",
    r"and (?:was|were) cut\b": "and were truncated",
    r"(?:is|are|were) left out": "is excluded, or skipped",
    r"leaves? it out": "skips it",
    r"anything with `": "any object with `",
    r"anything (?:transformers' )?`generate` takes": "arguments of `generate`",
    r"things that the condition understands": "conditions",
    r"pass the (?:encoder|decoder|model|flow)(?:, or the decoder,)? together": "per forward pass",
    r"words? (?:are |is )?(?:taken )?by white space": "split at white space",
    r"white space aside": "up to white space",
    r"(?:is|are|was|were) made from scratch|, made from scratch": "trained from scratch",
    r"What the \w+ says": "a noun, such as Warnings of the monitor",
    r"[Hh]ow it was made": "Training run",
    r"[Bb]eside (?:it|them) [\d{]": "in addition",
    r"comes? back (?:as|changed|wrong)": "is reconstructed as",
    r"evaluators that run": "selected evaluators",
    r"knows? (?:its|the) (?:corpus|publisher|new name)": "uses, or is limited to",
    r"(?:is|are) of use in": "is used in",
    # imprecise quantities
    r"(?::|^) Most (?:tokens|sentences|pairs|steps|models|texts|rows|panels)": "Maximum number of",
    r"[Aa]t most this many": "Maximum number of",
    r"least (?:value|distance|variance) (?:of|in|to)": "minimum",
    r"[Ss]hare of (?:texts|sentences|items|test|held-out|the neighbours|steps)": "proportion of",
    r"how (?:many|much) (?:words|of the) texts? ": "number of",
    r"as large by chance alone": "by chance",
    # terms
    r"[Gg]ive (?:--|its new|the (?:folder|file|backbones)|a (?:file|folder|corpus)\b)": "pass",
    r"under (?:correct and )?shuffled z": "with shuffled z",
    r"data sets?\b": "dataset",
    r"(?:primary|all|two|these|other) measures?\b": "metric",
    r"the measure of (?:some|given|these)": "the metric over",
    r"what (?:was|is) written (?:for|from)": "the prediction, or the decoded text",
    r"what (?:a|the) (?:system|model) wrote": "the generated text, or the prediction",
    r"points? \(N, D\), at": "latent codes (N, D), at",
    r"points? z\b": "latent codes z",
    r"drawn anew": "drawn again",
    r"Bootstrap samples of an interval": "Number of bootstrap samples",
    r"come(?:s)? with the library": "bundled",
    r"Turns what is asked": "Encodes conditions",
    r"made if missing": "created if missing",
    r"repeatable": "reproducible",
    r"says? what to do": "instructive",
    r"no longer (?:there|here)": "does not exist",
    r"in place of one that is there": "replaces an existing file",
    r"Refuse (?:a|an|names|values|unknown)\b": "Raise an error for",
    r"(?:is|are) held between two numbers": "is bounded by",
    r"Where to(?:;|\.)": "Destination folder",
}


def _files() -> list[Path]:
    return [
        file
        for folder, names in CHECKED
        for file in sorted((ROOT / folder).glob(names if folder == "." else f"**/{names}"))
    ]


def _pattern(phrase: str) -> re.Pattern[str]:
    gap = r'(?:\s*"\s+f?"\s*|\s+(?:#\s+)?)'  # also between lines of a string or a comment
    return re.compile(phrase.replace(" ", gap), re.MULTILINE | re.IGNORECASE)


@pytest.mark.parametrize("phrase", PHRASES)
def test_plain_english(phrase):
    pattern, found = _pattern(phrase), []
    for file in _files():
        text = file.read_text(encoding="utf-8")
        found += [
            f"{file.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]!r}"
            for match in pattern.finditer(text)
        ]
    assert not found, f"write {PHRASES[phrase]!r} instead:\n" + "\n".join(found)


def test_phrases_across_a_line_break_are_found():
    assert _pattern("in the eyes of").search('"in the "\n    "eyes of a distance"')


def test_there_are_files_to_check():
    assert len(_files()) > 50
