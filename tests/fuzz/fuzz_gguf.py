"""Mutate real GGUF files, read and plan them: the outcome is success or a CheckpointError, within 1 s and 256 MB.

    python tests/fuzz/fuzz_gguf.py --cases 20000 --seed 1

Only the head of a file is mutated and written; the tensor data behind it is a hole of the same length, because no
byte of it decides anything.

One case in eight puts hostile texts into a sound file instead: what is then read emits the source that it always did.
"""

from __future__ import annotations

import argparse
import re
import resource
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1]))

from hostile_texts import HOSTILE, Texts
from imp_codegen.checkpoint import CheckpointError, open_checkpoint
from imp_codegen.compiler import CompileOptions, plan_model
from imp_codegen.targets import find_target
from imp_codegen.tokenizer.gguf import from_keys
from imp_runtime.text import visible

FIXTURES = Path(__file__).parents[1] / "fixtures"
SECONDS = 1.0
MEMORY = 256 << 20
NUMBERS = (0, 1, 2, 7, 8, 9, 12, 13, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**60, 2**63 - 1, 2**63, 2**64 - 1)

Mutation = Callable[[Random, bytearray, list[int], bytes], None]


def flip_bits(random: Random, head: bytearray, fields: list[int], other: bytes) -> None:
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        head[random.randrange(len(head))] ^= 1 << random.randrange(8)


def edit_number(random: Random, head: bytearray, fields: list[int], other: bytes) -> None:
    """Overwrite a length, type or count: the fields lie just before and after names, and at the very start."""
    for _ in range(random.choice((1, 1, 1, 3))):
        form = random.choice(("<I", "<Q"))
        at = min(random.choice(fields) + random.choice((0, 0, 0, 4, 8)), len(head) - 8)
        (old,) = struct.unpack_from(form, head, at)
        value = random.choice((random.choice(NUMBERS), old + 1, old - 1, old * 2, random.randrange(2**64)))
        struct.pack_into(form, head, at, value % 2 ** (8 * struct.calcsize(form)))


def splice(random: Random, head: bytearray, fields: list[int], other: bytes) -> None:
    start = random.randrange(len(other))
    piece = other[start : start + random.randrange(1, 256)]
    at = random.randrange(len(head))
    head[at : at + (len(piece) if random.random() < 0.5 else 0)] = piece


def delete(random: Random, head: bytearray, fields: list[int], other: bytes) -> None:
    at = random.randrange(len(head))
    del head[at : at + random.randrange(1, 64)]


MUTATIONS: tuple[Mutation, ...] = (flip_bits, edit_number, edit_number, splice, delete)


def read_everything(path: Path) -> None:
    checkpoint = open_checkpoint(path)
    try:
        for tensor in checkpoint.tensors.values():
            checkpoint.rows(tensor.name, 0, 1)[0, :1].copy()
            checkpoint.rows(tensor.name, tensor.rows - 1, tensor.rows)[0, -1:].copy()
        plan_model(checkpoint, (find_target("sim"),), CompileOptions())
    finally:
        checkpoint.close()


def emitted_source(path: Path) -> str:
    checkpoint = open_checkpoint(path)
    try:
        return plan_model(checkpoint, (find_target("sim"),), CompileOptions()).emitted["sim"].source
    finally:
        checkpoint.close()


def with_hostile_texts(random: Random, texts: Texts) -> bytes:
    """Some texts of the file replaced by, or made longer with, pieces of hostile ones."""
    chosen = {}
    # Without one of its numbers a file is another model.
    places = [place for place in texts.places if not texts.text(place).startswith(("llama.", "qwen3."))]
    for place in random.sample(places, random.choice((1, 1, 2, 5))):
        pieces = "".join(random.choice(HOSTILE)[random.randrange(8) :] for _ in range(random.randrange(1, 4)))
        chosen[place] = random.choice(("", texts.text(place))) + pieces
    return texts.with_texts(chosen)


def emits(source: str) -> Callable[[Path], None]:
    """Plan a file; it must be refused or give this source."""

    def plan(path: Path) -> None:
        assert emitted_source(path) == source, "a text of the file has changed the emitted source"

    return plan


def attempt(path: Path, take: Callable[[Path], None]) -> tuple[bool, str]:
    """Whether the file was taken, and what was wrong with how that went."""
    start = time.process_time()  # so that a busy machine makes no faults
    read, fault = False, ""
    try:
        take(path)
        read = True
    except CheckpointError as error:
        if str(error) != visible(str(error)) or len(str(error)) > 1000:
            fault = f"a message of more than a line, with control characters, or too long: {error!r:.200}"
    except BaseException:
        fault = traceback.format_exc()
    seconds = time.process_time() - start
    return read, fault or (f"took {seconds:.2f} s" if seconds > SECONDS else "")


def write_mutant(random: Random, path: Path, files: list[tuple[bytes, int, list[int]]]) -> None:
    original, size, fields = random.choice(files)
    mutant, other = bytearray(original), random.choice(files)[0]
    for _ in range(random.choice((0, 1, 1, 1, 2, 4))):
        random.choice(MUTATIONS)(random, mutant, fields, other)
    if random.random() < 0.1:
        size = random.randrange(size)
    with path.open("wb") as file:
        file.write(mutant)
        file.truncate(size)


def limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    files, pristine = [], []
    for path in sorted(each for each in FIXTURES.rglob("*.gguf") if not each.stem.endswith("-keys")):  # with tensors
        checkpoint = open_checkpoint(path)
        length = min(tensor.offset for tensor in checkpoint.tensors.values())
        from_keys(checkpoint.metadata)  # the library's threads and tables exist before memory is limited
        checkpoint.close()
        raw = path.read_bytes()
        head = raw[:length]
        pristine.append((Texts.of(raw), emits(emitted_source(path))))
        names = list(re.finditer(rb"[a-z0-9_.]{6,}", head))
        files.append((head, path.stat().st_size, [4, 8, 16, *(at for m in names for at in (m.start() - 8, m.end()))]))
    if sys.platform == "linux":
        limit_memory()
    read, faults, slowest = 0, 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.gguf"
        for case in range(options.cases):
            random = Random(options.seed * 1_000_003 + case)
            take = read_everything
            if random.random() < 0.125:
                texts, take = random.choice(pristine)
                path.write_bytes(with_hostile_texts(random, texts))
            else:
                write_mutant(random, path, files)
            start = time.perf_counter()
            succeeded, fault = attempt(path, take)
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
