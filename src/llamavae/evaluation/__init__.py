"""Evaluation of a system on held-out sentences, with controls and confidence intervals."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
