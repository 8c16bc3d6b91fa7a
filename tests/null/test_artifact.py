from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tiny_artifact import BLOBS, METADATA, make_plan, plane_bytes, write_tiny

from imp_runtime.artifact import Artifact, ArtifactError
from imp_runtime.artifact_writer import write_artifact
from imp_runtime.errors import ImpError
from imp_runtime.version import READ_BY, VERSION, misfit

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))
from fuzz_artifact import fuzz, join, sealed, split


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny.impc")


def test_what_was_written_is_read(tiny: Path) -> None:
    artifact = Artifact.open(tiny)
    assert artifact.plan == make_plan()
    assert {name: artifact.read(name) for name in BLOBS} == BLOBS
    assert artifact.metadata == METADATA | {"format": "impc", "format_version": "2", "runtime": READ_BY}
    for name, content in plane_bytes(make_plan()).items():
        assert artifact.plane(name).tobytes() == content
        assert not artifact.plane(name).flags.writeable
    lengths = {**{n: len(b) for n, b in BLOBS.items()}, "weights/embed": 300, "weights/head": 256}
    assert dict(artifact.names()) == lengths | {"plan.json": len(make_plan().to_json()), "checksums": 6 * 8}
    assert [name for name, _ in artifact.names()][-3:] == ["weights/embed", "weights/head", "checksums"]
    assert artifact.has("tokenizer.json")
    assert not artifact.has("generation.json")
    with pytest.raises(ArtifactError, match=r"tiny.impc: has no 'generation.json'"):
        artifact.read("generation.json")


def test_the_safetensors_library_reads_it_and_all_is_aligned(tiny: Path) -> None:
    tensors = load_file(tiny)
    for name, content in plane_bytes(make_plan()).items():
        tensor = tensors[f"weights/{name}"]
        assert tensor.dtype == np.uint8
        assert tensor.tobytes() == content + bytes(-len(content) % 256)
    assert tensors["code/fake"].tobytes() == BLOBS["code/fake"].ljust(256, b"\0")
    with safe_open(tiny, framework="np") as file:
        assert file.metadata()["format"] == "impc"
    data = tiny.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    assert start % 256 == 0
    header = json.loads(data[8:start])
    assert all(n % 256 == 0 for name in tensors for n in header[name]["data_offsets"])


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_tiny(tmp_path / "a.impc").read_bytes()
    content = plane_bytes(make_plan())
    write_artifact(
        tmp_path / "b.impc",
        make_plan(),
        dict(reversed(BLOBS.items())),
        dict(reversed(METADATA.items())),
        ((name, [np.frombuffer(data, np.uint16).reshape(2, -1)]) for name, data in content.items()),
    )
    assert (tmp_path / "b.impc").read_bytes() == first


def test_replacing_a_file_keeps_the_old_map_whole(tiny: Path) -> None:
    artifact = Artifact.open(tiny)
    write_tiny(tiny, rows=16)
    assert artifact.plane("embed").tobytes() == plane_bytes(make_plan())["embed"]
    assert Artifact.open(tiny).plan.rows == 16


@pytest.mark.parametrize(
    ("planes", "message"),
    [
        ([("embed", [b"x" * 299])], "'embed' must have 300 bytes, not 299"),
        ([("embed", [b"x" * 200, b"x" * 101])], "'embed' must have 300 bytes, not 301"),
        ([("head", [b"x" * 256])], "must be 'embed', not 'head'"),
        ([("embed", [b"x" * 300])], "must be 'head', not 'nothing'"),
        ([("embed", [b"x" * 300]), ("head", [b"x" * 256]), ("more", [])], "'more' is not in the plan"),
    ],
)
def test_planes_must_be_as_the_plan_says(tmp_path: Path, planes: list[tuple[str, list[bytes]]], message: str) -> None:
    path = tmp_path / "tiny.impc"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=message):
        write_artifact(path, make_plan(), BLOBS, METADATA, planes)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("tiny.impc", b"old")]


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
def test_a_failure_leaves_nothing_half_written(tmp_path: Path, failure: BaseException) -> None:
    def broken() -> Iterator[tuple[str, list[bytes]]]:
        yield "embed", [b"x" * 300]
        raise failure

    with pytest.raises(KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else ImpError) as caught:
        write_artifact(tmp_path / "tiny.impc", make_plan(), BLOBS, METADATA, broken())
    if isinstance(failure, OSError):
        assert str(caught.value).endswith("tiny.impc: cannot be written: No space left on device; nothing was changed")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_but_not_what_is_being_written(tmp_path: Path) -> None:
    left, busy, other = (tmp_path / f".{name}.tmp" for name in ("tiny.impc.17", "tiny.impc.18", "tiny.impcx.19"))
    for path in (left, busy, other):
        path.write_bytes(b"half")
    with busy.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_tiny(tmp_path / "tiny.impc")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([busy.name, other.name, "tiny.impc"])


