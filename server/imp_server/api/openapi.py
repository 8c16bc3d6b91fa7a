"""The OpenAPI description of the server's own paths."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, JsonValue
from pydantic.json_schema import models_json_schema


def description(bodies: Mapping[str, type[BaseModel]], gets: tuple[str, ...], version: str) -> dict[str, JsonValue]:
    """OpenAPI 3.1: `bodies` are the paths that take a POST with their bodies, `gets` those that take a GET."""
    models, definitions = models_json_schema(
        [(body, "validation") for body in dict.fromkeys(bodies.values())], ref_template="#/components/schemas/{model}"
    )
    answers: dict[str, JsonValue] = {
        "200": {"description": "The answer, or a stream of server-sent events."},
        "default": {"description": "An error in the shape of this API."},
    }
    paths: dict[str, JsonValue] = {path: {"get": {"responses": answers}} for path in gets}
    for path, body in bodies.items():
        content: JsonValue = {"application/json": {"schema": models[body, "validation"]}}
        paths[path] = {"post": {"requestBody": {"required": True, "content": content}, "responses": answers}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "imp", "version": version},
        "paths": paths,
        "components": {"schemas": definitions.get("$defs", {})},
    }
