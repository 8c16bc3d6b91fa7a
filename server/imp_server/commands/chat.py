"""`imp chat`: a conversation in the terminal, with a compiled model or with a server."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, TypeAlias

import typer

from imp_runtime.errors import ImpError
from imp_runtime.text import visible
from imp_server.chat.template import Message
from imp_server.commands import arguments as a
from imp_server.console.terminal import say
from imp_server.generation.options import Options
from imp_server.remote.client import Client

NAME = "chat"
Answer: TypeAlias = Callable[[list[Message]], Generator[str]]


def command(
    source: Annotated[
        str, typer.Argument(metavar="FILE|URL", help="A compiled model (.impc), or a server: http://127.0.0.1:8080.")
    ],
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="The system prompt.")] = None,
    max_tokens: a.MaxTokens = 1024,
    temperature: a.Temperature = None,
    top_k: a.TopK = None,
    top_p: a.TopP = None,
    min_p: a.MinP = None,
    repetition_penalty: a.RepetitionPenalty = None,
    frequency_penalty: a.FrequencyPenalty = None,
    presence_penalty: a.PresencePenalty = None,
    seed: a.Seed = None,
    target: a.Target = None,
    kv_tokens: a.KvTokens = None,
    api_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The server's API key. Default: $IMP_API_KEY.")
    ] = None,
) -> None:
    """Talk to the model. /reset begins anew, /exit or Ctrl-D leaves, Ctrl-C stops an answer."""
    options = Options(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        frequency_penalty=frequency_penalty,
        presence_penalty=presence_penalty,
        seed=seed,
    )
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  its import gives input() a history and line editing
    opening: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    if source.startswith(("http://", "https://")):
        with Client(source, api_key or os.environ.get("IMP_API_KEY")) as client:
            _welcome(f"{client.model().name} at {client.url}")
            _converse(lambda messages: client.stream_chat(messages, options), opening)
        return
    file = Path(source)
    with a.loaded(file, target=target, kv_tokens=kv_tokens) as model:
        if model.chat_form is None:
            raise ImpError(f"{file}: the model has no chat template; imp run completes text with it")
        _welcome(f"{model.plan.model} on {model.engine.device_name}")

        def answer(messages: list[Message]) -> Generator[str]:
            with contextlib.closing(model.stream_chat(messages, **options)) as stream:
                yield from stream

        _converse(answer, opening)


def _welcome(what: str) -> None:
    print(f"{what}: /reset, /exit; Ctrl-C stops an answer", file=sys.stderr)


def _converse(answer: Answer, opening: list[Message]) -> None:
    messages = list(opening)
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n(/exit or Ctrl-D leaves)", file=sys.stderr)
            continue
        if line == "/exit":
            return
        if line == "/reset":
            messages = list(opening)
        elif line.startswith("/"):
            print("there are /reset and /exit", file=sys.stderr)
        elif line:
            messages.append({"role": "user", "content": line})
            try:
                messages.append({"role": "assistant", "content": _show(answer(messages))})
            except ImpError as error:
                messages.pop()
                print(f"imp: error: {visible(str(error))} (/reset begins anew)", file=sys.stderr)


def _show(pieces: Generator[str]) -> str:
    text = ""
    with _interrupts() as interrupted, contextlib.closing(pieces):
        for piece in pieces:
            say(piece)
            text += piece
            if interrupted:
                break
    print()
    return text


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Collects Ctrl-C instead of raising it, so that it cannot strike in the middle of a launch; the second raises."""
    seen: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)
