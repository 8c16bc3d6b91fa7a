"""Body of OpenAI's /v1/embeddings and llama-server's /embedding.

Shapes from https://platform.openai.com/docs/api-reference/embeddings and llama.cpp's tools/server/README.md.
"""

from __future__ import annotations

from typing import Literal

from imp_server.api.bodies.fields import Int32, Strict
from imp_server.api.bodies.prompts import Prompts
from imp_server.errors import ApiError


class EmbeddingBody(Strict):
    """POST /v1/embeddings, /embedding and /embeddings; llama-server calls the field `content`."""

    model: str | None = None
    input: Prompts | None = None
    content: Prompts | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Int32 | None = None

    @property
    def texts(self) -> tuple[str, Prompts]:
        """Name of the field, and what to embed. Raises ApiError unless it is there once."""
        given = [
            (name, value) for name, value in (("input", self.input), ("content", self.content)) if value is not None
        ]
        if len(given) != 1:
            raise ApiError("send input (or content, as llama-server calls it): a text or token ids", param="input")
        return given[0]
