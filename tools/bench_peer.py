"""llama.cpp's llama-bench as a peer, and llama-batched-bench beside it: run on a GGUF file, their JSON read."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imp_runtime.errors import ImpError
from imp_server.commands.bench_speed import name_of

KIND = "llama-bench"
BATCHED = "llama-batched-bench"


@dataclass(frozen=True, slots=True)
class Peer:
    """Another engine's benchmark program."""

    name: str
    program: Path


def parse_peer(text: str) -> Peer:
    """`llama-bench=PATH`; ImpError for anything else."""
    kind, separator, path = text.partition("=")
    if kind != KIND or not separator or not path:
        raise ImpError(f"--peer {text}: expected {KIND}=PATH")
    if not Path(path).is_file():
        raise ImpError(f"--peer {text}: there is no file {path}")
    return Peer(kind, Path(path).absolute())


def run_peer(peer: Peer, model: Path, prompt: int, generate: int, depths: Sequence[int]) -> Mapping[str, float]:
    """Tokens per second by test ("pp512", "tg128 @ d4096"), one repetition after the peer's own warm-up."""
    sizes = ["-p", str(prompt), "-n", str(generate), "-d", ",".join(map(str, depths)), "-r", "1"]
    return read_peer(
        peer, _output([str(peer.program), "-m", str(model), *sizes, "-ngl", "99", "-fa", "1", "-o", "json"])
    )


def run_batched_peer(
    peer: Peer, model: Path, prompt: int, generate: int, batches: Sequence[int]
) -> Mapping[str, float] | None:
    """The same of several sequences at once ("pp512 b8", "tg128 b8 @ d512"); None where its program is not there."""
    program = peer.program.with_name(BATCHED)
    if not program.is_file():
        return None
    sizes = ["-npp", str(prompt), "-ntg", str(generate), "-npl", ",".join(map(str, batches))]
    context = ["-c", str(max(batches) * (prompt + generate)), "-b", "2048", "-ub", "512"]
    command = [str(program), "-m", str(model), *sizes, *context, "-ngl", "99", "-fa", "1", "--output-format", "jsonl"]
    return read_batched_peer(program, _output(command))


def _output(command: Sequence[str]) -> str:
    """What a program writes. Raises ImpError when it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ImpError(f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ImpError(f"{command[0]} ended with {done.returncode}: {last}")
    return done.stdout


def read_peer(peer: Peer, text: str) -> Mapping[str, float]:
    """Tokens per second by test from the JSON that llama-bench wrote."""
    found: dict[str, float] = {}
    try:
        for test in json.loads(text):
            kind, tokens = ("pp", test["n_prompt"]) if test["n_prompt"] else ("tg", test["n_gen"])
            found[name_of(kind, tokens, test.get("n_depth", 0))] = float(test["avg_ts"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ImpError(f"{peer.program} wrote no JSON of llama-bench: {error!r}") from None
    return found


def read_batched_peer(program: Path, text: str) -> Mapping[str, float]:
    """The same from the lines of JSON that llama-batched-bench wrote, among others that are none."""
    found: dict[str, float] = {}
    try:
        for test in map(json.loads, [line for line in text.splitlines() if line.startswith("{")]):
            found[name_of("pp", test["pp"], 0, sequences=test["pl"])] = float(test["speed_pp"])
            found[name_of("tg", test["tg"], test["pp"], sequences=test["pl"])] = float(test["speed_tg"])
    except (ValueError, KeyError, TypeError) as error:
        raise ImpError(f"{program} wrote no JSON of {BATCHED}: {error!r}") from None
    if not found:
        raise ImpError(f"{program} wrote no line of JSON")
    return found
