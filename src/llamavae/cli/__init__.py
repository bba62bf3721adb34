"""The command `llamavae`. Its subcommands call the public Python API."""

from llamavae.cli.app import main

__all__ = ["main"]
