"""Named corpora and the user's own files: sentences, definitions, pairs."""

from __future__ import annotations

from llamavae.corpora.registry import corpus_names, describe_corpora, load_corpus

__all__ = ["corpus_names", "describe_corpora", "load_corpus"]
