from .registry import corpus_names as corpus_names
from .registry import describe_corpora as describe_corpora
from .registry import load_corpus as load_corpus
