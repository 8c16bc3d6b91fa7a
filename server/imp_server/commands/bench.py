"""`imp bench`: speed of prompt processing (pp) and token generation (tg), measured as llama-bench does."""

from __future__ import annotations

import csv
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from imp_runtime.errors import ImpError
from imp_runtime.plan import BLOCK_TOKENS
from imp_runtime.sampling import SamplingParams
from imp_server.commands import arguments as a

if TYPE_CHECKING:
    from imp_runtime.engine import Engine

NAME = "bench"


class Form(Enum):
    """How results are written."""

    TABLE = "table"
    JSON = "json"
    MARKDOWN = "md"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class Result:
    """One test. Rates are tokens per second; bandwidths GB/s; None where nothing was measured.

    `share` is bandwidth over the read bandwidth of the device, measured in the same run.
    """

    model: str
    quant: str
    target: str
    device: str
    test: str
    repetitions: int
    mean: float
    deviation: float
    median: float
    weight_bytes_per_token: int | None = None
    kv_bytes_per_token: int | None = None
    bandwidth: float | None = None
    read_bandwidth: float | None = None
    share: float | None = None


def command(
    file: a.File,
    prompt: Annotated[int, typer.Option("--prompt", "-p", min=0, metavar="N", help="Prompt tokens; 0: no pp.")] = 512,
    generate: Annotated[int, typer.Option("--generate", "-n", min=0, metavar="N", help="Tokens; 0: no tg.")] = 128,
    repetitions: Annotated[int, typer.Option("--repetitions", "-r", min=1, metavar="N")] = 5,
    depth: Annotated[int, typer.Option("--depth", "-d", min=0, metavar="N", help="Tokens before those of tg.")] = 0,
    output: Annotated[Form, typer.Option("--output", "-o", help="Form of the results.")] = Form.TABLE,
    target: a.Target = None,
) -> None:
    """Measure tok/s. pp: a prompt from an empty cache; tg: tokens one by one, greedy, after DEPTH tokens."""
    from imp_runtime.engine import Engine
    from imp_server.progress import progress

    with progress(transient=True) as report, Engine.load(file, target=target, progress=report) as engine:
        results = measure(engine, prompt, generate, repetitions, depth)
    if not results:
        raise ImpError("-p 0 and -n 0 leave nothing to measure")
    _print(results, output)


def measure(engine: Engine, prompt: int, generate: int, repetitions: int, depth: int) -> list[Result]:
    """Results of the tests that are asked for, each after one run that does not count."""
    start = max(depth, 1)
    for name, need in (("-p", prompt + 1), ("-d and -n", start + generate + 1)):
        if need > engine.context:
            raise ImpError(f"{name} needs {need} tokens, the context here is {engine.context}; ask for fewer")
    tokens = np.random.default_rng(0)
    results = []
    if prompt:
        seconds = _repeat(repetitions, lambda: _prompt_seconds(engine, _random(engine, tokens, prompt)))
        results.append(_result(engine, f"pp{prompt}", prompt, seconds))
    if generate:
        seconds = _repeat(repetitions, lambda: _generate_seconds(engine, _random(engine, tokens, start), generate))
        name = f"tg{generate}" + (f" @ d{depth}" if depth else "")
        results.append(_with_bandwidth(engine, _result(engine, name, generate, seconds), start, generate))
    return results


def _random(engine: Engine, tokens: np.random.Generator, count: int) -> list[int]:
    """A fresh prompt each time, so that nothing of it can be cached."""
    return [int(token) for token in tokens.integers(0, engine.plan.vocab, count)]


def _repeat(repetitions: int, run: Callable[[], float]) -> list[float]:
    run()
    return [run() for _ in range(repetitions)]


def _prompt_seconds(engine: Engine, prompt: Sequence[int]) -> float:
    """From the request to its first token."""
    began = time.perf_counter()
    return _token_times(engine, prompt, 1)[0] - began


def _generate_seconds(engine: Engine, prompt: Sequence[int], count: int) -> float:
    """From the first token, which the prompt gives, over `count` decode steps."""
    times = _token_times(engine, prompt, count + 1)
    return times[-1] - times[0]


def _token_times(engine: Engine, prompt: Sequence[int], count: int) -> list[float]:
    engine.add(prompt, SamplingParams(max_tokens=count, ignore_eos=True))
    times: list[float] = []
    while len(times) < count:
        outputs = engine.step()
        times += [time.perf_counter()] * len(outputs)
    while engine.has_work:
        engine.step()
    return times


def _result(engine: Engine, test: str, tokens: int, seconds: Sequence[float]) -> Result:
    rates = [tokens / each for each in seconds]
    return Result(
        model=engine.plan.model,
        quant=engine.plan.quant,
        target=engine.target,
        device=engine.device_name,
        test=test,
        repetitions=len(rates),
        mean=statistics.fmean(rates),
        deviation=statistics.stdev(rates) if len(rates) > 1 else 0.0,
        median=statistics.median(rates),
    )


def _with_bandwidth(engine: Engine, result: Result, start: int, generate: int) -> Result:
    """Adds what a token reads: all weights once, and the KV cache as it is on average during the test."""
    weights = engine.plan.decode_weight_bytes
    kv = round(engine.plan.kv.block_bytes / BLOCK_TOKENS * (start + (generate + 1) / 2))
    bandwidth = (weights + kv) * result.mean / 1e9
    possible = possible_bandwidth(engine)
    return dataclasses.replace(
        result,
        weight_bytes_per_token=weights,
        kv_bytes_per_token=kv,
        bandwidth=bandwidth,
        read_bandwidth=possible,
        share=bandwidth / possible if possible else None,
    )


def possible_bandwidth(engine: Engine) -> float | None:
    """Read bandwidth of the device in GB/s, measured now; None where it cannot be (the simulator)."""
    from imp_runtime.bandwidth import read_bandwidth

    return read_bandwidth(engine.runner)


def _print(results: Sequence[Result], form: Form) -> None:
    if form is Form.JSON:
        print(json.dumps([dataclasses.asdict(result) for result in results], indent=2))
    elif form is Form.CSV:
        writer = csv.DictWriter(sys.stdout, [field.name for field in dataclasses.fields(Result)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(dataclasses.asdict(result) for result in results)
    elif form is Form.MARKDOWN:
        print("| " + " | ".join(_COLUMNS) + " |")
        print("|" + "|".join([" --- "] * 4 + [" ---: "] * (len(_COLUMNS) - 4)) + "|")
        for result in results:
            print("| " + " | ".join(_cells(result)) + " |")
    else:
        from imp_server.tables import show, table

        show(table("", _COLUMNS, map(_cells, results), right=4))


_COLUMNS = ("model", "target", "device", "test", "tok/s", "median", "MB/token", "KV MB/token", "GB/s", "of read")


def _cells(result: Result) -> tuple[str, ...]:
    def shown(value: float | None, form: str, scale: float = 1.0) -> str:
        return "" if value is None else format(value * scale, form)

    possible = f" of {result.read_bandwidth:.0f}" if result.read_bandwidth else ""
    return (
        f"{result.model} {result.quant}",
        result.target,
        result.device,
        result.test,
        f"{result.mean:.2f} ± {result.deviation:.2f}",
        f"{result.median:.2f}",
        shown(result.weight_bytes_per_token, ".2f", 1e-6),
        shown(result.kv_bytes_per_token, ".3f", 1e-6),
        shown(result.bandwidth, ".1f") + possible,
        shown(result.share, ".1%"),
    )
