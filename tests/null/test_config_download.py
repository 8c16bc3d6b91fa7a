"""hf: sources, against a Hub that is not there and a cache written by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path

import httpx
import huggingface_hub
import pytest
from huggingface_hub import ModelInfo
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from imp_server.cli import execute
from imp_server.remote import download as module
from imp_server.remote.download import DownloadError, download

FILES = ("README.md", "m-Q4_K_M.gguf", "m-Q4_K.gguf", "m-Q8_0.gguf", "mmproj-m-f16.gguf")


def fail_with(error: Exception) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


def listing(*names: str) -> Callable[..., ModelInfo]:
    return lambda self, repo, timeout, files_metadata: ModelInfo(
        id=repo, siblings=[{"rfilename": name} for name in names]
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's layout: refs/main names a snapshot, which holds the files."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(module.HfApi, "model_info", fail_with(httpx.ConnectError("no network")))
    repo = tmp_path / "models--org--m-GGUF"
    snapshot = repo / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40, "utf-8")
    (repo / "blobs").mkdir()
    for i, name in enumerate(FILES):
        (repo / "blobs" / str(i)).write_text(name, "utf-8")
        (snapshot / name).symlink_to(repo / "blobs" / str(i))
    return snapshot


def test_without_a_network_the_cache_is_used(cache: Path) -> None:
    for quant, name in (("q8_0", "m-Q8_0.gguf"), ("Q4_K", "m-Q4_K.gguf"), ("Q4_K_M", "m-Q4_K_M.gguf")):
        assert download(f"hf:org/m-GGUF:{quant}") == cache / name


CLIENT = sys.modules[HfHubHTTPError.__bases__[0].__module__.partition(".")[0]]  # httpx, or httpx2 from version 2 on


@pytest.mark.parametrize(
    "client", sorted({httpx, CLIENT}, key=lambda client: client.__name__), ids=lambda client: client.__name__
)
@pytest.mark.parametrize("kind", ["ConnectError", "ConnectTimeout", "ReadTimeout", "ProxyError", "RemoteProtocolError"])
def test_either_client_may_fail(
    cache: Path, monkeypatch: pytest.MonkeyPatch, client: types.ModuleType, kind: str
) -> None:
    monkeypatch.setattr(module.HfApi, "model_info", fail_with(getattr(client, kind)("no network")))
    assert download("hf:org/m-GGUF:Q8_0") == cache / "m-Q8_0.gguf"
    with pytest.raises(DownloadError, match="the Hub cannot be reached and org/none is not in the cache"):
        download("hf:org/none:Q8_0")
    monkeypatch.setattr(module.HfApi, "model_info", listing(*FILES))
    monkeypatch.setattr(module, "hf_hub_download", fail_with(getattr(client, kind)("lost")))
    assert download("hf:org/m-GGUF:Q8_0") == cache / "m-Q8_0.gguf"


def test_a_proxy_that_is_none_does_not_hide_the_cache(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "imp_server", "compile", "hf:org/none:Q8_0", "-o", str(tmp_path / "x.impc")]
    for variables, words in (
        (
            {"ALL_PROXY": "foo://x", "HTTPS_PROXY": "foo://x", "HTTP_PROXY": "foo://x"},
            "the Hub cannot be asked (Unknown",
        ),
        ({"HF_HUB_ETAG_TIMEOUT": "soon"}, "a variable HF_... is not what huggingface_hub expects"),
    ):
        environment = {**os.environ, "HF_HOME": str(tmp_path), "NO_PROXY": "", "no_proxy": "", **variables}
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
        assert done.returncode == 2
        assert done.stderr.startswith("imp: error: ")
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_network_that_swallows_everything_is_not_waited_for(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forever = threading.Event()
    monkeypatch.setattr(module.HfApi, "model_info", lambda *_, **__: forever.wait(60))
    start = time.monotonic()
    assert download("hf:org/m-GGUF:Q8_0") == cache / "m-Q8_0.gguf"
    assert time.monotonic() - start < 4
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "1")
    with pytest.raises(DownloadError, match=r"the Hub did not answer in 1 s .* org/none is not in the cache"):
        download("hf:org/none:Q8_0")
    forever.set()


def test_a_snapshot_that_lacks_other_files_will_do(cache: Path) -> None:
    """Version 2 keeps the list of a commit's files, and calls a snapshot without all of them incomplete."""
    trees = cache.parents[1] / "trees"
    trees.mkdir()
    files = {"m-Q2_K.gguf": {"size": 1, "blob_id": "0" * 40}}
    (trees / f"{cache.name}.json").write_text(json.dumps({"format_version": 1, "files": files}), "utf-8")
    assert download("hf:org/m-GGUF:Q8_0") == cache / "m-Q8_0.gguf"


def test_a_full_disk_is_not_taken_for_a_lost_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.HfApi, "model_info", listing(*FILES))
    monkeypatch.setattr(module, "hf_hub_download", fail_with(OSError(28, "No space left on device")))
    with pytest.raises(DownloadError, match="No space left on device"):
        download("hf:org/m-GGUF:Q8_0")


