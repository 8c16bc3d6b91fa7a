"""llama.cpp's llama-bench as a peer: run on a GGUF file, its JSON read."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imp_runtime.errors import ImpError

KIND = "llama-bench"


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
    command = [str(peer.program), "-m", str(model), *sizes, "-ngl", "99", "-fa", "1", "-o", "json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ImpError(f"{peer.program} cannot be run: {error.strerror}") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ImpError(f"{peer.program} ended with {done.returncode}: {last}")
    return read_peer(peer, done.stdout)


def read_peer(peer: Peer, text: str) -> Mapping[str, float]:
    """The same from the JSON that llama-bench wrote."""
    found: dict[str, float] = {}
    try:
        for test in json.loads(text):
            depth = test.get("n_depth", 0)
            name = f"pp{test['n_prompt']}" if test["n_prompt"] else f"tg{test['n_gen']}"
            found[name + (f" @ d{depth}" if depth else "")] = float(test["avg_ts"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ImpError(f"{peer.program} wrote no JSON of llama-bench: {error!r}") from None
    return found
