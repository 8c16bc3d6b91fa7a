"""imp's user side: the Python facade `Model`, the command line and the HTTP server."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imp_server.model import Model, TextStream

__all__ = ["Model", "TextStream"]


def __getattr__(name: str) -> object:
    """The facade, loaded when it is first used: most commands do without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from imp_server import model

    return getattr(model, name)