def test_a_broken_hub_does_not_hide_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    response = httpx.Response(503, request=httpx.Request("GET", "https://huggingface.co/api"))
    monkeypatch.setattr(module.HfApi, "model_info", fail_with(HfHubHTTPError("no", response=response)))
    assert download("hf:org/m-GGUF:Q8_0") == cache / "m-Q8_0.gguf"


def test_which_file(cache: Path) -> None:
    with pytest.raises(DownloadError, match=r"more than one fits; add :QUANT for one of m-Q4_K.gguf, m-Q4_K_M.gguf"):
        download("hf:org/m-GGUF")
    with pytest.raises(DownloadError, match=r"no file is Q2_K; .* m-Q8_0.gguf$"):
        download("hf:org/m-GGUF:Q2_K")
    for name in ("m-Q4_K_M.gguf", "m-Q4_K.gguf"):
        (cache / name).unlink()
    assert download("hf:org/m-GGUF").name == "m-Q8_0.gguf"
    for name in ("m-Q8_0.gguf", "mmproj-m-f16.gguf"):
        (cache / name).unlink()
    with pytest.raises(DownloadError, match="the Hub cannot be reached"):
        download("hf:org/m-GGUF")


def test_online_the_hub_decides_and_its_cache_is_filled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def fetch(repo: str, name: str) -> str:
        asked.append((repo, name))
        return str(tmp_path / name)

    monkeypatch.setattr(module.HfApi, "model_info", listing(*FILES))
    monkeypatch.setattr(module, "hf_hub_download", fetch)
    assert download("hf:org/m-GGUF:Q8_0") == tmp_path / "m-Q8_0.gguf"
    assert asked == [("org/m-GGUF", "m-Q8_0.gguf")]
    parts = [f"m-Q8_0-0000{i}-of-00002.gguf" for i in (1, 2)]
    monkeypatch.setattr(module.HfApi, "model_info", listing(*parts))
    for source in ("hf:org/m-GGUF:Q8_0", "hf:org/m-GGUF"):
        asked.clear()
        assert download(source) == tmp_path / parts[0]
        assert asked == [("org/m-GGUF", part) for part in parts]
    monkeypatch.setattr(module.HfApi, "model_info", listing(*parts, "m-Q4_K-00001-of-00001.gguf"))
    with pytest.raises(DownloadError, match="more than one fits"):
        download("hf:org/m-GGUF")
    monkeypatch.setattr(module.HfApi, "model_info", listing("model.safetensors"))
    with pytest.raises(DownloadError, match="no GGUF"):
        download("hf:org/m")
    with pytest.raises(DownloadError, match="no GGUF"):
        download("hf:org/m:Q8_0")


FOLDER = (
    "config.json", "README.md", "consolidated.safetensors", "chat_template.jinja", "generation_config.json",
    "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
    "original/model.safetensors", "pytorch_model.bin", "tokenizer.json", "tokenizer_config.json",
)  # fmt: skip
OF_THE_MODEL = {
    "config.json", "chat_template.jinja", "generation_config.json", "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


@pytest.mark.parametrize(("files", "source"), [(FOLDER, "hf:org/m"), ((*FOLDER, *FILES), "hf:org/m:safetensors")])
def test_a_folder_is_fetched_without_what_is_no_part_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: tuple[str, ...], source: str
) -> None:
    asked = []

    def fetch(repo: str, name: str) -> str:
        asked.append(name)
        return str(tmp_path / name)

    monkeypatch.setattr(module.HfApi, "model_info", listing(*files))
    monkeypatch.setattr(module, "hf_hub_download", fetch)
    assert download(source) == tmp_path
    assert set(asked) == OF_THE_MODEL
    assert len(asked) == len(OF_THE_MODEL)


def test_a_folder_in_the_cache(cache: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (cache / name).touch()
    assert download("hf:org/m-GGUF:safetensors") == cache
    assert download("hf:org/m-GGUF:Q8_0") == cache / "m-Q8_0.gguf"
    for path in cache.glob("*.gguf"):
        path.unlink()
    assert download("hf:org/m-GGUF") == cache
    (cache / "config.json").unlink()
    with pytest.raises(DownloadError, match="the Hub cannot be reached and org/m-GGUF is not in the cache"):
        download("hf:org/m-GGUF")


@pytest.mark.parametrize(
    ("kind", "status", "words"),
    [
        (RepositoryNotFoundError, 404, "no such repository"),
        (GatedRepoError, 403, "https://huggingface.co/org/m"),
        (HfHubHTTPError, 500, "answered 500"),
    ],
)
def test_what_the_hub_refuses(
    monkeypatch: pytest.MonkeyPatch, kind: type[HfHubHTTPError], status: int, words: str
) -> None:
    response = httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/api"))
    monkeypatch.setattr(module.HfApi, "model_info", fail_with(kind("no", response=response)))
    with pytest.raises(DownloadError, match=words):
        download("hf:org/m")


def test_errors_of_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for source, words in (
        ("hf:org", "write hf:org/repo"),
        ("hf:org/m:", "write hf:org/repo"),
        ("hf:../..", "hf:../.."),
        ("hf:org/none:Q8_0", "org/none is not in the cache"),
    ):
        assert execute(["compile", source, "-o", str(tmp_path / "x.impc")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("imp: error: ")
        assert words in error
        assert error.count("\n") == 1
