"""A checkpoint on the Hub without its weights: the listing with their hashes, the texts, and ranges of the files."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelInfo, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # of its documented interface, yet not in an __all__
    build_hf_headers,
    hf_raise_for_status,
    http_stream_backoff,
)

from imp_server.remote.download import CONFIG, DownloadError, choose, from_hub, listing, refused

_LARGEST_PLAIN = 1 << 25  # bytes of a file that the Hub keeps in git itself, and so without a SHA-256


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of weights, with the SHA-256 that the Hub tells, in hexadecimal."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class RemoteHeads:
    """What is needed of a checkpoint to compile it without its weights.

    `folder` has its texts, and is called as in the Hub's cache, as a model without a name of its own is called so.
    """

    source: str
    repo: str
    revision: str
    folder: Path
    files: tuple[RemoteFile, ...]
    places: dict[str, str]

    def read(self, name: str, begin: int, end: int) -> bytes:
        """The bytes begin..end of a file of weights. Raises DownloadError."""
        return _read(self.source, self.repo, self.revision, self.places[name], begin, end)


def heads(source: str, place: Path) -> RemoteHeads | Path:
    """What `source`, hf:org/repo[:QUANT], has besides weights, in a folder in `place`. Raises DownloadError.

    Where the Hub does not answer, what is in the cache, as download() has it.
    """

    def fetch(repo: str, quant: str | None) -> RemoteHeads:
        info = listing(repo, files_metadata=True)
        revision = info.sha
        names = choose(source, [each.rfilename for each in info.siblings or ()], quant)
        weights = [name for name in names if name.lower().endswith((".gguf", ".safetensors"))]
        if revision is None or len({Path(name).name for name in weights}) < len(weights):
            raise DownloadError(f"{source}: what the Hub lists cannot be told apart; download it and name its path")
        folder = place / f"models--{repo.replace('/', '--')}" / "snapshots" / revision
        folder.mkdir(parents=True)
        if names[0] == CONFIG:
            for name in names:
                if name not in weights:
                    (folder / name).parent.mkdir(exist_ok=True)
                    shutil.copyfile(hf_hub_download(repo, name, revision=revision), folder / name)
        files = _files(source, repo, revision, info, weights)
        return RemoteHeads(source, repo, revision, folder, files, {Path(name).name: name for name in weights})

    return from_hub(source, fetch)


def _files(source: str, repo: str, revision: str, info: ModelInfo, weights: Sequence[str]) -> tuple[RemoteFile, ...]:
    """The listing of files with their hashes; what is too small to have one is read."""
    siblings = {each.rfilename: each for each in info.siblings or ()}
    found = []
    for name in weights:
        size, lfs = siblings[name].size, siblings[name].lfs
        if size is None or (lfs is None and size > _LARGEST_PLAIN):
            raise DownloadError(f"{source}: the Hub does not say how long {name} is, or not its SHA-256; download it")
        content = None if lfs is not None else _read(source, repo, revision, name, 0, size)
        sha256 = lfs.sha256 if content is None and lfs is not None else hashlib.sha256(content or b"").hexdigest()
        found.append(RemoteFile(Path(name).name, size, sha256))
    return tuple(found)


def _read(source: str, repo: str, revision: str, name: str, begin: int, end: int) -> bytes:
    if begin == end:
        return b""
    headers = {**build_hf_headers(), "Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
    parts, count = [], 0
    try:
        with http_stream_backoff("GET", hf_hub_url(repo, name, revision=revision), headers=headers) as response:
            hf_raise_for_status(response)
            if response.status_code == 206:
                for part in response.iter_bytes():
                    parts.append(part)
                    count += len(part)
                    if count > end - begin:
                        break
    except HfHubHTTPError as error:
        raise refused(source, repo, error) from None
    except Exception as error:  # the client's, of whichever version
        raise DownloadError(f"{source}: {name} cannot be read: {error or type(error).__name__}") from None
    if count != end - begin:
        raise DownloadError(f"{source}: the Hub does not give the bytes {begin} to {end} of {name} alone; download it")
    return b"".join(parts)
