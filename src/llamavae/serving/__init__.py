"""A web service: embeddings, decoding and movements in the latent space over HTTP.

Needs the extra `serve`: `pip install 'llamavae[serve]'`.
"""

from llamavae.serving.app import create_app
from llamavae.serving.limits import Limits

__all__ = ["Limits", "create_app"]
