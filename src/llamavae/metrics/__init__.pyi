from .bootstrap import (
    bootstrap_interval as bootstrap_interval,
)
from .bootstrap import (
    paired_bootstrap as paired_bootstrap,
)
from .control import derangement as derangement
from .correlation import pearson as pearson
from .correlation import spearman as spearman
from .latent import (
    active_units as active_units,
)
from .latent import (
    iso_score as iso_score,
)
from .latent import (
    mean_cosine as mean_cosine,
)
from .latent import (
    mutual_information as mutual_information,
)
from .latent import (
    posterior_variance as posterior_variance,
)
from .metric import Metric as Metric
from .ngrams import (
    bleu_1 as bleu_1,
)
from .ngrams import (
    corpus_bleu as corpus_bleu,
)
from .ngrams import (
    distinct_n as distinct_n,
)
from .ngrams import (
    exact_match as exact_match,
)
from .ngrams import (
    rouge as rouge,
)
from .ngrams import (
    self_bleu as self_bleu,
)
from .ngrams import (
    token_f1 as token_f1,
)
from .semantic import (
    bert_score as bert_score,
)
from .semantic import (
    bleurt as bleurt,
)
from .semantic import (
    encoder_cosine as encoder_cosine,
)
from .semantic import (
    mover_score as mover_score,
)
