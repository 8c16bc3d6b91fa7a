"""What the server counts, for Prometheus: HTTP requests, generations, tokens and times, on a registry of its own."""

from __future__ import annotations

import contextlib
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from imp_runtime.plan import Pooling
from imp_server.engine.admitted import Admitted
from imp_server.engine.client import AsyncEngine
from imp_server.errors import ApiError
from imp_server.frontend import Frontend
from imp_server.generation.output import Output
from imp_server.generation.request import Request
from imp_server.generation.timings import PromptProgress
from imp_server.operation.request_log import current

_FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2)
_WHOLE = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Observer(Protocol):
    """Is told what happens to one generation, in this order."""

    def token(self) -> None:
        """A token has come."""

    def finished(self, reason: str, cached_tokens: int) -> None:
        """It has ended: `stop`, `length`, `aborted` (the client left) or `error`.

        `cached_tokens` of its prompt came from the prefix cache.
        """


class _Tokens(Collector):
    """What is counted with every token, as plain numbers, which cost a tenth of what samples with locks do.

    `held` are the tokens of open generations.
    """

    def __init__(self) -> None:
        self.generated = 0
        self.held = 0
        self._seconds = 0.0
        self._between = [0] * (len(_BETWEEN) + 1)

    def between(self, seconds: float) -> None:
        """So long a token came after the one before it."""
        self._seconds += seconds
        self._between[bisect_left(_BETWEEN, seconds)] += 1

    def collect(self) -> Iterator[Metric]:
        """The samples as of now."""
        yield CounterMetricFamily("imp_generated_tokens", "Tokens generated", self.generated)
        yield GaugeMetricFamily("imp_kv_tokens_used", "Tokens of open generations in the KV cache", self.held)
        buckets = [*zip([*map(str, _BETWEEN), "+Inf"], accumulate(self._between), strict=True)]
        name, what = "imp_time_per_output_token_seconds", "From one token to the next"
        yield HistogramMetricFamily(name, what, buckets, self._seconds)


class Metrics:
    """The counters. All of it is used from the event loop's thread only; `queue` and `kv_tokens` ask when scraped."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._http = Counter("imp_http_requests", "HTTP requests", ("method", "route", "status"), registry=registry)
        self._http_seconds = Histogram(
            "imp_http_request_seconds", "Time of an HTTP request", ("route",), buckets=_WHOLE, registry=registry
        )
        self.generations = Counter("imp_generations", "Generations that have ended", ("finish",), registry=registry)
        self.prompt_tokens = Counter(
            "imp_prompt_tokens", "Tokens of prompts, and of texts to be embedded", registry=registry
        )
        self.cached_tokens = Counter(
            "imp_cached_prompt_tokens", "Prompt tokens that came from the prefix cache", registry=registry
        )
        self.first_token = Histogram(
            "imp_time_to_first_token_seconds", "From admission to the first token", buckets=_FIRST, registry=registry
        )
        self.tokens = _Tokens()
        registry.register(self.tokens)
        self.waiting = Gauge("imp_generations_waiting", "Generations without a token yet", registry=registry)
        self.running = Gauge("imp_generations_running", "Generations that produce tokens", registry=registry)
        self.queue = Gauge("imp_http_queue", "Requests that wait for admission", registry=registry)
        self.kv_tokens = Gauge("imp_kv_tokens", "Tokens that the KV cache holds", registry=registry)
        self.asleep = Gauge("imp_asleep", "1 while the GPU is given back because nobody asks", registry=registry)

    def http(self, method: str, route: str, status: int, seconds: float) -> None:
        """An HTTP request has ended."""
        self._http.labels(method, route, str(status)).inc()
        self._http_seconds.labels(route).observe(seconds)

    def embedded(self, tokens: int) -> None:
        """A text of so many tokens has become an embedding."""
        self.prompt_tokens.inc(tokens)
        if (record := current.get()) is not None:
            record.prompt_tokens += tokens

    def started(self, prompt_tokens: int) -> Observer:
        """A generation has been admitted; its observer wants to hear the rest."""
        return _Generation(self, prompt_tokens)


class _Generation:
    """The observer of one generation."""

    def __init__(self, metrics: Metrics, prompt_tokens: int) -> None:
        self._metrics = metrics
        self._held = prompt_tokens
        self._tokens = 0
        self._last = time.monotonic()
        metrics.prompt_tokens.inc(prompt_tokens)
        metrics.waiting.inc()
        metrics.tokens.held += prompt_tokens
        self._record = current.get()
        if self._record is not None:
            self._record.prompt_tokens += prompt_tokens

    def token(self) -> None:
        metrics, now = self._metrics, time.monotonic()
        if self._tokens == 0:
            metrics.waiting.dec()
            metrics.running.inc()
            metrics.first_token.observe(now - self._last)
        else:
            metrics.tokens.between(now - self._last)
        self._last = now
        self._tokens += 1
        self._held += 1
        metrics.tokens.generated += 1
        metrics.tokens.held += 1

    def finished(self, reason: str, cached_tokens: int) -> None:
        metrics = self._metrics
        (metrics.running if self._tokens else metrics.waiting).dec()
        metrics.tokens.held -= self._held
        metrics.generations.labels(reason).inc()
        metrics.cached_tokens.inc(cached_tokens)
        if self._record is not None:
            self._record.completion_tokens += self._tokens
            self._record.cached_tokens += cached_tokens
            self._record.finish = reason


@dataclass(frozen=True, slots=True)
class _Observed(Admitted):
    """Admitted requests whose outputs are counted on their way."""

    observers: dict[int, Observer]

    async def outputs(self) -> AsyncIterator[list[tuple[int, Output | PromptProgress]]]:
        """As Admitted.outputs."""
        async for arrived in Admitted.outputs(self):
            for index, output in arrived:
                if isinstance(output, PromptProgress):
                    continue
                if output.finish != "stop":  # the token that ends it is not counted, as in `usage`
                    self.observers[index].token()
                if output.finish is not None:
                    self.observers.pop(index).finished(output.finish, self.cached[index])
            yield arrived


class ObservedEngine(AsyncEngine):
    """An AsyncEngine whose generations are counted."""

    def __init__(self, load: Callable[[], Frontend], metrics: Metrics, *, limit: int) -> None:
        super().__init__(load, limit=limit)
        self._metrics = metrics
        metrics.kv_tokens.set_function(lambda: self.kv_tokens)
        metrics.asleep.set_function(lambda: self.asleep)

    @contextlib.asynccontextmanager
    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Admitted]:
        """As AsyncEngine.generate."""
        async with super().generate(requests) as admitted:
            observers = {i: self._metrics.started(len(request.prompt)) for i, request in enumerate(requests)}
            reason = "stop"  # who leaves in the middle without an error has seen a stop string
            try:
                yield _Observed(admitted.streams, admitted.inbox, observers)
            except BaseException as error:
                reason = "error" if isinstance(error, ApiError) else "aborted"
                raise
            finally:
                for index, observer in observers.items():
                    observer.finished(reason, admitted.cached[index])

    async def embed(self, tokens: Sequence[int], pooling: Pooling) -> npt.NDArray[np.float32]:
        """As AsyncEngine.embed."""
        found = await super().embed(tokens, pooling)
        self._metrics.embedded(len(tokens))
        return found
