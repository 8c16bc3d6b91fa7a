"""Mutate real Hugging Face folders, read and plan them: success or a CheckpointError, within 1 s and 256 MB.

    python tests/fuzz/fuzz_folder.py --cases 20000 --seed 1

A case changes one or more of a folder's JSON files, or the header of its weights: bytes, numbers, or what an object
holds. The tensor data behind the header is a hole of the same length, because no byte of it decides anything.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz_gguf import FIXTURES, attempt, limit_memory, read_everything

from drawn import draw_all
from hostile_texts import HOSTILE
from imp_codegen.checkpoint import open_checkpoint
from imp_codegen.tokenizer import build_tokenizer

WEIGHTS = "model.safetensors"
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 255, 2**31, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308, float("inf"), float("nan"),
    "", "x", "silu", [], [0], ["full_attention"], {}, {"a": {}}, {"content": 3}, *HOSTILE,
)  # fmt: skip
Mutation = Callable[[Random, bytes], bytes]


def flip_bits(random: Random, raw: bytes) -> bytes:
    changed = bytearray(raw)
    for _ in range(random.choice((1, 1, 2, 8))):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def cut(random: Random, raw: bytes) -> bytes:
    at = random.randrange(len(raw))
    return raw[:at] + (b"" if random.random() < 0.3 else raw[at + random.randrange(1, 64) :])


def repeat(random: Random, raw: bytes) -> bytes:
    """A piece twice, or very often: nesting, long lists, keys that occur again."""
    at = random.randrange(len(raw))
    return raw[:at] + raw[at : at + random.randrange(1, 80)] * random.choice((2, 2, 1000)) + raw[at:]


def change_json(random: Random, raw: bytes) -> bytes:
    """Another value, a key less, a key more, or one under another name, somewhere."""
    whole = json.loads(raw)
    for _ in range(random.choice((1, 1, 1, 3))):
        place = whole
        while True:
            entries = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not entries:
                break
            step = random.choice(entries)
            if isinstance(place[step], dict | list) and place[step] and random.random() < 0.8:
                place = place[step]
                continue
            change_entry(random, place, step)
            break
    return json.dumps(whole).encode()


def change_entry(random: Random, place: Any, step: Any) -> None:
    match random.randrange(4):
        case 0 if isinstance(place, dict):
            place[random.choice((*HOSTILE, "new", "rope_scaling", "text_config", "dtype"))] = place.pop(step)
        case 1:
            del place[step]
        case 2 if isinstance(place[step], int):
            place[step] = random.choice((place[step] + 1, place[step] - 1, place[step] * 2, -place[step]))
        case _:
            place[step] = random.choice(VALUES)


MUTATIONS: tuple[Mutation, ...] = (flip_bits, cut, repeat, change_json, change_json, change_json)


class Folder:
    """A sound folder: its JSON files and the header of its weights by name, and the length of the weights' data."""

    def __init__(self, path: Path) -> None:
        self.texts = {file.name: file.read_bytes() for file in path.glob("*.json")}
        self.texts["generation_config.json"] = b'{"eos_token_id": [1, 2], "temperature": 0.7, "top_k": 20}'
        raw = (path / WEIGHTS).read_bytes()
        length = int.from_bytes(raw[:8], "little")
        self.texts[WEIGHTS] = raw[8 : 8 + length]
        self.data_bytes = len(raw) - 8 - length

    def write(self, path: Path, changed: dict[str, bytes], random: Random) -> None:
        for name, text in (self.texts | changed).items():
            if name != WEIGHTS:
                (path / name).write_bytes(text)
        header = changed.get(WEIGHTS, self.texts[WEIGHTS])
        length = len(header) if random.random() < 0.98 else random.choice((0, 2**64 - 1, 2**40, len(header) + 1))
        with (path / WEIGHTS).open("wb") as file:
            file.write(length.to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + (self.data_bytes if random.random() < 0.95 else 100))


def write_mutant(random: Random, path: Path, folders: list[Folder]) -> None:
    folder = random.choice(folders)
    changed = {}
    for _ in range(random.choice((0, 1, 1, 1, 2, 3))):
        name = random.choice(("config.json", "config.json", WEIGHTS, *folder.texts))
        changed[name] = random.choice(MUTATIONS)(random, folder.texts[name])
    folder.write(path, changed, random)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    draw_all()
    paths = sorted(path.parent for path in FIXTURES.glob("*/hf/config.json"))
    folders = [Folder(path) for path in paths]
    for path in paths:  # the library's threads and tables exist before memory is limited
        checkpoint = open_checkpoint(path)
        build_tokenizer(checkpoint)
        checkpoint.close()
    if sys.platform == "linux":
        limit_memory()
    read, faults, slowest = 0, 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        for case in range(options.cases):
            random = Random(options.seed * 1_000_003 + case)
            write_mutant(random, path, folders)
            start = time.perf_counter()
            succeeded, fault = attempt(path, read_everything)
            slowest = max(slowest, time.perf_counter() - start)
            read += succeeded
            if fault:
                faults += 1
                print(f"case {case} of seed {options.seed}: {fault}", file=sys.stderr)
    refused = options.cases - read
    print(f"{options.cases} cases: {read} read, {refused} refused, {faults} faults, slowest {slowest:.3f} s")
    return 1 if faults or not read or not refused else 0


if __name__ == "__main__":
    sys.exit(main())
