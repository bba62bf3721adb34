"""Metrics: functions of arrays and texts that do not depend on any model class."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
