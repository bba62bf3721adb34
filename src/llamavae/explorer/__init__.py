"""A page in the browser that shows and moves through the latent space of a model.

Needs the extra `serve`: `pip install 'llamavae[serve]'`.
"""

from llamavae.explorer.routes import create_explorer
from llamavae.explorer.space import Layout, Space

__all__ = ["Layout", "Space", "create_explorer"]
