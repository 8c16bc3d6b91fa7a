"""What `imp bench` measures: prompt processing (pp) and token generation (tg), the way llama-bench does.

With several sequences at once (`-b`) the way of llama-batched-bench: see bench_batch.py.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from imp_runtime.bandwidth import read_bandwidth
from imp_runtime.errors import ImpError
from imp_runtime.plan import BLOCK_TOKENS
from imp_runtime.sampling import SamplingParams

T = TypeVar("T")

if TYPE_CHECKING:
    from imp_runtime.device import Mark
    from imp_runtime.engine import Engine
    from imp_runtime.sequence import Sequence as EngineSequence

DECODE = "step_r1"
# What people ask for, from cheap to dear: the likeliest token first, with which the others are compared.
SAMPLINGS = {
    "greedy": SamplingParams(),
    "temperature": SamplingParams(temperature=1.0),
    "top-p": SamplingParams(temperature=1.0, top_p=0.95),
    "top-k, top-p, min-p": SamplingParams(temperature=0.7, top_k=20, top_p=0.95, min_p=0.02),
    "the same, penalties": SamplingParams(
        temperature=0.7, top_k=20, top_p=0.95, min_p=0.02, repetition_penalty=1.05, presence_penalty=0.5
    ),
    "top_logprobs 20": SamplingParams(top_logprobs=20),
    "typical-p": SamplingParams(temperature=1.0, typical_p=0.9),
    "XTC": SamplingParams(temperature=1.0, xtc_probability=0.5),
    "Mirostat": SamplingParams(temperature=1.0, mirostat=2),
    "DRY": SamplingParams(temperature=1.0, dry_multiplier=0.8),
    "repeat_last_n 64": SamplingParams(temperature=1.0, repetition_penalty=1.1, repeat_last_n=64),
}


@dataclass(frozen=True, slots=True)
class Result:
    """One test. Rates are tokens per second, of all `sequences` together; bandwidths GB/s; None: nothing was measured.

    `size` is bytes of all weights. `each` is the rate of one of several sequences. A step is a token of every sequence:
    it needs the weights once, and the cache of them all. `share` is bandwidth over the read bandwidth of the device,
    measured in the same run. `busy`: the share of the time from the first decode step to the last in which the device
    ran one of them, by its own clock, in a run of its own. `host_cores`: CPU seconds of this process per second of
    generating.
    """

    model: str
    quant: str
    size: int
    parameters: int
    target: str
    device: str
    test: str
    repetitions: int
    mean: float
    deviation: float
    median: float
    sequences: int = 1
    each: float | None = None
    weight_bytes_per_step: int | None = None
    kv_bytes_per_step: int | None = None
    bandwidth: float | None = None
    read_bandwidth: float | None = None
    share: float | None = None
    busy: float | None = None
    host_cores: float | None = None


@dataclass(frozen=True, slots=True)
class Clocks:
    """Seconds of wall time and of this process's CPU time: a moment, or the span between two."""

    wall: float
    cpu: float

    @staticmethod
    def now() -> Clocks:
        """Both clocks."""
        return Clocks(time.perf_counter(), time.process_time())

    def __sub__(self, earlier: Clocks) -> Clocks:
        return Clocks(self.wall - earlier.wall, self.cpu - earlier.cpu)


def measure(
    engine: Engine, prompt: int, generate: int, repetitions: int, depth: int, samplings: Sequence[str] = ("greedy",)
) -> list[Result]:
    """Results of the tests that are asked for, each after one run that does not count, and `depth` tokens.

    Tokens are generated with each of `samplings` (keys of SAMPLINGS) in turn, a repetition each.
    """
    start = max(depth, 1)
    for name, need in (("-d and -p" if depth else "-p", depth + prompt + 1), ("-d and -n", start + generate + 1)):
        if need > engine.context:
            raise ImpError(f"{name} needs {need} tokens, the context here is {engine.context}; ask for fewer")
    results = []
    if prompt:
        rates = repeated(repetitions, lambda: _prompt_rate(engine, depth, prompt))
        results.append(result_of(engine, name_of("pp", prompt, depth), rates))
    if generate:
        rounds = repeated(
            repetitions, lambda: [_generate_span(engine, start, generate, SAMPLINGS[name]) for name in samplings]
        )
        for sampling, *spans in zip(samplings, *rounds, strict=True):
            name = name_of("tg", generate, depth, sampling=sampling)
            result = dataclasses.replace(
                result_of(engine, name, [generate / span.wall for span in spans]),
                busy=device_busy(engine, start, generate) if sampling == "greedy" else None,
                host_cores=sum(span.cpu for span in spans) / sum(span.wall for span in spans),
            )
            results.append(with_bandwidth(engine, result, start, generate))
    return results


def name_of(kind: str, tokens: int, depth: int, *, sequences: int = 0, sampling: str = "greedy") -> str:
    """`tg128`, `pp512 @ d4096`, `tg128 b8 @ d512 top-p`: what a test is called."""
    name = f"{kind}{tokens}" + (f" b{sequences}" if sequences else "") + (f" @ d{depth}" if depth else "")
    return name if sampling == "greedy" else f"{name} {sampling}"


