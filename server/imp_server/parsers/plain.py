"""Models without a format of their own for tools: reasoning is cut off, all else is content."""

from __future__ import annotations

from imp_server.parsers.family import Family
from imp_server.parsers.reader import Reader

FAMILY = Family("plain", Reader, None, marks=())
