"""A small Hugging Face Hub on this machine, which counts the bytes of weights that it has served."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlparse


class Hub(ThreadingHTTPServer):
    """Serves the files of `folder` as the repository org/m; `ranges`: parts of files are to be had."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.ranges = True
        self.served = 0
        self.tags: list[str] = []
        self.longer = 0  # by which the listing is wrong about weights

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def commit(self) -> str:
        """What the repository is at now: another one once a file has changed."""
        state = hashlib.sha1()
        for path in sorted(self.folder.rglob("*")):
            state.update(str(path).encode() + (path.read_bytes() if path.is_file() else b""))
        return state.hexdigest()

    def listing(self) -> dict[str, object]:
        siblings = []
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                size = path.stat().st_size + (self.longer if is_weights(path.name) else 0)
                lfs = {"size": size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "pointerSize": 130}
                name = str(path.relative_to(self.folder))
                siblings.append({"rfilename": name, "size": size} | ({"lfs": lfs} if is_weights(name) else {}))
        return {"id": "org/m", "sha": self.commit, "siblings": siblings, "tags": self.tags}


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        path = urlparse(self.path).path
        if path == "/api/models/org/m":
            return self._send(200, json.dumps(self.server.listing()).encode(), body)
        name = re.sub("^/org/m/resolve/([0-9a-f]{40}|main)/", "", path)
        file = self.server.folder / name
        if name == path or not file.is_file():
            return self._send(404, b"", body)
        content, status = file.read_bytes(), 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted and self.server.ranges:
            content, status = content[int(wanted[1]) : int(wanted[2]) + 1], 206
        if is_weights(name) and body:
            self.server.served += len(content)
        return self._send(status, content, body, hashlib.sha1(file.read_bytes()).hexdigest())

    def _send(self, status: int, content: bytes, body: bool, etag: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", self.server.commit)
        self.send_header("ETag", f'"{etag}"')
        self.end_headers()
        if body:
            self.wfile.write(content)


def is_weights(name: str) -> bool:
    return name.endswith((".gguf", ".safetensors"))


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Hub]:
    with Hub(folder) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
