"""The record of one HTTP request, and the JSONL file that keeps them."""

from __future__ import annotations

import json
import logging
import os
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from imp_runtime.text import visible
from imp_server.operation.config import ConfigError

log = logging.getLogger("imp")


@dataclass(slots=True)
class Record:
    """What is known of a request; it grows until the response has ended. Times are in seconds.

    `path` is percent-encoded, as it comes over HTTP.
    """

    id: str
    method: str
    path: str
    client: str
    began: float = field(default_factory=time.monotonic)
    status: int = 499
    first_byte: float | None = None
    seconds: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    finish: str | None = None

    def fields(self) -> dict[str, object]:
        """The record as JSON values; numbers of tokens only where there was a generation."""
        found: dict[str, object] = {
            "request_id": self.id,
            "client": self.client,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "seconds": round(self.seconds, 4),
        }
        if self.first_byte is not None:
            found["first_byte_seconds"] = round(self.first_byte, 4)
        if self.prompt_tokens:
            found |= {
                "prompt_tokens": self.prompt_tokens,
                "cached_tokens": self.cached_tokens,
                "completion_tokens": self.completion_tokens,
                "finish": self.finish,
            }
        return found


current: ContextVar[Record | None] = ContextVar("imp_request", default=None)


class RequestLog:
    """Appends one JSON object per request to a file that only its owner reads. Raises ConfigError when it cannot."""

    def __init__(self, path: str, *, bodies: bool) -> None:
        self.bodies = bodies
        self._path = path
        self._healthy = True
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}; log.requests names a file to append to") from None

    def write(self, record: Record, request: bytes, response: bytes) -> None:
        """Append a record; with `bodies` JSON as JSON, anything else (a stream of events) as text."""
        entry: dict[str, object] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **record.fields()}
        if self.bodies:
            entry |= {"request": _shown(request), "response": _shown(response)}
        line = visible(json.dumps(entry, ensure_ascii=False, separators=(",", ":"))).encode() + b"\n"
        try:
            os.write(self._file, line)  # one call a line: several servers may share a file
            self._healthy = True
        except OSError as error:  # a full disk must not end the service; it is said once
            if self._healthy:
                log.error("%s: %s; requests are not recorded", self._path, error.strerror)
            self._healthy = False

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _shown(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace")
