"""An artifact out of an index of `imp build`, which may be a stranger's: nothing it says is believed unchecked."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote, urljoin, urlsplit

import httpx

from imp_runtime.errors import ImpError
from imp_runtime.version import misfit

INDEX = "index.json"
_INDEX_VERSION = 1
_LARGEST_INDEX = 16 << 20
_LARGEST = 1 << 42
_TRIES = 3
_CHUNK = 1 << 20
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_TIMEOUT = httpx.Timeout(60, connect=10)


class PullError(ImpError):
    """An index, or what it names, cannot be had or is not what it should be."""


@dataclass(frozen=True, slots=True)
class Listed:
    """An artifact of an index: where it lies, its size and hash, and on which hf: repository its weights are."""

    url: str
    bytes: int
    sha256: str
    thin: bool
    source: str | None


def find(index: str, name: str) -> Listed:
    """What an index says of a model. `index`: path, or http, https or file URL, of an index.json or its folder."""
    if not _FILE.fullmatch(name):
        raise PullError(f"{name!r:.80} is no name of a model in an index: letters, digits, dots, dashes, underscores")
    url = _url(index)
    try:
        document = json.loads(_text(url))
        if not isinstance(document, dict) or not isinstance(document.get("models"), list):
            raise ValueError("it has no list of models")
        models = [each for each in document["models"] if isinstance(each, dict)]
    except (ValueError, RecursionError) as error:
        raise PullError(f"{index}: is no index of imp build: {error}") from None
    if document.get("version") != _INDEX_VERSION:
        raise PullError(
            f"{index}: is of version {document.get('version')!r:.40}, this imp reads {_INDEX_VERSION}; install the imp "
            f"that made it, {document.get('imp')!r:.40}"
        )
    for each in models:
        if each.get("name") == name:
            return _listed(f"{index}: {name}", url, each)
    known = ", ".join(str(each.get("name")) for each in models[:20]) or "none"
    raise PullError(f"{index}: has no model {name!r:.80}; it has {known:.400}")


def _listed(where: str, url: str, told: dict[str, Any]) -> Listed:
    def bad(key: str, expected: str) -> PullError:
        return PullError(f"{where}: {key} is {told.get(key)!r:.120}, expected {expected}")

    file, size, sha256 = told.get("file"), told.get("bytes"), told.get("sha256")
    if not isinstance(file, str) or not _FILE.fullmatch(file):
        raise bad("file", "the plain name of a file beside the index")
    if type(size) is not int or not 0 < size <= _LARGEST:
        raise bad("bytes", f"a size of 1 to {_LARGEST:,}")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise bad("sha256", "64 hexadecimal digits")
    thin, source = told.get("thin", False), told.get("source")
    if type(thin) is not bool:
        raise bad("thin", "true or false")
    try:
        problem = misfit(told["runtime"]) if isinstance(told.get("runtime"), str) else "no text"
    except ValueError as error:
        problem = str(error)
    if problem is not None:
        raise PullError(f"{where}: {problem}" if problem != "no text" else str(bad("runtime", "a range of versions")))
    hub = source if isinstance(source, str) and source.startswith("hf:") else None
    return Listed(urljoin(url, quote(file)), size, sha256, thin, hub)


def _url(index: str) -> str:
    try:
        parts = urlsplit(index if "://" in index else "")
    except ValueError as error:
        raise PullError(f"{index}: is no URL: {error}") from None
    scheme = parts.scheme
    if scheme and scheme not in ("http", "https", "file"):
        raise PullError(f"{index}: begins with {scheme}://; an index is read from http://, https://, file:// or a path")
    if scheme == "file" and parts.netloc not in ("", "localhost"):
        raise PullError(f"{index}: names another machine; write file:///path")
    url = index if scheme else Path(index).absolute().as_uri() + ("/" if Path(index).is_dir() else "")
    return url + INDEX if url.endswith("/") else url


def _text(url: str) -> str:
    content = b""
    with _client() as client:
        for part in _parts(client, url, 0):
            content += part
            if len(content) > _LARGEST_INDEX:
                raise PullError(f"{url}: is longer than {_LARGEST_INDEX:,} bytes, so it is no index of imp build")
    return content.decode()


def fetch(listed: Listed, output: Path, report: Callable[[int, int], None]) -> bool:
    """Write `output` whole and as its hash says, or not at all; False where it was there. PullError says why not.

    What an interrupted fetch has left in a hidden file beside it is gone on with.
    """
    if output.is_file() and output.stat().st_size == listed.bytes and _hash(output) == listed.sha256:
        return False
    part = output.with_name(f".{output.name}.{listed.sha256[:16]}.part")
    try:
        with part.open("a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise PullError(f"{output}: is fetched by another imp pull just now") from None
            lacking, free = listed.bytes - file.seek(0, os.SEEK_END), shutil.disk_usage(output.absolute().parent).free
            if lacking > free:
                part.unlink()
                raise PullError(f"{output}: lacks {lacking:,} bytes but the disk has {free:,} left; free some space")
            _fill(listed, file, part, report)
            found = _hash(part)
            if found != listed.sha256:
                part.unlink()
                raise PullError(
                    f"{listed.url}: has the SHA-256 {found}, the index says {listed.sha256}; nothing was kept"
                )
            os.fsync(file.fileno())
            part.replace(output)
    except OSError as error:
        raise PullError(f"{output}: cannot be written: {error.strerror or error}") from None
    finally:
        if part.exists() and not part.stat().st_size:
            part.unlink()
    return True


def _fill(listed: Listed, file: BinaryIO, part: Path, report: Callable[[int, int], None]) -> None:
    """Append what the file lacks. An interruption is tried again as long as every try brings something, else thrice."""
    with _client() as client:
        tries = 0
        while (begin := file.seek(0, os.SEEK_END)) < listed.bytes:
            reason = "the connection ended"
            try:
                for data in _parts(client, listed.url, begin, file):
                    file.write(data)
                    report(file.tell(), listed.bytes)
                    if file.tell() > listed.bytes:
                        part.unlink()
                        raise PullError(f"{listed.url}: is longer than the {listed.bytes:,} bytes that the index says")
            except httpx.TransportError as error:
                reason = str(error) or type(error).__name__
            file.flush()
            at = file.seek(0, os.SEEK_END)
            tries = 0 if at > begin else tries + 1
            if at < listed.bytes and (tries == _TRIES or listed.url.startswith("file:")):
                raise PullError(
                    f"{listed.url}: ended after {at:,} of {listed.bytes:,} bytes ({reason}); the same command goes on "
                    "there"
                )
        if begin > listed.bytes:  # of another program's making
            part.unlink()
            raise PullError(f"{part}: is longer than what it is a part of; it is removed, try again")


def _client() -> httpx.Client:
    return httpx.Client(timeout=_TIMEOUT, follow_redirects=True, headers={"Accept-Encoding": "identity"})


def _parts(client: httpx.Client, url: str, begin: int, file: BinaryIO | None = None) -> Iterator[bytes]:
    """The bytes of a URL from `begin` on; of a server that knows no ranges all, for which `file` is emptied."""
    if url.startswith("file:"):
        path = Path(unquote(urlsplit(url).path))
        try:
            with path.open("rb") as local:
                local.seek(begin)
                while data := local.read(_CHUNK):
                    yield data
        except OSError as error:
            raise PullError(f"{path}: cannot be read: {error.strerror or error}") from None
        return
    headers = {"Range": f"bytes={begin}-"} if begin else {}
    try:
        with client.stream("GET", url, headers=headers) as response:
            if response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {begin}-"):
                pass
            elif response.status_code in (200, 206, 416) and begin and file is not None:
                file.truncate(0)  # a server without ranges, or with another file: from the start
                if response.status_code != 200:
                    return
            elif response.status_code != 200:
                raise PullError(f"{url}: the server answered {response.status_code}")
            yield from response.iter_raw()  # as it comes, so that all of it is kept
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects, UnicodeError) as error:
        raise PullError(f"{url}: cannot be fetched: {error}") from None
    except httpx.TransportError as error:
        if file is None:
            raise PullError(f"{url}: cannot be fetched: {str(error) or type(error).__name__}") from None
        raise


def _hash(path: Path) -> str:
    with contextlib.closing(path.open("rb")) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
