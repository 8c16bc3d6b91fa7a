"""imp's user side: the Python facade `Model`, the command line and the HTTP server."""

from imp_server.model import Model, TextStream

__all__ = ["Model", "TextStream"]