def test_a_disk_too_small_is_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(ImpError, match=r"needs [\d,]+ bytes but the disk has 1,000 left"):
        write_tiny(tmp_path / "tiny.impc")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ImpError, match="cannot be written: No such file or directory"):
        write_tiny(tmp_path / "none" / "tiny.impc")


def test_damaged_and_foreign_files(tmp_path: Path, tiny: Path) -> None:
    data = tiny.read_bytes()
    cases: list[tuple[bytes, str]] = [
        (b"", "0 bytes is too short"),
        (b"GGUX" + bytes(100), "header length .* is more than"),
        (b"GGUF" + bytes(100), "is a GGUF file, not a compiled model; compile it first: imp compile"),
        (data[:-1], "the header cannot be read|end at byte|do not fit"),
        (data[: len(data) // 2], "compile the model again"),
        (data + bytes(256), "compile the model again"),
        (
            data.replace(b'"format_version":"2"', b'"format_version":"1"'),
            r"format_version is '1', this version reads '2'",
        ),
        (data.replace(b'"runtime":">=0.1', b'"runtime":">=0.x'), "'>=0.x.0,<0.2.0' is not a range of versions like"),
        (data.replace(b'"runtime"', b'"runtimm"'), "lacks runtime"),
        (data.replace(b'"format":"impc"', b'"format":"impX"'), r"is not an .impc file .*'impX'"),
        (data.replace(b'"imp_version"', b'"imp_versium"'), "lacks imp_version"),
        (data.replace(b'\\"tokenizer.json\\":400', b'\\"tokenizer.json\\":600'), r"lengths\['tokenizer.json'\] is 600"),
        (sealed(data.replace(b'"nbytes":300,', b'"nbytes":200,')), r"plane 'embed' has 512 bytes, the plan says 256"),
        (
            sealed(data.replace(b'"code":"code/fake"', b'"code":"code/fakX"')),
            "has no tensor 'code/fakX', the code of target 'fake'",
        ),
        (sealed(data.replace(b'"vocab":61', b'"vocab":-1')), "vocab is -1"),
        (data.replace(b'"vocab":61', b'"vocab":62'), "'plan.json' is not what its checksum says; the file is damaged"),
        (data[:-1] + b"\1", "the padding of 'checksums' is not zero"),
        (
            data.replace(b'\\"checksums\\":48', b'\\"checksums\\":40'),
            "checksums has 40 bytes, expected 8 for each of 6",
        ),
        (data.replace(b'\\"checksums\\"', b'\\"checksumz\\"'), r"lengths\['checksumz'\] is 48"),
    ]
    for content, message in cases:
        assert content != data
        path = tmp_path / "damaged.impc"
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        with pytest.raises(ImpError, match=message) as caught:
            Artifact.open(path)
        assert "damaged.impc: " in str(caught.value)


@pytest.mark.parametrize(
    ("read_by", "words"),
    [
        (">=0.3.0,<0.4.0", f"needs imp 0.3.0 or newer, this is {VERSION}; install imp>=0.3.0,<0.4.0, or compile the"),
        (">=0.0.8,<0.1.0", f"needs imp older than 0.1.0, this is {VERSION}; install imp>=0.0.8,<0.1.0, or compile the"),
    ],
)
def test_another_version_says_which_to_install(tmp_path: Path, tiny: Path, read_by: str, words: str) -> None:
    """Before anything else that another version may have otherwise: here the number of the container."""
    data = tiny.read_bytes().replace(READ_BY.encode(), read_by.encode())
    path = tmp_path / "other.impc"
    path.write_bytes(data.replace(b'"format_version":"2"', b'"format_version":"9"'))
    with pytest.raises(ArtifactError) as caught:
        Artifact.open(path)
    assert str(caught.value).startswith(f"{path}: {words}")


def test_versions_are_compared_as_numbers() -> None:
    assert misfit(READ_BY) is None
    assert misfit(">=0.9.0,<0.11.0", "0.10.0") is None
    assert misfit(">=0.9.0,<0.11.0", "0.11.0") is not None
    for wrong in (
        "",
        ">=0.1",
        ">=0.1.0,<0.2.0 ",
        ">=0.1.0,<0.2.0\n",
        ">=\u0661.0.0,<2.0.0",
        f">={'1' * 5000}.0.0,<2.0.0",
    ):
        with pytest.raises(ValueError, match="is not a range of versions"):
            misfit(wrong)


def test_a_key_must_not_occur_twice(tmp_path: Path, tiny: Path) -> None:
    header, body = split(tiny.read_bytes())
    path = tmp_path / "damaged.impc"
    path.write_bytes(join(header.replace(b'"format":"impc"', b'"format":"x","format":"impc"').rstrip(), body))
    with pytest.raises(ImpError, match=r"the header cannot be read \((a key occurs twice|.*duplicate)"):
        Artifact.open(path)


def test_padding_must_be_zero(tmp_path: Path, tiny: Path) -> None:
    data = bytearray(tiny.read_bytes())
    data[-256 - 257] = 1
    path = tmp_path / "damaged.impc"
    path.write_bytes(data)
    with pytest.raises(ImpError, match=r"the padding of 'weights/embed' is not zero"):
        Artifact.open(path)


def test_other_safetensors_files_and_folders(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": np.zeros((2, 3), np.float32)}, path)
    with pytest.raises(ImpError, match=r"model.safetensors: is not an .impc file"):
        Artifact.open(path)
    with pytest.raises(ImpError, match="cannot be read: No such file"):
        Artifact.open(tmp_path / "none.impc")
    with pytest.raises(ImpError, match="is a folder, not a compiled model"):
        Artifact.open(tmp_path)


def test_checksums_are_those_of_the_content(tiny: Path) -> None:
    assert sealed(tiny.read_bytes()) == tiny.read_bytes()
    with Artifact.open(tiny).compared():
        pass


def test_a_flipped_byte_is_named(tmp_path: Path, tiny: Path) -> None:
    """The first and the last of every blob and plane."""
    whole = tiny.read_bytes()
    path = tmp_path / "damaged.impc"
    start = 8 + int.from_bytes(whole[:8], "little")
    places = {
        name: [start + at for at in (info["data_offsets"][0], info["data_offsets"][0] + length - 1)]
        for name, info in json.loads(whole[8:start]).items()
        if (length := dict(Artifact.open(tiny).names()).get(name)) and name != "checksums"
    }
    assert len(places) == 5
    for name, ends in places.items():
        for at in ends:
            data = bytearray(whole)
            data[at] ^= 1
            path.unlink(missing_ok=True)
            path.write_bytes(data)
            shown = f"plane '{name.removeprefix('weights/')}'" if name.startswith("weights/") else f"'{name}'"
            with (
                pytest.raises(ArtifactError, match=f"damaged.impc: {shown} is not what its checksum says"),
                Artifact.open(path).compared(),
            ):
                pass
            if not name.startswith("weights/"):  # a blob is compared whenever it is read
                with pytest.raises(ArtifactError, match=f"damaged.impc: {shown} is not what its checksum says"):
                    Artifact.open(path).read(name)


def test_two_thousand_damaged_files(tmp_path: Path) -> None:
    opened, refused = fuzz(2000, 0, tmp_path)
    assert opened + refused == 2000
    assert refused > 1000
    assert opened > 20
