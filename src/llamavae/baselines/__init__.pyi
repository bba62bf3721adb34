from .cvae import ConditionalVAE as ConditionalVAE
from .nearest import NearestNeighbour as NearestNeighbour
from .prompted import PromptedDecoder as PromptedDecoder
from .tuned import TunedDecoder as TunedDecoder
