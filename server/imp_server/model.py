"""A compiled model from Python.

from imp_server import Model

model = Model.load("demo.impc")
print(model.generate("def add(", max_tokens=32))
for piece in model.stream("import os", temperature=0.7, seed=1): print(piece, end="", flush=True)
print(model.chat([{"role": "user", "content": "Hello"}]))
logits = model.logits("def add(")  # float32 [tokens, vocabulary]
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Unpack

import numpy as np
import numpy.typing as npt

from imp_runtime.artifact import Artifact
from imp_runtime.errors import NotFiniteError
from imp_runtime.timings import Timings
from imp_server.chat.template import Message
from imp_server.frontend import Frontend
from imp_server.generation.events import Text
from imp_server.generation.options import Options
from imp_server.generation.request import Request
from imp_server.generation.transcript import Transcript

if TYPE_CHECKING:
    from imp_runtime.engine import Engine, StepOutput


class Model(Frontend):
    """A frontend with its engine in this process. A context manager; `close` frees the device."""

    def __init__(self, engine: Engine, *, parser: str | None = None, chat_template: str | None = None) -> None:
        """As Frontend has it. Raises ImpError."""
        super().__init__(engine.artifact, parser=parser, chat_template=chat_template)
        self._run_by(engine)

    def _run_by(self, engine: Engine) -> None:
        self.runs_on(engine.target, engine.context)
        self.engine = engine
        self._inboxes: dict[int, deque[StepOutput]] = {}

    @staticmethod
    def load(
        path: str | os.PathLike[str],
        *,
        target: str | None = None,
        kv_tokens: int | None = None,
        kv_share: float = 1.0,
        prefix_cache: bool = True,
        deterministic: bool = False,
        check_weights: bool = True,
        parser: str | None = None,
        chat_template: str | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Model:
        """Load an `.impc` onto the device that the machine has (or `target`).

        `parser` names the family of reply parsers instead of the one that the chat template belongs to, `chat_template`
        is the source of one in place of the artifact's. `kv_tokens` limits the KV cache, in tokens, `kv_share` to a
        part of the memory that is free, 0 to 1; with `prefix_cache`, prompts take over what those before them that
        began alike left in it; with `deterministic`, sequences take their steps one by one, so that no bit of one
        depends on who else is there; with `check_weights`, weights are compared with their checksums;
        `progress(step, done, total)` is called while loading. Raises ImpError (one line, for people) when the file is
        damaged, the target is not in it, or memory is short.
        """
        from imp_runtime.engine import Engine

        model, timings = Model.__new__(Model), Timings()  # what needs no engine is made while weights load
        with ThreadPoolExecutor(1, "imp-frontend") as beside:
            with timings.step("file"):
                artifact = Artifact.open(Path(path))
            frontend = beside.submit(Frontend.__init__, model, artifact, parser=parser, chat_template=chat_template)
            engine = Engine.load(
                artifact,
                target=target,
                kv_tokens=kv_tokens,
                kv_share=kv_share,
                prefix_cache=prefix_cache,
                deterministic=deterministic,
                check_weights=check_weights,
                progress=progress,
                timings=timings,
            )
            try:
                with timings.step("tokenizer and template, beyond the rest"):
                    frontend.result()
            except BaseException:
                engine.close()
                raise
        model._run_by(engine)
        return model

    def generate(self, prompt: str, **options: Unpack[Options]) -> str:
        """The completion of `prompt`; options as in `imp_server.generation.options.Options`."""
        return "".join(self.stream(prompt, **options))

    def stream(self, prompt: str, **options: Unpack[Options]) -> TextStream:
        """The completion of `prompt`, piece by piece as it is generated."""
        return TextStream(self, self.request(self.tokenizer.encode(prompt, special=True), options))

    def chat(self, messages: Sequence[Message], **options: Unpack[Options]) -> str:
        """The assistant's answer to `messages` ({"role": ..., "content": ...}), by the model's chat template."""
        return "".join(self.stream_chat(messages, **options))

    def stream_chat(self, messages: Sequence[Message], **options: Unpack[Options]) -> TextStream:
        """The assistant's answer, piece by piece."""
        return TextStream(self, self.request(self.chat_prompt(messages), options))

    def logits(self, text: str) -> npt.NDArray[np.float32]:
        """Logits at every token of `text`: float32 [tokens, vocabulary]; row i scores the token after token i."""
        return self.engine.logits(self.tokenizer.encode(text, special=True))

    def outputs(self, request: Request) -> Generator[StepOutput]:
        """The engine's outputs for `request`; several may run at once. Leaving early aborts the sequence.

        Raises NotFiniteError.
        """
        sequence = self.engine.add(request.prompt, request.params)
        inbox = self._inboxes[id(sequence)] = deque()
        ended = False
        try:
            while not ended:
                while not inbox:
                    for output in self.engine.step():
                        if id(output.sequence) in self._inboxes:
                            self._inboxes[id(output.sequence)].append(output)
                output = inbox.popleft()
                ended = output.finish is not None
                if output.finish == "error":
                    raise NotFiniteError
                yield output
        finally:
            del self._inboxes[id(sequence)]
            if not ended:
                self.engine.abort(sequence)

    def close(self) -> None:
        """Free the device."""
        self.engine.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TextStream(Iterator[str]):
    """The pieces of one generation, with its numbers: `prompt_tokens`, `tokens` so far, `finish` once it has ended.

    Leaving it early (`close`, or dropping it) frees the sequence.
    """

    def __init__(self, model: Model, request: Request) -> None:
        self.prompt_tokens = len(request.prompt)
        self._transcript = Transcript(model.tokenizer, request)
        self._pieces = self._run(model, request)

    @property
    def tokens(self) -> int:
        """Tokens generated so far."""
        return self._transcript.tokens

    @property
    def finish(self) -> str | None:
        """`stop` (the model or a stop string ended it), `length`, or None while it runs."""
        return self._transcript.finish

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop generating."""
        self._pieces.close()

    def _run(self, model: Model, request: Request) -> Generator[str]:
        for output in model.outputs(request):
            for piece in self._transcript.take(output):
                if isinstance(piece, Text) and piece.text:
                    yield piece.text
            if self._transcript.finish is not None:
                return
