"""What guided generation is compared with: generators of text for a condition, all called alike.

Each has `generate(asked, n, spread, seed, **options)`, as the invertible CVAE has.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
