"""The command `llamavae`. Every verb is a call of the public Python API."""

from llamavae.cli.app import main

__all__ = ["main"]
