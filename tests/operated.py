"""A whole server with its layers on a real socket, in a thread: in front of any ASGI application, or of a model."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from imp_server.api.http import listen
from imp_server.operation.config import Config
from imp_server.operation.gateway import Gateway, wrap
from imp_server.operation.lifetime import Server
from imp_server.operation.metrics import Metrics
from imp_server.operation.settings import load

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"


class Application:
    """Answers at once, or as the path says when `gate` opens: /v1/chat/completions streams one event, waits, ends."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.seconds = 0.0
        self.status = 200
        self.reply = b"{}"
        self.running = 0
        self.most = 0
        self.bodies: list[bytes] = []
        self.cancelled = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self._answer(scope, receive, send)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, message = b"", {"type": ""}
        while message["type"] != "http.disconnect" and message.get("more_body", True):
            message = await receive()
            body += message.get("body", b"")
        self.bodies.append(body)
        stream = scope["path"] in (CHAT, MESSAGES) and b"stream" in body
        kind = b"text/event-stream" if stream else b"application/json"
        if not stream and scope["path"] in (CHAT, MESSAGES):
            await self._opened()
            await asyncio.sleep(self.seconds)
        await send({"type": "http.response.start", "status": self.status, "headers": [(b"content-type", kind)]})
        if stream:
            await send({"type": "http.response.body", "body": b'data: {"n": 1}\n\n', "more_body": True})
            await self._opened()
        for i in range(0, len(self.reply), 65536):
            more = i + 65536 < len(self.reply)
            await send({"type": "http.response.body", "body": self.reply[i : i + 65536], "more_body": more})

    async def _opened(self) -> None:
        while not self.gate.is_set():
            await asyncio.sleep(0.001)


@dataclass(frozen=True)
class Operated:
    url: str
    http: httpx.Client
    server: Server
    gateway: Gateway
    metrics: Metrics

    def stop(self) -> None:
        """As a signal does."""
        self.server.should_exit = True


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> float:
    """Seconds until `condition` holds; fails when it does not."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.001)
    return time.monotonic() - began


def settings(assignments: Sequence[str]) -> Config:
    return load(None, assignments, environment={"IMP_CONFIG": "", "HOME": "/nonexistent"})[0]


@contextmanager
def operated(app: ASGIApp, *assignments: str, metrics: Metrics | None = None) -> Iterator[Operated]:
    """`app` served with `section.key=value` settings; at the end it has been shut down."""
    config = settings(assignments)
    metrics = metrics or Metrics()
    gateway = wrap(app, config, metrics)
    server = Server(gateway, config)
    with listen("127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_for(lambda: server.started)
            with httpx.Client(base_url=url) as http:
                yield Operated(url, http, server, gateway, metrics)
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


@contextmanager
def posting(url: str, path: str, body: bytes = b"{}", headers: str = "") -> Iterator[socket.socket]:
    """A request that has been sent; its answer is not read."""
    host, port = url.removeprefix("http://").split(":")
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    with socket.create_connection((host, int(port))) as client:
        client.sendall(head.encode() + body)
        yield client


def read_all(client: socket.socket) -> bytes:
    client.settimeout(10)
    data = b""
    while chunk := client.recv(65536):
        data += chunk
    return data
