"""`imp chat`: a conversation in the terminal."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from imp_runtime.errors import ImpError
from imp_server.chat_template import Message
from imp_server.commands import arguments as a
from imp_server.model import Model
from imp_server.options import Options

NAME = "chat"


def command(
    file: a.File,
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
    with a.loaded(file, target=target, kv_tokens=kv_tokens) as model:
        if model.chat_template is None:
            raise ImpError(f"{file}: the model has no chat template; imp run completes text with it")
        print(
            f"{model.plan.model} on {model.engine.device_name}: /reset, /exit; Ctrl-C stops an answer", file=sys.stderr
        )
        _converse(model, options)


def _converse(model: Model, options: Options) -> None:
    messages: list[Message] = []
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
            messages.clear()
        elif line.startswith("/"):
            print("there are /reset and /exit", file=sys.stderr)
        elif line:
            messages.append({"role": "user", "content": line})
            try:
                messages.append({"role": "assistant", "content": _answer(model, messages, options)})
            except ImpError as error:
                messages.pop()
                print(f"imp: error: {error} (/reset begins anew)", file=sys.stderr)


def _answer(model: Model, messages: list[Message], options: Options) -> str:
    text = ""
    with _interrupts() as interrupted, contextlib.closing(model.stream_chat(messages, **options)) as stream:
        for piece in stream:
            print(piece, end="", flush=True)
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
