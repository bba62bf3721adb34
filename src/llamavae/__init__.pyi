from .guidance import InvertibleCVAE as InvertibleCVAE
from .modeling import LlaMaVAE as LlaMaVAE
from .modeling import LlaMaVAEConfig as LlaMaVAEConfig

__all__: list[str]
__version__: str
