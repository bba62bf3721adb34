"""Baselines of guided generation, with the same interface as the invertible CVAE.

Each has `generate(conditions, n, spread, seed, **options)`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
