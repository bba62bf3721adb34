"""Named corpora and the user's own files: sentences, definitions, pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamavae.lazy import lazy_names

if TYPE_CHECKING:
    from llamavae.corpora.registry import corpus_names, describe_corpora, load_corpus

__all__ = ["corpus_names", "describe_corpora", "load_corpus"]

__getattr__, __dir__ = lazy_names(
    __name__, {"llamavae.corpora.registry": ["corpus_names", "describe_corpora", "load_corpus"]}
)
