"""A page in the browser that shows and moves through the latent space of a model.

Needs the extra `serve`: `pip install 'llamavae[serve]'`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
