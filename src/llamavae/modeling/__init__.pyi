from .configuration import LlaMaVAEConfig as LlaMaVAEConfig
from .decoder import TextDecoder as TextDecoder
from .encoder import SentenceEncoder as SentenceEncoder
from .encoder import TransformersEncoder as TransformersEncoder
from .injection import Injection as Injection
from .injection import Steering as Steering
from .injection import steered as steered
from .llamavae import LlaMaVAE as LlaMaVAE
from .llamavae import LlaMaVAEOutput as LlaMaVAEOutput
from .loading import load_sentence_encoder as load_sentence_encoder
from .posterior import (
    DiagonalGaussian as DiagonalGaussian,
)
from .posterior import (
    Posterior as Posterior,
)
from .posterior import (
    kl_term as kl_term,
)
from .prior import (
    FlowPrior as FlowPrior,
)
from .prior import (
    MixturePrior as MixturePrior,
)
from .prior import (
    Prior as Prior,
)
from .prior import (
    StandardPrior as StandardPrior,
)
from .prior import (
    load_prior as load_prior,
)
from .refine import Refinement as Refinement
from .refine import aggregate as aggregate
