"""A web service: embeddings, decoding and movements in the latent space over HTTP.

Needs the extra `serve`: `pip install 'llamavae[serve]'`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
