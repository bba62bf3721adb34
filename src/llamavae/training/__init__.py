"""Training: recipes, objective schedules, diagnostics and the trainer.

torch and transformers are loaded when `train` is first used; recipes do without them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
