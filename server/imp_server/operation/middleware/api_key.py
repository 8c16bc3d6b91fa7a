"""Lets in who has a key: `Authorization: Bearer KEY` or `x-api-key: KEY`."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Set
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from imp_server.api.refusal import refusal
from imp_server.errors import ApiError
from imp_server.operation.config import ApiConfig, ConfigError

_HEADERS = {"WWW-Authenticate": "Bearer", "X-Should-Retry": "false"}  # the SDKs' own word: a key does not become right


def read_keys(config: ApiConfig) -> tuple[str, ...]:
    """The keys of the configuration and its key file. Raises ConfigError when the file cannot be read or has none."""
    if config.key_file is None:
        return config.key
    try:
        lines = Path(config.key_file).read_text("utf-8").splitlines()
    except OSError as error:
        raise ConfigError(
            f"{config.key_file}: {error.strerror}; api.key_file names a file with one key a line"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{config.key_file} is not UTF-8; api.key_file names a file with one key a line") from None
    found = tuple(key for line in lines if (key := line.partition("#")[0].strip()))
    if not found:  # an empty file must not open the door
        raise ConfigError(f"{config.key_file} has no key; write one a line, or leave api.key_file away")
    return (*config.key, *found)


class ApiKey:
    """Refuses what has no key with 401, except `public` paths. Puts a short name of the key into `imp.client`."""

    def __init__(self, app: ASGIApp, keys: Iterable[str], public: Set[str]) -> None:
        self._app = app
        self._digests = tuple(hashlib.sha256(key.encode()).digest() for key in keys)
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http" or scope["path"] in self._public:
            await self._app(scope, receive, send)
            return
        given = _given(Headers(scope=scope))
        digest = hashlib.sha256(given.encode("latin-1")).digest()
        # Every digest is compared, whichever fits: the time says nothing about the keys.
        known = sum(hmac.compare_digest(digest, each) for each in self._digests)
        if known:
            scope["imp.client"] = f"key-{digest.hex()[:8]}"
            await self._app(scope, receive, send)
            return
        what = "this API key is not known here" if given else "an API key is needed"
        message = f"{what}; send it as Authorization: Bearer KEY or as x-api-key: KEY"
        error = ApiError(message, status=401, kind="authentication_error", code="invalid_api_key")
        await refusal(scope, error, _HEADERS)(scope, receive, send)


def _given(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("x-api-key", "").strip()
