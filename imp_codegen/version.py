"""The version of the compiler."""

from importlib.metadata import version

VERSION = version("imp")
"""The version of imp that is installed; part of every artifact and of every emitted source."""
