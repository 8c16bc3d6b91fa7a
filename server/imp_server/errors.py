"""Errors that the server tells a client, in the shape of the API that was asked."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from imp_runtime.errors import ImpError

WRONG_METHOD = "this path does not take that method"


class ApiError(ImpError):
    """`status` is the HTTP status; `kind`, `param` and `code` are `type`, `param` and `code` of OpenAI's error object.

    `details` are further fields of it.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        details: Mapping[str, JsonValue] | None = None,
    ) -> None:
        super().__init__(" ".join(message.split()))
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.details = details or {}


class ContextExceededError(ApiError):
    """The prompt leaves no room for an answer; both numbers in tokens."""

    def __init__(self, prompt_tokens: int, context: int) -> None:
        super().__init__(
            # In the words of OpenAI's servers and llama-server, by which clients know that they have to shorten it.
            f"This model's maximum context length is {context} tokens, answer included. However, the prompt has "
            f"{prompt_tokens} and exceeds the available context size; shorten it",
            code="context_length_exceeded",
            details={"n_prompt_tokens": prompt_tokens, "n_ctx": context},
        )
        self.prompt_tokens = prompt_tokens
        self.context = context


_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_ANTHROPIC_PATHS = ("/v1/messages", "/messages")


def speaks_anthropic(path: str) -> bool:
    """Whether errors at `path` leave in Anthropic's shape."""
    return any(path == each or path.startswith(f"{each}/") for each in _ANTHROPIC_PATHS)


def openai_error(error: ApiError, kind: str | None = None) -> dict[str, JsonValue]:
    """OpenAI's error object; `kind` instead of the error's own type."""
    body: dict[str, JsonValue] = {
        "message": str(error),
        "type": kind or error.kind,
        "param": error.param,
        "code": error.code,
        **error.details,
    }
    return {"error": body}


def anthropic_error(error: ApiError, request_id: str | None = None) -> dict[str, JsonValue]:
    """Anthropic's error object (https://docs.anthropic.com/en/api/errors)."""
    kind = _ANTHROPIC_TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    message = str(error)
    if isinstance(error, ContextExceededError):
        # In Anthropic's words, by which Claude Code knows that it has to shorten the conversation, and by how much.
        message = f"prompt is too long: {error.prompt_tokens} tokens > {error.context - 1} maximum"
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}


def error_response(path: str, error: ApiError, request_id: str | None = None) -> tuple[int, dict[str, JsonValue]]:
    """Status and body of the answer to a request for `path`.

    Anthropic says 529 where others say 503. Paths without /v1 are llama-server's, which has a type of its own for
    prompts that are too long.
    """
    if speaks_anthropic(path):
        return 529 if error.status == 503 else error.status, anthropic_error(error, request_id)
    if isinstance(error, ContextExceededError) and not path.startswith("/v1/"):
        return error.status, openai_error(error, kind="exceed_context_size_error")
    return error.status, openai_error(error)
