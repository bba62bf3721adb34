"""Guided generation: flows that map conditions to latent codes of a VAE."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
