"""Sentence VAEs on pretrained encoders and decoders: text to a small continuous space and back.

Importing this package is quick; the names below load torch and transformers when first used.
"""

from importlib.metadata import version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = version("llamavae")
