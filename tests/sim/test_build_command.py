"""`imp build`: a list of models, built, left alone where nothing changed, and what is said of one that fails."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from imp_runtime.artifact import Artifact
from imp_runtime.version import READ_BY
from imp_server.cli import execute
from imp_server.commands import build

DEMO = Path(__file__).parents[2] / "models" / "demo.gguf"
LLAMA = Path(__file__).parents[1] / "fixtures" / "llama" / "hf"
LIST = '[[model]]\nname = "demo"\nsource = "demo.gguf"\ntargets = ["sim"]\ncontext = 64\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("list")
    shutil.copy(DEMO, folder / "demo.gguf")
    (folder / "bad.gguf").write_bytes(b"GGUF" + bytes(30))
    bad = LIST.replace('"demo"', '"bad"').replace("demo.gguf", "bad.gguf")
    (folder / "models.toml").write_text(bad + LIST)
    assert execute(["build", str(folder / "models.toml"), "-o", str(folder / "dist")]) == 1
    return folder


def outcomes(path: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    capsys.readouterr()
    execute(["build", str(path), "-o", str(output), "--json"])
    found = json.loads(capsys.readouterr().out)["outcomes"]
    assert isinstance(found, dict)
    return found


def test_a_thin_entry_and_the_licence_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What changes in a folder of a folder is a change; what failed later does not look as if it were current."""
    shutil.copytree(LLAMA, tmp_path / "llama")
    (tmp_path / "llama" / "README.md").write_text(
        '---\ntags:\n- x\nlicense: other\nlicense_name: "some-licence"\n---\n'
    )
    path, output = tmp_path / "m.toml", tmp_path / "dist"
    path.write_text(LIST.replace("demo.gguf", "llama") + "thin = true\n")
    assert outcomes(path, output, capsys)["demo"].startswith("built")
    (model,) = json.loads((output / "index.json").read_text())["models"]
    assert (model["thin"], model["licence"], model["runtime"]) == (True, "some-licence", READ_BY)
    thin = Artifact.open(output / "demo.impc", thin=True)
    assert thin.thin
    content = (output / "demo.impc").read_bytes()
    assert (output / "SHA256SUMS").read_text() == f"{hashlib.sha256(content).hexdigest()}  demo.impc\n"
    assert (
        execute(["link", str(output / "demo.impc"), str(tmp_path / "llama"), "-o", str(tmp_path / "whole.impc")]) == 0
    )
    assert outcomes(path, output, capsys) == {"demo": "unchanged"}
    (tmp_path / "llama" / "1_Pooling").mkdir()
    (tmp_path / "llama" / "1_Pooling" / "config.json").write_text("{")
    assert outcomes(path, output, capsys)["demo"] != "unchanged"
    (tmp_path / "llama" / "config.json").write_text("{")
    assert outcomes(path, output, capsys)["demo"].startswith("failed: ")
    index = json.loads((output / "index.json").read_text())
    assert (index["models"], [each["name"] for each in index["failed"]]) == ([], ["demo"])
    assert not (output / "demo.impc").exists()
    assert (output / "SHA256SUMS").read_text() == ""


def test_the_code_that_decides_bytes_counts() -> None:
    """All of imp that is loaded to compile and to describe templates, but what only shows it."""
    program = "import sys, imp_codegen.compiler, imp_server.chat.probe; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if name.startswith("imp_server.")}
    deciding = {each.removesuffix(".py") for each in build._DECIDING}
    assert "imp_server.chat.template" in loaded
    assert {name.split(".")[1] for name in loaded} <= deciding


def test_what_failed_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "gone.toml"
    path.write_text(LIST.replace("demo.gguf", "gone.gguf"))
    assert execute(["build", str(path), "-o", str(folder / "other"), "--json"]) == 1
    outcome = json.loads(capsys.readouterr().out)["outcomes"]["demo"]
    assert outcome.startswith("failed: ")
    assert "gone.gguf" in outcome
    assert "Errno" not in outcome


