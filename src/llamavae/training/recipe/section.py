"""The base class of the groups of settings of a recipe."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(extra="forbid", validate_default=True, use_attribute_docstrings=True)
