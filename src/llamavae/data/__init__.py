"""Data: sentences that are tokenised and encoded once, cached on disk, and batched by length."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