@pytest.mark.thorough
def test_the_same_bytes_wherever_it_is_built(tmp_path: Path) -> None:
    """Each from an empty cache; one of the two on a single core, with a Turkish i."""
    made = []
    turkish = {"PYTHONHASHSEED": "2", "LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Tokyo"}
    for name, cores, umask, more in (
        ("a", os.sched_getaffinity(0), 0o022, {"PYTHONHASHSEED": "1", "LC_ALL": "C", "TZ": "UTC"}),
        ("b c", {min(os.sched_getaffinity(0))}, 0o077, turkish),
    ):
        here = tmp_path / name
        shutil.copytree(LLAMA, here / "llama")
        entry = LIST.replace("demo.gguf", "llama").replace('["sim"]', '["sim", "sm_120a"]')
        (here / "m.toml").write_text(entry + entry.replace('"demo"', '"thin"') + "thin = true\n")
        subprocess.run(
            [sys.executable, "-m", "imp_server", "build", "m.toml", "-o", "dist"],
            cwd=here,
            env=os.environ | {"IMP_CACHE_DIR": str(here / "cache")} | more,
            check=True,
            umask=umask,
            preexec_fn=lambda cores=cores: os.sched_setaffinity(0, cores),  # type: ignore[misc]
        )
        made.append({path.name: path.read_bytes() for path in (here / "dist").iterdir()})
    assert set(made[0]) >= {"demo.impc", "thin.impc", "index.json", "sbom.cdx.json"}
    assert made[0] == made[1], "what lies beside them, too"


def test_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    shutil.copy(DEMO, tmp_path)
    (tmp_path / "m.toml").write_text(LIST + LIST.replace('name = "demo"', 'name = "other"'))
    process = subprocess.Popen(
        [sys.executable, "-m", "imp_server", "build", "m.toml", "-o", "dist"],
        cwd=tmp_path,
        env=os.environ | {"IMP_CACHE_DIR": str(tmp_path / "cache")},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("demo: build"):
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=2)  # a compile takes longer
    assert process.returncode == 130
    assert list((tmp_path / "dist").iterdir()) == []


def test_one_that_fails_leaves_the_others_built(folder: Path) -> None:
    index = json.loads((folder / "dist" / "index.json").read_text())
    (model,) = index["models"]
    content = (folder / "dist" / model["file"]).read_bytes()
    assert (model["bytes"], model["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert model["inputs"] == [
        {"name": "demo.gguf", "bytes": DEMO.stat().st_size, "sha256": hashlib.sha256(DEMO.read_bytes()).hexdigest()}
    ]
    assert Artifact.open(folder / "dist" / "demo.impc").plan.context == 64
    assert model["sha256"] in (folder / "dist" / "index.html").read_text()
    tools = {
        each["name"]: each["version"]
        for each in json.loads((folder / "dist" / "sbom.cdx.json").read_text())["components"]
    }
    assert tools["g++"] == model["compilers"]["g++"]
    assert "nvcc" not in tools, "which no target of the list takes"


def test_what_is_unchanged_is_left_and_what_changed_is_built(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, artifact = folder / "good.toml", folder / "dist" / "demo.impc"
    path.write_text(LIST)

    def outcome() -> str:
        assert execute(["build", str(path), "-o", str(folder / "dist"), "--json"]) == 0
        return str(json.loads(capsys.readouterr().out)["outcomes"]["demo"])

    capsys.readouterr()
    before, content = artifact.stat(), artifact.read_bytes()
    assert outcome() == "unchanged"
    assert (artifact.stat().st_ino, artifact.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    artifact.write_bytes(content[:-1])
    old, here = os.umask(0o077), Path.cwd()
    os.chdir(folder)
    try:  # anew at another time, with another umask, in another folder: the same bytes
        assert outcome().startswith("built")
    finally:
        os.umask(old)
        os.chdir(here)
    assert artifact.read_bytes() == content
    path.write_text(LIST.replace("64", "32"))
    assert outcome().startswith("built")
    assert Artifact.open(artifact).plan.context == 32


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LIST + "speed = 3\n", "model 1 (demo): speed is unknown; known: name, source, targets"),
        (LIST.replace("64", '"64"'), "context is '64', expected a whole number"),
        (LIST.replace('"demo"', '"../demo"'), "name must be letters"),
        (LIST.replace('["sim"]', "[]"), "targets is missing"),
        (LIST.replace('"sim"', '"sm_1"'), "model 1 (demo): "),
        (LIST + 'prefill = "fp4"\n', "model 1 (demo): --prefill 'fp4' is unknown; known: f16, w4a4"),
        (LIST + LIST, "two entries have the name demo"),
        ("x = 1\n", "x is unknown"),
        ("", "lists no model"),
        ("[[", "cannot be read as TOML"),
    ],
)
def test_lists_that_are_wrong(tmp_path: Path, text: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.toml").write_text(text)
    assert execute(["build", str(tmp_path / "m.toml"), "-o", str(tmp_path / "dist")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"imp: error: {tmp_path / 'm.toml'}: ")
    assert words in error
    assert not (tmp_path / "dist").exists()
