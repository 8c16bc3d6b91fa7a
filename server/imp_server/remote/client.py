"""Talks to a running server: what `imp chat URL` and `imp launch` need of OpenAI's API."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from types import TracebackType

import httpx

from imp_runtime.errors import ImpError
from imp_runtime.text import visible
from imp_server.chat.template import Message
from imp_server.generation.options import Options

_CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that a server offers; `context` in tokens, None where the server does not say."""

    name: str
    context: int | None


class Client:
    """One server. `url` may end in /v1 or not. Every failure is an ImpError that names the server."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            # Nothing bounds the time to the first token of a long prompt.
            timeout = httpx.Timeout(None, connect=_CONNECT_SECONDS)
            self._http = httpx.Client(base_url=f"{self.url}/v1", headers=headers, timeout=timeout)
        except (httpx.InvalidURL, UnicodeError) as error:
            raise ImpError(f"{url} is no URL of a server: {error}") from None
        self._name: str | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def model(self) -> ServedModel:
        """The first model that the server lists."""
        try:
            response = self._http.get("/models")
            self._check(response)
            entry = response.json()["data"][0]
            name, context = entry["id"], entry.get("max_model_len")
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ImpError(
                f"{self.url}/v1/models does not answer as OpenAI's API does; is the address right?"
            ) from None
        if str(name) != visible(str(name)):  # it goes to terminals, and into lines for a shell
            raise ImpError(f"{self.url} names its model {str(name)!r:.80}, which holds a control character")
        self._name = str(name)
        return ServedModel(self._name, context if isinstance(context, int) else None)

    def stream_chat(self, messages: Sequence[Message], options: Options) -> Generator[str]:
        """The answer's text, piece by piece; closing it ends the generation on the server."""
        name = self._name or self.model().name
        given = {key: value for key, value in options.items() if value is not None}
        body = {"model": name, "messages": list(messages), "stream": True, **given}
        try:
            with self._http.stream("POST", "/chat/completions", json=body) as response:
                if response.is_error:
                    response.read()
                self._check(response)
                for line in response.iter_lines():
                    if line.startswith("data: ") and line != "data: [DONE]":
                        yield self._text(json.loads(line.removeprefix("data: ")))
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ImpError(f"{self.url} sent a stream that is not OpenAI's") from None

    def _text(self, chunk: dict[str, object]) -> str:
        if isinstance(error := chunk.get("error"), dict):
            raise ImpError(f"{self.url}: {error.get('message')}")
        choices = chunk["choices"]
        if not isinstance(choices, list) or not choices:  # the chunk with the usage
            return ""
        text = choices[0]["delta"].get("content")
        return text if isinstance(text, str) else ""

    def _check(self, response: httpx.Response) -> None:
        if not response.is_error:
            return
        try:
            message = response.json()["error"]["message"]
        except (ValueError, LookupError, TypeError):
            message = f"status {response.status_code}"
        raise ImpError(f"{self.url}: {message}")

    def _unreachable(self, error: httpx.HTTPError) -> ImpError:
        return ImpError(
            f"{self.url} cannot be reached: {str(error) or type(error).__name__}; is imp serve running there?"
        )
