"""The safetensors reader and the folder around it, against the official library and damaged and hostile files."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from imp_codegen.checkpoint import CheckpointError, open_checkpoint
from imp_codegen.checkpoint.folder import FolderCheckpoint
from imp_codegen.checkpoint.safetensors import SafetensorsFile

TESTS = Path(__file__).parents[1]
RNG = np.random.default_rng(5)
WEIGHTS = {
    "model.embed_tokens.weight": RNG.standard_normal((7, 16)).astype(np.float32),
    "model.norm.weight": RNG.standard_normal(16).astype(np.float16),
    "model.layers.0.odd": RNG.integers(0, 9, (3, 1, 5), np.int64),
    "scalar": np.array(2.5, np.float32),
}


def file_of(header: object, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}")
    assert "\n" not in message
    return message


def folder(path: Path, files: Mapping[str, Mapping[str, np.ndarray]], index: object = None) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text("{}", "utf-8")
    for name, tensors in files.items():
        save_file(dict(tensors), path / name, {"format": "pt"})
    if index is not None:
        text = index if isinstance(index, str) else json.dumps(index)
        (path / "model.safetensors.index.json").write_text(text, "utf-8")
    return path


def test_what_the_official_library_writes(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file(WEIGHTS, path, {"format": "pt"})
    file = SafetensorsFile(path)
    assert file.tensors.keys() == WEIGHTS.keys()
    for name, array in WEIGHTS.items():
        found = file.tensors[name]
        assert found.shape == array.shape
        assert found.format == {"float32": "F32", "float16": "F16", "int64": "I64"}[array.dtype.name]
        assert file.rows(name, 0, found.rows).tobytes() == array.tobytes()
        flat = array.reshape(found.rows, -1)
        assert file.rows(name, found.rows // 2, found.rows).tobytes() == flat[found.rows // 2 :].tobytes()
    view = file.rows("model.norm.weight", 0, 1)
    file.close()
    assert view.tobytes() == WEIGHTS["model.norm.weight"].tobytes()
    assert not view.flags.writeable


DTYPES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "float16": "F16", "int32": "I32", "float32": "F32",
    "uint64": "U64", "float64": "F64",
}  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([*DTYPES]), st.lists(st.integers(1, 5), max_size=4)), max_size=6))
def test_any_dtype_and_shape(tmp_path_factory: pytest.TempPathFactory, tensors: list[tuple[str, list[int]]]) -> None:
    arrays = {
        f"t{index}": RNG.integers(0, 2, np.prod(shape, dtype=int)).astype(dtype).reshape(shape)
        for index, (dtype, shape) in enumerate(tensors)
    }
    path = tmp_path_factory.mktemp("any") / "m.safetensors"
    save_file(arrays, path)
    file = SafetensorsFile(path)
    assert file.tensors.keys() == arrays.keys()
    for name, tensor in file.tensors.items():
        assert (tensor.shape, tensor.format) == (arrays[name].shape, DTYPES[arrays[name].dtype.name])
        assert file.rows(name, 0, tensor.rows).tobytes() == arrays[name].tobytes()


GOOD = entry([2, 2], 0, 16)
BAD_FILES: dict[str, tuple[bytes, str]] = {
    "too short": (b"\1\2", "2 bytes are no safetensors file"),
    "endless header": (struct.pack("<Q", 2**63) + bytes(99), f"should have {2**63} bytes, more than"),
    "long header": (struct.pack("<Q", 100) + b"{}", "should have 100 bytes and the file ends after 2"),
    "not JSON": (file_of(b"{"), "the header cannot be read as JSON"),
    "not UTF-8": (file_of(b'{"\xff": 1}'), "the header cannot be read as JSON"),
    "deep": (file_of(b'{"a":' + b"[" * 200_000), "the header cannot be read as JSON"),
    "a long number": (file_of(b'{"a":' + b"9" * 5000 + b"}"), "the header cannot be read as JSON"),
    "a list": (file_of([]), "the header is not a JSON object"),
    "a tensor twice": (
        file_of(b'{"w":%b,"w":%b}' % ((json.dumps(GOOD).encode(),) * 2), bytes(16)),
        "the header has the key 'w' twice",
    ),
    "metadata": (file_of({"__metadata__": {"a": 1}}), "__metadata__ must hold texts by name"),
    "another framework": (file_of({"__metadata__": {"format": "flax"}}), "__metadata__.format is 'flax', expected pt"),
    "no object": (file_of({"w": 1}), "tensor 'w' must have dtype, shape and data_offsets"),
    "a field more": (file_of({"w": {**GOOD, "x": 1}}, bytes(16)), "tensor 'w' must have dtype, shape and data_offsets"),
    "a field less": (file_of({"w": {"dtype": "F32", "shape": []}}), "tensor 'w' must have"),
    "an empty name": (file_of({"": GOOD}, bytes(16)), "has a name of 0 characters"),
    "dtype": (file_of({"w": entry([4], 0, 16, "F99")}, bytes(16)), "tensor 'w': dtype is 'F99', expected one of"),
    "dtype that is no text": (file_of({"w": {**GOOD, "dtype": [1]}}, bytes(16)), "dtype is '[1]'"),
    "a negative size": (file_of({"w": entry([-4], 0, 16)}, bytes(16)), "tensor 'w': shape is [-4], expected up to"),
    "a size that is no integer": (file_of({"w": entry([4.0], 0, 16)}, bytes(16)), "shape is [4.0]"),  # type: ignore[list-item]
    "a size that is true": (file_of({"w": entry([True], 0, 4)}, bytes(4)), "shape is [True]"),
    "many sizes": (file_of({"w": entry([1] * 9, 0, 4)}, bytes(4)), "expected up to 8 sizes"),
    "nothing": (file_of({"w": entry([4, 0], 0, 0)}), "impossible shape 4 x 0"),
    "overflow": (file_of({"w": entry([2**40, 2**40], 0, 16)}, bytes(16)), "impossible shape"),
    "wrong size": (file_of({"w": entry([4], 0, 12)}, bytes(12)), "data_offsets are 12 bytes apart, but its shape"),
    "half a byte": (file_of({"w": entry([3], 0, 2, "F4")}, bytes(2)), "its shape in F4 takes 2"),
    "offsets the wrong way round": (file_of({"w": entry([4], 16, 0)}, bytes(16)), "data_offsets is [16, 0], expected"),
    "three offsets": (file_of({"w": {**GOOD, "data_offsets": [0, 8, 16]}}, bytes(16)), "data_offsets is [0, 8, 16]"),
    "a negative offset": (file_of({"w": entry([4], -16, 0)}, bytes(16)), "data_offsets is [-16, 0]"),
    "overlap": (
        file_of({"a": entry([4], 0, 16), "b": entry([4], 8, 24)}, bytes(24)),
        "tensors 'a' and 'b' overlap",
    ),
    "the same bytes": (file_of({"a": GOOD, "b": GOOD}, bytes(16)), "tensors 'a' and 'b' overlap"),
    "a gap": (
        file_of({"a": entry([4], 0, 16), "b": entry([4], 20, 36)}, bytes(36)),
        "4 bytes before tensor 'b' belong to none",
    ),
    "past the end": (file_of({"w": entry([4], 0, 16)}, bytes(12)), "4 bytes past the end of the file; it is truncated"),
    "far past the end": (file_of({"w": entry([2**61], 0, 2**63)}, bytes(12)), "data_offsets is [0, 92233720"),
    "bytes behind": (file_of({"w": entry([4], 0, 16)}, bytes(20)), "4 bytes follow the last tensor ('w')"),
}  # fmt: skip

# What the official library reads all the same.
STRICTER = ("another framework", "nothing", "a tensor twice", "a field more", "an empty name", "many sizes")


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_by_name(name: str, tmp_path: Path) -> None:
    raw, expected = BAD_FILES[name]
    path = folder(tmp_path / "m", {}) / "model.safetensors"
    path.write_bytes(raw)
    assert expected in refusal(path.parent)
    if name not in STRICTER:
        with pytest.raises(safetensors.SafetensorError), safetensors.safe_open(path, "np") as official:
            official.metadata()


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = file_of({"a": entry([2], 0, 8), "b": entry([2], 8, 16)}, bytes(16))
    path = folder(tmp_path / "m", {}) / "model.safetensors"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refusal(path.parent)
    path.write_bytes(whole)
    assert [*open_checkpoint(path.parent).tensors] == ["a", "b"]


def test_a_hundred_thousand_tensors(tmp_path: Path) -> None:
    count = 100_000
    header = {f"layers.{i}.w": entry([1], 4 * i, 4 * i + 4) for i in range(count)}
    path = folder(tmp_path / "m", {}) / "model.safetensors"
    path.write_bytes(file_of(header, bytes(4 * count)))
    start = time.thread_time()
    with closing(open_checkpoint(path.parent)) as checkpoint:
        assert len(checkpoint.tensors) == count
    assert time.thread_time() - start < 10


def test_shards(tmp_path: Path) -> None:
    names = [*WEIGHTS]
    shard_of = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(names)}
    files = {shard: {n: WEIGHTS[n] for n in names if shard_of[n] == shard} for shard in set(shard_of.values())}
    path = folder(tmp_path / "m", files, {"metadata": {"total_size": 1}, "weight_map": shard_of})
    save_file({"other": np.zeros(3)}, path / "consolidated.safetensors")  # nobody names it
    checkpoint = open_checkpoint(path)
    assert checkpoint.dialect == "hf"
    assert checkpoint.tensors.keys() == WEIGHTS.keys()
    for name in (*names, *names[::-1]):
        assert checkpoint.rows(name, 0, checkpoint.tensors[name].rows).tobytes() == WEIGHTS[name].tobytes()
    with pytest.raises(CheckpointError, match="has no tensor 'nothing'"):
        checkpoint.rows("nothing", 0, 1)
    with pytest.raises(CheckpointError, match=r"has 7 rows, not 0\.\.8"):
        checkpoint.rows(names[0], 0, 8)
    checkpoint.close()


ONE, TWO = {"a": np.ones(3)}, {"b": np.ones(3)}
FILES = {"1.safetensors": ONE, "2.safetensors": TWO}
MAP = {"a": "1.safetensors", "b": "2.safetensors"}


def mapped(**changes: object) -> object:
    return {"weight_map": MAP | changes}


BAD_INDEXES: dict[str, tuple[object, Mapping[str, Mapping[str, np.ndarray]], str]] = {
    "not JSON": ("{", FILES, "index.json: the file cannot be read as JSON"),
    "a list": ([], FILES, "index.json: the file is not a JSON object"),
    "no map": ({}, FILES, "has no weight_map"),
    "an empty map": ({"weight_map": {}}, FILES, "has no weight_map"),
    "a map that is a list": ({"weight_map": ["a"]}, FILES, "has no weight_map"),
    "a tensor twice": ('{"weight_map": {"a": "1.safetensors", "a": "2.safetensors"}}', FILES, "has the key 'a' twice"),
    "a missing shard": (mapped(c="3.safetensors"), FILES, "names the file '3.safetensors', which the folder lacks"),
    "a tensor that is not there": (mapped(c="1.safetensors"), FILES, "says that 'c' is in '1.safetensors', but it is"),
    "a tensor in another shard": (mapped(a="2.safetensors"), FILES, "says that 'a' is in '2.safetensors', but it is"),
    "a tensor in two shards": (
        mapped(),
        {"1.safetensors": ONE, "2.safetensors": TWO | ONE},
        "weight_map has 'a' in '1.safetensors', but it is in '2.safetensors', too",
    ),
    "a tensor that the map leaves out": (
        mapped(),
        {"1.safetensors": ONE, "2.safetensors": TWO | {"c": np.ones(2)}},
        "weight_map has 'c' in no file, but it is in '2.safetensors'",
    ),
    "an unnamed single file": (mapped(), FILES | {"model.safetensors": TWO}, "has model.safetensors beside"),
    "no text": (mapped(a=7), FILES, "weight_map.'a' is '7', expected the name"),
    **{
        f"the path {name!r:.40}": (mapped(a=name), FILES, "expected the name of a .safetensors file in the same folder")
        for name in (
            "../1.safetensors", "/etc/1.safetensors", "x/1.safetensors", "x\\1.safetensors", "C:1.safetensors",
            ".safetensors", "1.bin", "", f"{'x' * 300}.safetensors", "\ud800.safetensors",
            "..", "a\0.safetensors", "a\n.safetensors",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_INDEXES)
def test_a_bad_index_is_refused_by_name(name: str, tmp_path: Path) -> None:
    index, files, expected = BAD_INDEXES[name]
    assert expected in refusal(folder(tmp_path / "m", files, index))


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", {})
    assert "has config.json but no model.safetensors; download the weights" in refusal(path)
    (path / "pytorch_model.bin").touch()
    assert "'pytorch_model.bin' is no safetensors file, convert it" in refusal(path)
    folder(path, {"a.safetensors": ONE})
    assert [*open_checkpoint(path).tensors] == ["a"]
    folder(path, {"b.safetensors": TWO})
    assert "has 2 safetensors files ('a.safetensors', 'b.safetensors', ...) and no model.safetensors.index" in refusal(
        path
    )
    (path / "adapter_config.json").write_text("{}", "utf-8")
    assert "is an adapter (LoRA)" in refusal(path)
    with pytest.raises(CheckpointError, match="is one file of a model; name the folder"):
        open_checkpoint(path / "a.safetensors")
    assert "is a folder without config.json; name a GGUF file, or a folder" in refusal(folder(tmp_path, {}).parent)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json"])
def test_what_is_no_regular_file_is_refused(name: str, tmp_path: Path) -> None:
    path = folder(tmp_path / "m", {"model.safetensors": ONE})
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name)
    assert "is no regular file" in refusal(path)
    (path / name).unlink()
    (path / name).mkdir()
    assert "is no regular file" in refusal(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "config.json: the file cannot be read as JSON"),
        ("[1]", "config.json: the file is not a JSON object"),
        ('{"a": {"b": 1}, "a.b": 2}', "key 'a.b' occurs twice"),
        ('{"a": 1, "a": 1}', "has the key 'a' twice"),
        ('{"text_config": 3}', "text_config is not an object"),
        ('{"a": "' + "x" * (1 << 24) + '"}', "more than the 16777216 that imp reads"),
    ],
)
def test_a_bad_config_is_refused(text: str, expected: str, tmp_path: Path) -> None:
    path = folder(tmp_path / "m", {"model.safetensors": ONE})
    (path / "config.json").write_text(text, "utf-8")
    assert expected in refusal(path)


def config(tmp_path: Path, text: str) -> FolderCheckpoint:
    path = folder(tmp_path / "m", {"model.safetensors": ONE})
    (path / "config.json").write_text(text, "utf-8")
    return FolderCheckpoint(path)


def test_both_spellings_of_a_config(tmp_path: Path) -> None:
    old = '{"rope_theta": 5e5, "rope_scaling": {"type": "yarn", "factor": 4}, "hidden_size": 8, "num_hidden_layers": 2}'
    new = (
        '{"rope_parameters": {"rope_theta": 500000, "rope_type": "yarn", "factor": 4.0},'
        ' "text_config": {"hidden_size": 8}, "vision_config": {"hidden_size": 9, "more": {}}, "num_hidden_layers": 2}'
    )
    for text in (old, new):
        keys = config(tmp_path, text).metadata
        assert keys.number("any.rope.freq_base") == 500000
        assert keys.string("any.rope.scaling.type") == "yarn"
        assert keys.number("any.rope.scaling.factor") == 4
        assert keys.integer("any.embedding_length") == 8
        assert keys.unread() == ["num_hidden_layers"]


def test_what_a_config_leaves_open(tmp_path: Path) -> None:
    keys = config(
        tmp_path,
        '{"sliding_window": null, "rope_theta": 2, "rope_parameters": {"rope_theta": 3}, "head_dim": "x", "nan": NaN,'
        ' "inf": {"__float__": "Infinity"}, "huge": 1' + "0" * 309 + ', "rope_scaling": {"factor": 2.0}}',
    ).metadata
    keys.assume({"sliding_window": 4096, "rms_norm_eps": 1e-6, "tie_word_embeddings": True})
    assert keys.integer("a.attention.sliding_window", 0) == 0  # null is none, not the class's default
    assert keys.number("a.attention.layer_norm_rms_epsilon") == 1e-6
    assert keys.boolean("tie_word_embeddings")
    for key, words in {
        "a.rope.freq_base": "rope_parameters.rope_theta is 3, but rope_theta is 2; they mean the same",
        "a.attention.key_length": "head_dim is 'x', expected a finite number",
        "nan": "nan is nan, expected a finite number",
        "inf": "inf is inf, expected a finite number",
        "huge": "huge is 1000",
        "a.context_length": "has no key max_position_embeddings (expected a finite number)",
    }.items():
        with pytest.raises(CheckpointError) as caught:
            keys.number(key)
        assert f"config.json: {words}" in str(caught.value)
    assert keys.unread() == ["rope_scaling.factor"]


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited through /proc")
def test_mutated_folders_are_read_or_refused() -> None:
    command = [sys.executable, str(TESTS / "fuzz" / "fuzz_folder.py"), "--cases", "500", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
