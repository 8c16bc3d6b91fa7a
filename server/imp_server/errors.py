"""Errors that the server tells a client: HTTP status and the fields of OpenAI's error object."""

from __future__ import annotations

from imp_runtime.errors import ImpError


class ApiError(ImpError):
    """`status` is the HTTP status; `kind`, `param` and `code` are `type`, `param` and `code` of the error object."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code


def context_exceeded(prompt_tokens: int, context: int) -> ApiError:
    """The prompt leaves no room for an answer."""
    return ApiError(
        f"the prompt has {prompt_tokens} tokens, the model's context is {context} including the answer; shorten it",
        code="context_length_exceeded",
    )