def random_prompt(engine: Engine, count: int) -> list[int]:
    """A prompt that no run before had, so that nothing of it can be cached."""
    return [int(token) for token in np.random.default_rng().integers(0, engine.plan.vocab, count)]


def repeated(repetitions: int, run: Callable[[], T]) -> list[T]:
    """What `run` gives, so many times, after one time that does not count."""
    run()
    return [run() for _ in range(repetitions)]


def _prompt_rate(engine: Engine, depth: int, count: int) -> float:
    """Of a prompt behind `depth` tokens that the prefix cache has, from the request to its first token."""
    prompt = random_prompt(engine, depth + count)
    if depth:
        _arrivals(engine, prompt[:depth], 1)
    began = Clocks.now()
    sequence = engine.add(prompt, dataclasses.replace(SAMPLINGS["greedy"], max_tokens=1, ignore_eos=True))
    while not engine.step():
        pass
    seconds = (Clocks.now() - began).wall
    return computed(sequence, count) / seconds


def computed(sequence: EngineSequence, count: int) -> int:
    """How many tokens of a prompt ran, `count` of them behind others: those, and what makes no whole block of these."""
    tokens = len(sequence.prompt) - sequence.prompt_cached
    if tokens >= count + BLOCK_TOKENS:
        raise ImpError(f"{tokens} tokens of a prompt ran and not {count}: the prefix cache has lost those before them")
    return tokens


def _generate_span(engine: Engine, start: int, count: int, params: SamplingParams) -> Clocks:
    """From the first token, which the prompt gives, over `count` decode steps."""
    times = _arrivals(engine, random_prompt(engine, start), count + 1, params)
    return times[-1] - times[0]


def _arrivals(
    engine: Engine, prompt: Sequence[int], count: int, params: SamplingParams = SAMPLINGS["greedy"]
) -> list[Clocks]:
    engine.add(prompt, dataclasses.replace(params, max_tokens=count, ignore_eos=True))
    times: list[Clocks] = []
    while len(times) < count:
        outputs = engine.step()
        times += [Clocks.now()] * len(outputs)
    while engine.has_work:
        engine.step()
    return times


def device_busy(engine: Engine, start: int, count: int) -> float:
    """The share of `count` decode steps after `start` tokens in which the device worked, 0 to 1.

    A step that the host launches too late shows as a gap between the mark after the step before and its own. The two
    marks of a step cost the device about a microsecond, which counts as idle.
    """
    with _marked(engine) as marks:
        _arrivals(engine, random_prompt(engine, start), count + 1)
    elapsed = engine.runner.device.elapsed_ms
    return sum(elapsed(begin, end) for begin, end in marks) / elapsed(marks[0][0], marks[-1][1])


@contextmanager
def _marked(engine: Engine) -> Iterator[list[tuple[Mark, Mark]]]:
    """Meanwhile each decode step gets a mark before and one after it."""
    runner = engine.runner
    run, mark = runner.run, runner.device.mark
    marks: list[tuple[Mark, Mark]] = []

    def marked(program: str) -> None:
        begin = mark()
        run(program)
        if program == DECODE:
            marks.append((begin, mark()))

    runner.run = marked  # type: ignore[method-assign]  # of this object, until the block ends
    try:
        yield marks
    finally:
        del runner.run


def result_of(engine: Engine, test: str, rates: Sequence[float], sequences: int = 1) -> Result:
    """The result of a test that ran once for each of `rates`."""
    plan = engine.plan
    mean = statistics.fmean(rates)
    return Result(
        model=plan.model,
        quant=plan.weights,
        size=sum(plane.nbytes for plane in plan.planes),
        parameters=plan.parameters,
        target=engine.target,
        device=engine.device_name,
        test=test,
        repetitions=len(rates),
        mean=mean,
        deviation=statistics.stdev(rates) if len(rates) > 1 else 0.0,
        median=statistics.median(rates),
        sequences=sequences,
        each=mean / sequences if sequences > 1 else None,
    )


def with_bandwidth(engine: Engine, result: Result, start: int, generate: int) -> Result:
    """Adds what a step needs to read: all weights once, and the cache as it is on average during the test.

    Each of the sequences generates `generate` tokens after `start`.
    """
    weights = engine.plan.decode_weight_bytes
    kernels = engine.plan.target(engine.target).program(DECODE).kernels
    reads = [read for kernel in kernels for read in kernel.cache_reads]
    seen = range(start + 1, start + generate + 1)
    one = sum(read.nbytes(positions) for positions in seen for read in reads) / generate
    kv = round(result.sequences * one)
    bandwidth = (weights + kv) * result.mean / result.sequences / 1e9
    possible = read_bandwidth(engine.runner)
    return dataclasses.replace(
        result,
        weight_bytes_per_step=weights,
        kv_bytes_per_step=kv,
        bandwidth=bandwidth,
        read_bandwidth=possible,
        share=bandwidth / possible if possible else None,
    )
