"""Damages a small .impc in many ways; opening it must succeed or end in an ImpError, never in anything else.

python tests/fuzz/fuzz_artifact.py --cases 20000 --seed 1
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "null"))

import xxhash
from tiny_artifact import write_tiny

from imp_runtime.artifact import Artifact
from imp_runtime.errors import ImpError
from imp_runtime.plan_check import WEIGHTS

ODD: list[Any] = [
    *(0, 1, -1, 2**31, 2**32 - 1, 2**63, 2**64, 10**40, 255, 256, 1.5, float("nan"), True, None, "", "x", [], {}),
    *("weights/embed", "plan.json", "kv", "../../x", "\x00", "\ud800", [1, 2], [[[]]], "a" * 5000),
]


def split(data: bytes) -> tuple[bytes, bytes]:
    end = 8 + int.from_bytes(data[:8], "little")
    return data[8:end], data[end:]


def join(header: bytes, body: bytes) -> bytes:
    header += b" " * (-(8 + len(header)) % 256)
    return len(header).to_bytes(8, "little") + header + body


def sealed(data: bytes) -> bytes:
    """The file with the checksums of what it holds now, computed as its format says."""
    header, body = split(data)
    table = json.loads(header)
    lengths = json.loads(table.pop("__metadata__")["lengths"])
    planes = json.loads(body[: lengths["plan.json"]])["planes"]
    lengths |= {f"weights/{plane['name']}": plane["nbytes"] for plane in planes}
    sums = b""
    for name, info in sorted(table.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = info["data_offsets"]
        if name == "checksums":
            return join(header, body[:begin] + sums.ljust(end - begin, b"\0") + body[end:])
        sums += xxhash.xxh3_64(body[begin : begin + lengths[name]]).digest()[::-1]
    raise AssertionError("there are no checksums")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all nodes of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(inner for key, item in items for inner in leaves(item, (*path, key)))]


def damage_json(rng: random.Random, text: bytes) -> bytes:
    value = json.loads(text)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        path = rng.choice(leaves(value))
        if not path:
            continue
        node = value
        for key in path[:-1]:
            node = node[key]
        old = node[path[-1]]
        action = rng.random()
        if action < 0.15:
            del node[path[-1]]
        elif action < 0.3 and isinstance(node, dict):
            node[str(rng.choice(ODD))[:50]] = old
        elif action < 0.6 and type(old) is int:
            node[path[-1]] = old + rng.choice([-256, -1, 1, 256, 2**32])
        else:
            node[path[-1]] = copy.deepcopy(rng.choice(ODD))
    return json.dumps(value, separators=(",", ":")).encode()


def damage(rng: random.Random, original: bytes) -> bytes:
    data = bytearray(original)
    match rng.randrange(8):
        case 0:
            for _ in range(rng.choice([1, 1, 4, 32])):
                data[rng.randrange(len(data))] = rng.randrange(256)
        case 1:
            del data[rng.randrange(len(data)) :]
        case 2:
            at = rng.randrange(len(data))
            data[at:at] = rng.randbytes(rng.choice([1, 8, 256]))
        case 3:
            data[:8] = rng.choice([0, 1, 2**63, 2**64 - 1, len(data), len(data) - 8, rng.randrange(99999)]).to_bytes(
                8, "little"
            )
        case 4 | 5:
            header, body = split(original)
            data = bytearray(join(damage_json(rng, header), body))
        case _:  # a plan that is well packed but wrong
            header, body = split(original)
            table = json.loads(header)
            begin, end = table["plan.json"]["data_offsets"]
            length = json.loads(table["__metadata__"]["lengths"])["plan.json"]
            plan = damage_json(rng, body[begin : begin + length])
            content = plan + bytes(-len(plan) % 256)
            shift = len(content) - (end - begin)
            for name, info in table.items():
                if name != "__metadata__":
                    first, last = info["data_offsets"]
                    info["data_offsets"] = [first + shift * (first > begin), last + shift * (last > begin)]
            table["plan.json"]["shape"] = [len(content)]
            lengths = json.loads(table["__metadata__"]["lengths"]) | {"plan.json": len(plan)}
            table["__metadata__"]["lengths"] = json.dumps(lengths)
            data = bytearray(join(json.dumps(table).encode(), body[:begin] + content + body[end:]))
            with contextlib.suppress(ArithmeticError, LookupError, TypeError, ValueError):  # where the plan allows it
                data = bytearray(sealed(bytes(data)))
    return bytes(data)


def fuzz(cases: int, seed: int, folder: Path) -> tuple[int, int]:
    """Number of damaged files that opened and that were refused; anything else is raised."""
    rng = random.Random(seed)
    original = write_tiny(folder / "whole.impc").read_bytes()
    path = folder / "damaged.impc"
    opened = refused = 0
    for case in range(cases):
        path.unlink(missing_ok=True)  # an open map of the last case must not change under it
        path.write_bytes(damage(rng, original))
        try:
            artifact = Artifact.open(path)
            for name, nbytes in artifact.names():
                content = (
                    artifact.plane(name.removeprefix(WEIGHTS)) if name.startswith(WEIGHTS) else artifact.read(name)
                )
                assert len(content) == nbytes
            opened += 1
        except ImpError as error:
            if "\n" in str(error) or str(path) not in str(error):
                raise AssertionError(
                    f"case {case} of seed {seed}: not one line with the file's name: {error}"
                ) from error
            refused += 1
        except BaseException:
            print(f"case {case} of seed {seed} failed", file=sys.stderr)
            raise
    return opened, refused


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        opened, refused = fuzz(arguments.cases, arguments.seed, Path(scratch))
        print(f"opened {opened}, refused {refused}")
