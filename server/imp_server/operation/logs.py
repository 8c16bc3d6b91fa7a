"""The server's own log on stderr: a line for people, or a JSON object, per event."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from imp_runtime.text import visible
from imp_server.operation.config import LogConfig
from imp_server.operation.request_log import current


def configure(config: LogConfig) -> None:
    """Send what the server and uvicorn say to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if config.format == "json" else TextFormatter())
    for name in ("imp", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
    logging.getLogger("imp").setLevel(config.level.upper())
    # What uvicorn says beyond warnings (started, stopping, one line per request) is said better here.
    logging.getLogger("uvicorn").setLevel("DEBUG" if config.level == "debug" else "WARNING")


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """What a log call gave as `extra={"fields": {...}}`, with the id of the request it was made in."""
    given = getattr(record, "fields", {})
    request = current.get()
    return {"request_id": request.id, **given} if request is not None else dict(given)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        entry: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        entry |= {name: value for name, value in _fields(record).items() if value is not None}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return visible(json.dumps(entry, ensure_ascii=False, default=str))


class TextFormatter(logging.Formatter):
    """Time, level, message, then name=value. Only a record's first line begins in the first column."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, with a traceback where there is one."""
        fields = " ".join(f"{name}={_value(value)}" for name, value in _fields(record).items() if value is not None)
        line = f"{_time(record)} {record.levelname:<7} {record.getMessage()}{'  ' + fields if fields else ''}"
        trace = self.formatException(record.exc_info).splitlines() if record.exc_info else []
        return "\n".join((visible(line), *(f"    {visible(each)}" for each in trace)))


def _value(value: object) -> str:
    """As it is, or in quotes where it could be taken for more than one field."""
    text = str(value)
    return text if not set(text) & set(' ="') else json.dumps(text, ensure_ascii=False)
