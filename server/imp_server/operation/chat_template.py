"""The file of a chat template that stands in place of the model's."""

from __future__ import annotations

from pathlib import Path

from imp_server.operation.config import ConfigError, ServerConfig


def read_template(config: ServerConfig) -> str | None:
    """The source of the template, where a file is named. Raises ConfigError."""
    path = config.chat_template
    if path is None:
        return None
    try:
        return Path(path).read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"--chat-template {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"--chat-template {path} is no text in UTF-8: byte {error.start}") from None
