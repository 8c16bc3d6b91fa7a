"""The GGUF reader against gguf-py on real files, and against damaged and hostile ones."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from imp_codegen.checkpoint import CheckpointError, open_checkpoint

TESTS = Path(__file__).parents[1]
FILES = sorted(path for path in (TESTS / "fixtures").rglob("*.gguf") if not path.stem.endswith("-keys"))  # no tensors


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def u32(name: str, value: int) -> bytes:
    return key(name, 4, struct.pack("<I", value))


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def gguf_file(
    keys: list[bytes], tensors: list[bytes], data: int = 0, *, magic: bytes = b"GGUF", version: int = 3
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(range(256)) * (data // 256) + bytes(data % 256)


def failure(tmp_path: Path, raw: bytes) -> str:
    path = tmp_path / "model.gguf"
    path.write_bytes(raw)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_agrees_with_gguf_py(path: Path) -> None:
    checkpoint, truth = open_checkpoint(path), gguf.GGUFReader(path)
    assert len(checkpoint.tensors) == len(truth.tensors) > 0
    for expected in truth.tensors:
        found = checkpoint.tensors[expected.name]
        assert found.shape == tuple(int(size) for size in reversed(expected.shape))
        assert (found.format, found.offset, found.nbytes) == (
            expected.tensor_type.name, expected.data_offset, expected.n_bytes,
        )  # fmt: skip
        raw = np.ascontiguousarray(expected.data).view(np.uint8).reshape(found.rows, -1)
        assert np.array_equal(checkpoint.rows(found.name, 0, found.rows), raw)
        middle = found.rows // 2
        assert np.array_equal(checkpoint.rows(found.name, middle, found.rows), raw[middle:])
    names = {name for name in truth.fields if not name.startswith("GGUF.")}
    assert set(checkpoint.metadata) == names
    for name in names:
        field = truth.fields[name]
        expected_value = field.contents()
        kinds = [kind.name for kind in field.types]
        if kinds[0] == "ARRAY" and kinds[1] == "STRING":
            assert checkpoint.metadata.strings(name) == expected_value
        elif kinds[0] == "ARRAY" and kinds[1].startswith("FLOAT"):
            assert checkpoint.metadata.numbers(name) == expected_value
        elif kinds == ["ARRAY", "BOOL"]:
            assert checkpoint.metadata.booleans(name) == expected_value
        elif kinds[0] == "ARRAY":
            assert checkpoint.metadata.integers(name) == expected_value
        elif kinds[0] == "STRING":
            assert checkpoint.metadata.string(name) == expected_value
        elif kinds[0] == "BOOL":
            assert checkpoint.metadata.boolean(name) is expected_value
        elif kinds[0].startswith("FLOAT"):
            assert checkpoint.metadata.number(name) == expected_value
        else:
            assert checkpoint.metadata.integer(name) == expected_value
    checkpoint.close()


def test_version_2_and_scalar_kinds(tmp_path: Path) -> None:
    values = {
        0: ("<B", 200),
        1: ("<b", -5),
        2: ("<H", 60000),
        3: ("<h", -300),
        5: ("<i", -70000),
        10: ("<Q", 2**40),
        11: ("<q", -(2**40)),
    }
    keys = [key(f"k{kind}", kind, struct.pack(form, value)) for kind, (form, value) in values.items()]
    keys += [key("f6", 6, struct.pack("<f", 0.5)), key("f12", 12, struct.pack("<d", 0.1)), key("b", 7, b"\1")]
    keys += [key("a", 9, struct.pack("<IQ3h", 3, 3, -1, 2, 3)), u32("general.alignment", 64)]
    raw = gguf_file(keys, [tensor("w", (4, 2, 3), offset=64)], version=2)
    path = tmp_path / "v2.gguf"
    path.write_bytes(raw + bytes(-len(raw) % 64) + bytes(64) + np.arange(24, dtype="<f4").tobytes())
    checkpoint = open_checkpoint(path)
    for kind, (_, value) in values.items():
        assert checkpoint.metadata.integer(f"k{kind}", minimum=-(2**63)) == value
    assert checkpoint.metadata.number("f6") == 0.5
    assert checkpoint.metadata.number("f12") == 0.1
    assert checkpoint.metadata.boolean("b") is True
    assert checkpoint.metadata.integers("a") == [-1, 2, 3]
    assert checkpoint.tensors["w"].shape == (3, 2, 4)
    assert checkpoint.rows("w", 2, 4).view("<f4").tolist() == [[8, 9, 10, 11], [12, 13, 14, 15]]


HUGE = 2**64 - 1
BAD_FILES = {
    "empty": (b"", "the file is empty"),
    "another format": (b"PK\3\4" + bytes(60), "is not a GGUF file"),
    "only the magic": (b"GGUF", "the version at byte 4 needs 4 bytes and the file ends after 0"),
    "version 1": (gguf_file([], [], version=1), "is GGUF version 1, imp reads 2 and 3"),
    "version 9": (gguf_file([], [], version=9), "is GGUF version 9"),
    "big-endian": (gguf_file([], [], version=3 << 24), "is a big-endian GGUF"),
    "tensor count": (b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0) + bytes(99), f"claims 0 keys and {HUGE} tensors"),
    "key count": (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**40) + bytes(99), f"claims {2**40} keys"),
    "name length": (gguf_file([struct.pack("<Q", HUGE) + bytes(40)], []), f"the name of key 0 is {HUGE} bytes long"),
    "name not UTF-8": (gguf_file([text(b"\xff") + bytes(8)], []), "the name of key 0 is not UTF-8"),
    "repeated key": (gguf_file([u32("a", 1), u32("a", 2)], []), "key 'a' occurs twice"),
    "key type": (gguf_file([key("a", 13, bytes(8))], []), "the value of 'a' has the unknown type 13"),
    "array type": (gguf_file([key("a", 9, struct.pack("<IQQ", 77, 1, 0))], []), "the unknown type 77"),
    "nested array": (gguf_file([key("a", 9, struct.pack("<IQ", 9, 1) + bytes(20))], []), "'a' is an array of arrays"),
    "array length": (gguf_file([key("a", 9, struct.pack("<IQ", 4, 2**62))], []), f"needs {2**64} bytes"),
    "text length": (gguf_file([key("a", 8, struct.pack("<Q", 2**62))], []), "text 0 of 1 goes on after the file ends"),
    "text array length": (gguf_file([key("a", 9, struct.pack("<IQ", 8, 2**60))], []), f"needs {2**63} bytes"),
    "boolean": (gguf_file([key("a", 7, b"\2")], []), "is a boolean other than 0 and 1"),
    "alignment 0": (gguf_file([u32("general.alignment", 0)], []), "alignment is 0, expected an integer in 1.."),
    "alignment 48": (gguf_file([u32("general.alignment", 48)], []), "alignment is 48, expected a power of two"),
    "split": (
        gguf_file([key("split.count", 2, struct.pack("<H", 3)), key("split.no", 2, struct.pack("<H", 1))], []),
        "is part 2 of 3 of a split model, but not called so; give all its parts the names that they came with, like "
        "model-00002-of-00003.gguf",
    ),
    "no dimensions": (gguf_file([], [tensor("w", ())]), "tensor 'w' has 0 dimensions, expected 1..4"),
    "many dimensions": (gguf_file([], [tensor("w", (1,) * 5)]), "tensor 'w' has 5 dimensions"),
    "zero dimension": (gguf_file([], [tensor("w", (4, 0))]), "impossible shape 0 x 4"),
    "overflowing dimensions": (gguf_file([], [tensor("w", (2**32, 2**32))]), "impossible shape"),
    "unsupported type": (
        gguf_file([], [tensor("w", (256,), kind=15)]),
        "tensor 'w' has the type Q8_K, which imp does not support; supported: BF16, F16, F32, IQ1_M, IQ1_S, IQ2_S, "
        "IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, IQ4_NL, IQ4_XS, MXFP4, NVFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, "
        "Q5_K, Q6_K, Q8_0, TQ1_0, TQ2_0",
    ),
    "unknown type": (gguf_file([], [tensor("w", (256,), kind=99)]), "tensor 'w' has the type 99"),
    "half a block": (gguf_file([], [tensor("w", (48, 2), kind=8)]), "48 columns are not a whole number of"),
    "misaligned": (gguf_file([], [tensor("w", (4,), offset=4)], 64), "the offset 4, which is not a multiple of"),
    "repeated tensor": (gguf_file([], [tensor("w", (8,)), tensor("w", (8,))], 64), "tensor 'w' occurs twice"),
    "overlap": (gguf_file([], [tensor("a", (16,)), tensor("b", (8,), offset=32)], 64), "'a' and 'b' overlap"),
    "truncated": (gguf_file([], [tensor("a", (8,)), tensor("b", (64,), offset=32)], 100), "188 bytes past the end"),
    "offset past the end": (gguf_file([], [tensor("w", (8,), offset=2**63)], 64), "bytes past the end of the file"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_is_refused_by_name(name: str, tmp_path: Path) -> None:
    raw, expected = BAD_FILES[name]
    assert expected in failure(tmp_path, raw)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = gguf_file(
        [u32("a", 1), key("t", 9, struct.pack("<IQ", 8, 2) + text("x") + text("yz"))], [tensor("w", (8, 2))], 64
    )
    for length in range(len(whole)):
        failure(tmp_path, whole[:length])
    (tmp_path / "whole.gguf").write_bytes(whole)
    assert open_checkpoint(tmp_path / "whole.gguf").metadata.strings("t") == ["x", "yz"]


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_checkpoint(tmp_path / "none.gguf")
    with pytest.raises(CheckpointError, match=r"is a folder without config\.json; name a GGUF file"):
        open_checkpoint(tmp_path)
    (tmp_path / "a.gguf").touch()
    with pytest.raises(CheckpointError, match=r"name one of its files: a\.gguf"):
        open_checkpoint(tmp_path)


def test_rows_out_of_range_are_refused() -> None:
    checkpoint = open_checkpoint(TESTS / "fixtures" / "llama" / "llama-Q8_0.gguf")
    with pytest.raises(CheckpointError, match="has no tensor 'nothing'"):
        checkpoint.rows("nothing", 0, 1)
    with pytest.raises(CheckpointError, match=r"has 512 rows, not 0\.\.513"):
        checkpoint.rows("token_embd.weight", 0, 513)


def test_views_outlive_the_checkpoint() -> None:
    checkpoint = open_checkpoint(FILES[0])
    tensor = checkpoint.tensors["output_norm.weight"]
    view = checkpoint.rows(tensor.name, 0, 1)
    checkpoint.close()
    raw = FILES[0].read_bytes()[tensor.offset : tensor.offset + tensor.nbytes]
    assert view.tobytes() == raw
    assert not view.flags.writeable


def test_metadata_names_file_key_value_and_expectation(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    long = [str(index) for index in range(5)]
    array = key("list", 9, struct.pack("<IQ", 8, 5) + b"".join(map(text, long)))
    path.write_bytes(
        gguf_file(
            [u32("n", 70000), key("s", 8, text("abc")), key("yes", 7, b"\1"), array, key("bad", 8, text(b"\xff"))], []
        )
    )
    metadata = open_checkpoint(path).metadata
    cases: dict[str, Callable[[], object]] = {
        "n is 70000, expected an integer in 1..65536": lambda: metadata.integer("n", minimum=1, maximum=65536),
        "s is 'abc', expected an integer in": lambda: metadata.integer("s", 3),
        "has no key m.layers (expected an integer in": lambda: metadata.integer("m.layers"),
        "list[0] is '0', expected an integer in": lambda: metadata.integers("list"),
        "yes is True, expected an integer in": lambda: metadata.integer("yes"),
        "yes is True, expected a finite number": lambda: metadata.number("yes"),
        "n is 70000, expected a text": lambda: metadata.string("n"),
        "n is 70000, expected true or false": lambda: metadata.boolean("n"),
        "n is 70000, expected a list of integers": lambda: metadata.integers("n"),
        "list is a list of 5 ('0', '1', '2', ...), expected a text": lambda: metadata.string("list"),
        "s is 'abc', expected a list of texts": lambda: metadata.strings("s"),
        "bad is b'\\xff', expected a text (UTF-8)": lambda: metadata.string("bad"),
    }
    for expected, call in cases.items():
        with pytest.raises(CheckpointError) as caught:
            call()
        assert f"{path}: {expected}" in str(caught.value)
    assert metadata.integer("other", 7) == 7
    assert metadata.number("n") == 70000.0
    assert metadata.strings("list") == long


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited through /proc")
def test_mutated_files_are_read_or_refused() -> None:
    command = [sys.executable, str(TESTS / "fuzz" / "fuzz_gguf.py"), "--cases", "2000", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
