"""Runs the engine for the workers that are linked to it.

Only one thread touches the engine, from loading (a GPU context belongs to a thread) to closing: that which makes the
host and calls `run`. Another reads the links: it makes the masks of grammars, which takes llguidance a while but not
Python's lock, aborts without waiting for the step that runs, and leaves everything else to the first as commands.

An engine that nobody needs for a while is closed, and loaded again for the next that does.

The host beats: once a second the first thread has the second tell the workers, and who keeps this process, that both
turn. So a kernel that never ends, a lock that nobody gives back and a stopped process all show as silence.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from imp_runtime.errors import ImpError, NoRoomError
from imp_server.engine import messages as m
from imp_server.engine.links import Link, Links
from imp_server.engine.whole_texts import pooled, scored
from imp_server.generation.request import ThinkWatch
from imp_server.generation.timings import PromptProgress, milliseconds
from imp_server.grammar import masks

if TYPE_CHECKING:
    from imp_runtime.constraint import TokenMask
    from imp_runtime.engine import Engine, StepOutput
    from imp_runtime.sequence import Sequence as EngineSequence

log = logging.getLogger("imp")


@dataclass(eq=False, slots=True)
class _Stream:
    """A generation of a worker, and the sequence once the engine has it.

    `began` is since when it has had its slot, or has waited (time.monotonic), `told` whether the worker knows that;
    `processed` is how many tokens of the prompt the worker knows of.
    """

    link: Link
    generation: m.Generation
    mask: TokenMask | None
    began: float = 0.0
    told: bool = False
    processed: int = -1
    sequence: EngineSequence | None = None
    watch: ThinkWatch | None = None


@dataclass(frozen=True, slots=True)
class _Whole:
    """A text that a worker wants to run whole; `work` runs it and answers."""

    link: Link
    call: int
    work: Callable[[], None]


@dataclass(slots=True)
class _News:
    """What one step brought for one worker."""

    began: list[m.Began] = field(default_factory=list)
    progress: list[tuple[int, PromptProgress]] = field(default_factory=list)
    tokens: list[m.TokenTuple] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Unload:
    """After so many seconds without work the engine is closed, and `load` makes another for the next who asks."""

    seconds: float
    load: Callable[[Callable[[], None]], Engine]


class EngineHost:
    """Serves links with an engine; `tokenizer` is what grammars want to know of the model.

    `unload`: whether the engine sleeps while nobody needs it; its `load` gets what is to be called now and then while
    it loads. `told` hears every beat.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: masks.GrammarTokenizer,
        unload: Unload | None = None,
        told: Callable[[], None] = lambda: None,
    ) -> None:
        self._loaded: Engine | None = engine  # None while it is asleep
        self._unload = unload
        self._worked = time.monotonic()  # last
        self._told = told
        self._beaten = 0.0  # last
        self._asleep: m.Asleep | None = None
        self._tokenizer = tokenizer
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._streams: dict[tuple[Link, int], _Stream] = {}
        self._running: dict[int, _Stream] = {}
        self._prompts: dict[int, _Stream] = {}  # those of them that have no token yet
        self._wholes: deque[_Whole] = deque()  # those that wait for room
        self._news: dict[Link, _News] = {}
        self._closing = False
        self.ready = self._facts()  # what every worker is told first, and when the engine has woken
        self._texts = ThreadPoolExecutor(1, "imp-texts")
        self._links = Links(self._heard, self._gone)
        self._reader = threading.Thread(target=self._listen, name="imp-links", daemon=True)
        self._reader.start()

    def attach(self, connection: socket.socket) -> None:
        """Serve a further worker; from any thread."""
        self._commands.put(lambda: self._greet(self._links.add(connection)))

    def stop(self) -> None:
        """Let `run` end; from any thread."""
        self._closing = True
        self._commands.put(lambda: None)

    def run(self) -> None:
        """Serve until `stop`, then close the engine. Raises what the engine raises, once the workers know."""
        try:
            while not self._closing:
                self._beat()
                if self._wholes and self._run_whole(self._wholes[0]):
                    self._wholes.popleft()
                elif (command := self._next_command()) is not None:
                    command()
                else:
                    self._deliver()
        except BaseException as error:
            why = f"the engine failed: {error}" if isinstance(error, ImpError) else "the engine failed"
            self._links.send(m.Failed(why))
            raise
        finally:
            self._links.close()
            self._reader.join()
            self._texts.shutdown()
            if self._loaded is not None:
                self._loaded.close()

    # In the thread that reads:

    def _tell_beat(self) -> None:
        self._links.send(m.Beat())
        self._told()

    def _listen(self) -> None:
        try:
            self._links.run()
        except BaseException as error:
            failure = error

            def fail() -> None:
                raise failure

            self._commands.put(fail)

    def _heard(self, link: Link, message: m.ToEngine) -> None:
        match message:
            case m.Admit():
                self._read(link, message)
            case m.Abort():
                self._abandon([stream for each in message.ids if (stream := self._streams.pop((link, each), None))])
            case m.Embed():
                self._call_whole(link, message.call, lambda: self._embed(link, message))
            case m.Score():
                self._call_whole(link, message.call, lambda: self._score(link, message))
            case m.AskSlots():
                self._commands.put(lambda: link.send(m.Answer(message.call, self._slots())))
            case m.AskFree():
                self._commands.put(lambda: link.send(m.Answer(message.call, self._can_be_had())))

    def _gone(self, link: Link) -> None:
        """A worker has ended, and what it had asked for with it."""
        ended = [key for key in list(self._streams) if key[0] is link]
        self._abandon([self._streams.pop(key) for key in ended])
        self._commands.put(lambda: self._forget(link))

    def _read(self, link: Link, message: m.Admit) -> None:
        try:
            streams = [_Stream(link, each, self._mask(each)) for each in message.generations]
        except ImpError as error:
            link.send(m.Refused(message.call, str(error)))
            return
        self._streams.update({(link, stream.generation.id): stream for stream in streams})
        self._call(link, message.call, lambda: self._admit(link, message.call, streams))

    def _mask(self, generation: m.Generation) -> TokenMask | None:
        return None if generation.constraint is None else masks.start(generation.constraint, self._tokenizer)

    def _abandon(self, streams: Sequence[_Stream]) -> None:
        """Free the sequences of `streams` now; a command puts the rest in order, and catches those not yet admitted."""
        for stream in streams:
            if stream.sequence is not None and (engine := self._loaded) is not None:
                engine.abort(stream.sequence)
        self._commands.put(lambda: self._release(streams))

    def _call(self, link: Link, call: int, work: Callable[[], None]) -> None:
        """Let the engine's thread do `work`, which answers `call` if it can; first of all it wakes the engine."""

        def command() -> None:
            if self._loaded is None and (why := self._wake()):
                link.send(m.Refused(call, why, later=True))
                return
            try:
                work()
            except ImpError as error:
                link.send(m.Refused(call, str(error)))
            self._worked = time.monotonic()

        self._commands.put(command)

    def _call_whole(self, link: Link, call: int, work: Callable[[], None]) -> None:
        """The same of a text that runs whole, which waits until there is room for it, as an answer does."""
        whole = _Whole(link, call, work)

        def begin() -> None:
            if self._wholes or not self._run_whole(whole):
                self._wholes.append(whole)

        self._call(link, call, begin)

    # In the engine's thread:

    def _beat(self) -> None:
        """Called wherever the thread comes by; what takes longer than a step of the device calls it on its way."""
        now = time.monotonic()
        if now - self._beaten >= m.BEAT_SECONDS:
            self._beaten = now
            self._links.call(self._tell_beat)

    @property
    def _engine(self) -> Engine:
        """The engine, which is awake."""
        assert self._loaded is not None
        return self._loaded

    def _next_command(self) -> Callable[[], None] | None:
        """The next command, waited for only while the engine has nothing to do; at last, that it goes to sleep."""
        engine = self._loaded
        if engine is not None and engine.has_work:
            with contextlib.suppress(queue.Empty):
                return self._commands.get_nowait()
            self._worked = time.monotonic()
            return None
        wait, then = m.BEAT_SECONDS, self._beat
        if engine is not None and self._unload is not None:
            left = max(0.0, self._worked + self._unload.seconds - time.monotonic())
            wait, then = min((wait, then), (left, self._sleep), key=lambda each: each[0])
        try:
            return self._commands.get(timeout=wait)
        except queue.Empty:
            return then

    def _sleep(self) -> None:
        """Give the device back."""
        self._asleep = m.Asleep(m.Free(*self._engine.free))
        self._engine.close()
        self._loaded = None
        self._links.send(self._asleep)
        log.info("asleep: nobody has asked for anything for a while, the device is free for others")

    def _wake(self) -> str | None:
        """Load the engine again; why it cannot be, for who waits for it."""
        began = time.monotonic()
        assert self._unload is not None
        try:
            self._loaded = self._unload.load(self._beat)
        except ImpError as error:
            log.error("the engine stays asleep: %s", error)
            return f"the model was unloaded while nobody used it and cannot be loaded now: {error}"
        self._asleep, self.ready = None, self._facts()
        self._links.send(self.ready)
        log.info("awake after %.2f s", time.monotonic() - began)
        return None

    def _facts(self) -> m.Ready:
        engine = self._engine
        return m.Ready(engine.target, engine.device_name, engine.context, engine.runner.kv_tokens)

    def _greet(self, link: Link) -> None:
        link.send(self.ready)
        if self._asleep is not None:
            link.send(self._asleep)

    def _can_be_had(self) -> m.Free:
        return m.Free(*self._engine.free) if self._asleep is None else self._asleep.free

    def _admit(self, link: Link, call: int, streams: Sequence[_Stream]) -> None:
        try:
            for stream in streams:
                asked = stream.generation
                stream.sequence = self._engine.add(asked.prompt, asked.params, stream.mask)
                if asked.budget is not None:
                    stream.watch = asked.budget.watch()
                stream.began = time.monotonic()
                self._running[id(stream.sequence)] = self._prompts[id(stream.sequence)] = stream
        except BaseException:
            self._release(streams)
            raise
        link.send(m.Answer(call, [self._began(stream) for stream in streams]))
        self._watch_prompts()
        self._send_news()

    def _release(self, streams: Iterable[_Stream]) -> None:
        for stream in streams:
            self._streams.pop((stream.link, stream.generation.id), None)
            if stream.sequence is not None and self._running.pop(id(stream.sequence), None) is not None:
                self._prompts.pop(id(stream.sequence), None)
                self._engine.abort(stream.sequence)

    def _watch_prompts(self) -> None:
        """When each prompt gets its slot, and how far it is; before the first token is told."""
        for key, stream in list(self._prompts.items()):
            sequence = stream.sequence
            assert sequence is not None
            if sequence.generated:
                del self._prompts[key]
            if sequence.slot < 0 and not sequence.generated:
                stream.began = time.monotonic()
                continue
            if not stream.told:
                stream.told = True
                self._news_of(stream).began.append(self._began(stream))
            if stream.generation.progress:
                self._tell_progress(stream, sequence)

    def _began(self, stream: _Stream) -> m.Began:
        assert stream.sequence is not None
        return m.Began(stream.generation.id, stream.began, stream.sequence.prompt_cached)

    def _tell_progress(self, stream: _Stream, sequence: EngineSequence) -> None:
        total, cached = len(sequence.prompt), sequence.prompt_cached
        # Of a sequence that has its first token all has run, even if that has ended it.
        done = total if sequence.generated else min(max(sequence.cached, cached), total)
        if done <= stream.processed:
            return
        spent = milliseconds(time.monotonic() - stream.began) if stream.processed >= 0 else 0.0
        stream.processed = done
        progress = PromptProgress(total, cached, done, spent)
        self._news_of(stream).progress.append((stream.generation.id, progress))

    def _deliver(self) -> None:
        for output in self._engine.step():
            stream = self._running.get(id(output.sequence))
            if stream is None:
                continue
            tokens = self._news_of(stream).tokens
            number = stream.generation.id
            tokens.append((number, output.token, output.finish, output.logprob, output.top))
            if output.finish is not None:
                del self._running[id(output.sequence)]
                self._streams.pop((stream.link, number), None)
            elif stream.watch is not None:
                tokens += [(number, token, None, None, ()) for token in self._mind_budget(stream, output)]
        if self._prompts:
            self._watch_prompts()
        self._send_news()

    def _news_of(self, stream: _Stream) -> _News:
        return self._news.setdefault(stream.link, _News())

    def _send_news(self) -> None:
        now = time.monotonic()
        for link, news in self._news.items():
            link.send(m.Step(now, tuple(news.began), tuple(news.progress), tuple(news.tokens)))
        self._news.clear()

    def _mind_budget(self, stream: _Stream, output: StepOutput) -> Sequence[int]:
        """End the reasoning of a sequence that has used up its budget: the tokens put in, which `step` is silent of."""
        budget, watch = stream.generation.budget, stream.watch
        assert budget is not None
        assert watch is not None
        watch.accept(output.token)
        if not watch.inside or watch.tokens < budget.tokens:
            return ()
        stream.watch = None
        try:
            self._engine.inject(output.sequence, budget.closing)
        except ImpError:  # no room for it: the reply is about to end anyhow
            return ()
        return budget.closing

    def _run_whole(self, whole: _Whole) -> bool:
        """Run a text, or say why it cannot be; False where it has to wait for sequences to end."""
        try:
            whole.work()
        except NoRoomError as error:
            if self._engine.hold(True):  # else those who come later would have what others give back
                return False
            whole.link.send(m.Refused(whole.call, str(error)))
        except ImpError as error:
            whole.link.send(m.Refused(whole.call, str(error)))
        return True

    def _forget(self, link: Link) -> None:
        """What a worker that has ended still waited for."""
        left = deque(each for each in self._wholes if each.link is not link)
        if self._wholes and not left:
            self._engine.hold(False)
        self._wholes = left

    def _embed(self, link: Link, message: m.Embed) -> None:
        hidden = self._engine.hidden(message.tokens, self._take_turns)
        self._texts.submit(lambda: link.send(m.Answer(message.call, pooled(hidden, message.pooling))))

    def _score(self, link: Link, message: m.Score) -> None:
        logits = self._engine.logits(message.tokens, self._take_turns)
        self._texts.submit(lambda: link.send(m.Answer(message.call, scored(message.tokens, logits, message.top))))

    def _take_turns(self) -> None:
        """Before a part of a text: a step of every answer that is owed one, so that none waits for the whole of it."""
        self._beat()
        while self._engine.owes_steps and not self._closing:
            self._deliver()

    def _slots(self) -> list[m.Slot]:
        sequences = [stream.sequence for stream in self._running.values() if stream.sequence is not None]
        return [
            m.Slot(each.slot, len(each.prompt), each.prompt_cached, len(each.generated))
            for each in sequences
            if each.slot >= 0
        ]
