"""The weights of fixtures, drawn again: random numbers need not be kept, only where in which stream they lie.

Fixtures of Hugging Face folders were made with torch.randn from a seed. `drawn.npz` in such a folder says of every
tensor in BF16 where its numbers begin in the stream, and what they were multiplied with; what torch's arithmetic made
other than float64 does, and all that was not drawn, it has as it is. With it a file of 4 MB is 6 KB, and comes out byte
for byte.
fixtures/fold_drawn.py writes it; pytest draws what is missing, and so does `python tests/drawn.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIXTURES = Path(__file__).parent / "fixtures"
WEIGHTS, DRAWN = "model.safetensors", "drawn.npz"


def uniform(seed: int, count: int) -> NDArray[np.float64]:
    """torch's uniform float32 of a seed: 24 bits of a Mersenne twister's words."""
    words = np.random.RandomState(seed).randint(0, 1 << 32, count, np.uint32)
    return (words & 0xFFFFFF) * 2.0**-24


def normal(stream: NDArray[np.float64]) -> NDArray[np.float64]:
    """torch.randn of such numbers, a multiple of 16: Box and Muller's, by eights."""
    eights = stream.reshape(-1, 2, 8)
    size, angle = np.sqrt(-2 * np.log(1 - eights[:, 0])), 2 * np.pi * eights[:, 1]
    return np.stack([size * np.cos(angle), size * np.sin(angle)], axis=1).reshape(-1)


def bfloat16(values: NDArray[np.float64]) -> NDArray[np.uint16]:
    """The nearest, ties to even."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def tensors_of(header: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a safetensors file says of its tensors, in the order in which they lie."""
    entries = json.loads(header[8:])
    entries.pop("__metadata__", None)
    yield from sorted(entries.items(), key=lambda item: item[1]["data_offsets"])


def draw(folder: Path) -> None:
    """Write the weights of a folder."""
    with np.load(folder / DRAWN) as kept:
        header, rest = kept["header"].tobytes(), kept["rest"].tobytes()
        seed, places, changes = int(kept["seed"]), kept["places"], kept["changes"]
        wrong, right, digest = kept["wrong"], kept["right"], kept["digest"].tobytes()
    tensors, data, taken = [entry for _, entry in tensors_of(header)], [], 0
    sizes = [entry["data_offsets"][1] - entry["data_offsets"][0] for entry in tensors]
    stream = uniform(seed, max(place + size // 2 for place, size in zip(places, sizes, strict=True)))
    for size, place, (factor, more) in zip(sizes, places, changes, strict=True):
        if place < 0:
            data.append(rest[taken : taken + size])
            taken += size
        else:
            data.append(bfloat16(normal(stream[place : place + size // 2]) * factor + more).tobytes())
    raw = np.frombuffer(b"".join(data), np.uint8).copy()
    for byte in range(2):
        raw[2 * wrong.astype(np.int64) + byte] = right.view(np.uint8)[byte::2]
    whole = header + raw.tobytes()
    assert hashlib.sha256(whole).digest() == digest, f"{folder}: what is drawn is not what was kept"
    own = folder / f"{WEIGHTS}.{os.getpid()}"
    own.write_bytes(whole)
    own.replace(folder / WEIGHTS)


def draw_all() -> None:
    """Of every fixture whose weights are not there, or older than what they are drawn from."""
    for kept in sorted(FIXTURES.rglob(DRAWN)):
        made = kept.with_name(WEIGHTS)
        if not made.exists() or made.stat().st_mtime < kept.stat().st_mtime:
            draw(kept.parent)


if __name__ == "__main__":
    draw_all()
