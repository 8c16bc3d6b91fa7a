"""Models without a format of their own for tools: reasoning is cut off, all else is content."""

from __future__ import annotations

from imp_server.parsers.family import Family
from imp_server.parsers.reader import Reader
from imp_server.parsers.text import Steps


class PlainReader(Reader):
    """Content only."""

    def calls(self) -> Steps[None]:
        """See Reader."""
        yield from self.until((), self.visible)


FAMILY = Family("plain", PlainReader, None, marks=())
