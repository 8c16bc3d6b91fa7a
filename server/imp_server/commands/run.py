"""`imp run`: complete a prompt."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from imp_runtime.errors import ImpError
from imp_server.commands import arguments as a
from imp_server.console.terminal import say
from imp_server.generation.options import Options

NAME = "run"


def command(
    file: a.File,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Text to complete; - reads stdin.")],
    max_tokens: a.MaxTokens = 256,
    temperature: a.Temperature = None,
    top_k: a.TopK = None,
    top_p: a.TopP = None,
    min_p: a.MinP = None,
    repetition_penalty: a.RepetitionPenalty = None,
    frequency_penalty: a.FrequencyPenalty = None,
    presence_penalty: a.PresencePenalty = None,
    seed: a.Seed = None,
    chat: Annotated[
        bool, typer.Option("--chat/--raw", help="Put the prompt into the model's chat template, or complete it as is.")
    ] = False,
    target: a.Target = None,
    kv_tokens: a.KvTokens = None,
    timings: Annotated[
        bool, typer.Option("--timings", help="Say on stderr where the time until the first token has gone.")
    ] = False,
) -> None:
    """Complete a prompt; the text goes to stdout as it is generated, a line of numbers to stderr."""
    text = _stdin() if prompt == "-" else prompt
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
    reached, loading = _age(), time.perf_counter()
    with a.loaded(file, target=target, kv_tokens=kv_tokens) as model:
        began = time.perf_counter()
        if chat:
            stream = model.stream_chat([{"role": "user", "content": text}], **options)
        else:
            stream = model.stream(text, **options)
        first = last = began
        for piece in stream:
            last = time.perf_counter()
            first = last if first == began else first
            say(piece)
        print(flush=True)
        rate = f"{(stream.tokens - 1) / (last - first):.1f} tok/s" if last > first else "- tok/s"
        print(
            f"{stream.prompt_tokens} prompt tokens, first token after {first - began:.2f} s, {stream.tokens} generated"
            f" at {rate} ({stream.finish})",
            file=sys.stderr,
        )
        if timings:
            weights = sum(plane.nbytes for plane in model.plan.planes)
            steps = {
                "Python and its modules": reached,
                **model.engine.timings.steps,
                "other modules": began - loading - model.engine.timings.seconds,
                "prompt and first token": first - began,
            }
            print(_timings(steps, weights), file=sys.stderr)


def _age() -> float:
    """Seconds since this process began, to a hundredth."""
    ticks = int(Path("/proc/self/stat").read_text("ascii").rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _timings(steps: Mapping[str, float], weights: int) -> str:
    """A line for each step, and one for all."""
    rate = {"weights": f"{weights / 1e9 / steps['weights']:10.2f} GB/s" if steps.get("weights") else ""}
    lines = [f"{name:36}{seconds:8.3f} s{rate.get(name, '')}" for name, seconds in steps.items()]
    return "\n".join([*lines, f"{'all':36}{sum(steps.values()):8.3f} s"])


def _stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise ImpError(
            f"the prompt on stdin is not UTF-8: byte {error.start} is {error.object[error.start]:#x}"
        ) from None
