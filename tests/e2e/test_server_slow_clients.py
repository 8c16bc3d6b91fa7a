"""Clients that send half of a request, or take nothing of its answer: they get their time and cost nobody else any."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from operated import CHAT, MESSAGES, Application, Operated, operated, read_all, wait_for

HEAD = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n".encode()


@pytest.fixture
def app() -> Application:
    app = Application()
    app.gate.set()
    return app


@contextmanager
def connected(server: Operated, data: bytes) -> Iterator[socket.socket]:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(data)
        yield client


def read_one(client: socket.socket) -> bytes:
    """A whole answer in chunks; the connection stays."""
    client.settimeout(10)
    data = b""
    while not data.endswith(b"0\r\n\r\n"):
        data += client.recv(65536)
    return data


def seconds_until_closed(client: socket.socket) -> tuple[float, bytes]:
    began = time.monotonic()
    answer = read_all(client)
    return time.monotonic() - began, answer


@pytest.mark.parametrize("data", [b"", b"P", b"POST / HTTP/1.1\r\nHost: x\r\nX-Long: ", b"\r\n"])
def test_half_a_header_has_an_end(app: Application, data: bytes) -> None:
    with operated(app, "limits.header_seconds=0.4") as server, connected(server, data) as client:
        took, answer = seconds_until_closed(client)
    assert 0.3 < took < 2
    assert answer.startswith(b"HTTP/1.1 408 ") == bool(data.strip())
    assert app.bodies == []


def test_a_header_that_drips_has_an_end(app: Application) -> None:
    with operated(app, "limits.header_seconds=0.5") as server, connected(server, b"GET / HTTP/1.1\r\n") as client:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 5:
                client.sendall(b"x: y\r\n")
                time.sleep(0.05)
        assert time.monotonic() - began < 2


def test_the_header_of_a_further_request_has_an_end(app: Application) -> None:
    whole = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    with operated(app, "limits.header_seconds=0.4") as server:
        with connected(server, whole) as client:
            assert b"200 OK" in read_one(client)
            time.sleep(0.6)  # resting between two requests is no fault
            client.sendall(whole)
            assert b"200 OK" in read_one(client)
            client.sendall(b"GET /x HT")
            took, answer = seconds_until_closed(client)
            assert 0.3 < took < 2
            assert answer.startswith(b"HTTP/1.1 408 ")
        app.gate.clear()
        with connected(server, whole + b"GET /x HT") as client:  # an answer is not cut because the next one is late
            time.sleep(0.6)
            app.gate.set()
            took, answer = seconds_until_closed(client)
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert took < 2


def test_half_bodies_lock_nobody_out(app: Application) -> None:
    settings = ("limits.concurrent=2", "limits.queue=1", "limits.body_seconds=1.5")
    with operated(app, *settings) as server, ExitStack() as stack:
        half = [stack.enter_context(connected(server, HEAD + b'{"mess')) for _ in range(40)]
        for path in (CHAT, MESSAGES, "/tokenize"):
            assert [server.http.post(path, json={}).status_code for _ in range(5)] == [200] * 5
        for client in half:
            client.settimeout(4)
            answer = client.recv(65536)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b'"type":"timeout_error"' in answer
    assert b'{"mess' not in b"".join(app.bodies)


def test_a_body_that_drips_has_an_end_but_a_long_one_has_time(app: Application) -> None:
    with operated(app, "limits.body_seconds=0.5") as server:
        with connected(server, HEAD) as client:
            began = time.monotonic()
            client.settimeout(0.05)
            answer = b""
            while not answer and time.monotonic() - began < 5:
                client.sendall(b" ")
                with contextlib.suppress(TimeoutError):
                    answer = client.recv(65536)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert time.monotonic() - began < 2

        def chunks() -> Iterator[bytes]:
            for _ in range(10):
                yield b"x" * 8192
                time.sleep(0.1)

        assert server.http.post(CHAT, content=chunks()).status_code == 200
    assert [len(body) for body in app.bodies] == [81920]


def test_a_client_that_leaves_before_the_end_of_its_body_is_forgotten(app: Application) -> None:
    with operated(app, "limits.body_bytes=1000") as server:
        for _ in range(40):
            with connected(server, HEAD + b"x" * 490):
                pass
        assert server.http.post(CHAT, json={}).status_code == 200
    assert len(app.bodies) == 1


def test_bodies_together_hold_so_much_and_no_more(app: Application) -> None:
    head = HEAD.replace(b"500", b"1000")
    with operated(app, "limits.body_bytes=1000", "limits.body_seconds=30") as server:
        with ExitStack() as stack:
            half = [stack.enter_context(connected(server, head + b"x" * 990)) for _ in range(17)]
            refused = wait_for_one(half)
            assert refused.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1" in refused.lower()
            assert server.http.post(CHAT, json={}).status_code == 200
        wait_for(lambda: server.http.post(CHAT, content=b"x" * 900).status_code == 200)


def wait_for_one(clients: list[socket.socket]) -> bytes:
    """What the first that is answered gets."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        for client in clients:
            client.settimeout(0.01)
            with contextlib.suppress(TimeoutError):
                return client.recv(65536)
    raise AssertionError("nobody was refused")


def test_bodies_that_are_too_long(app: Application) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    with operated(app, "limits.body_bytes=1000", "limits.header_seconds=0.5") as server:
        for path, kind in ((CHAT, "invalid_request_error"), (MESSAGES, "request_too_large")):
            for content in (b"x" * 1001, chunks()):
                answer = httpx.post(f"{server.url}{path}", content=content)
                assert (answer.status_code, answer.json()["error"]["type"]) == (413, kind)
        assert server.http.post(CHAT, content=b"x" * 1000).status_code == 200
        with connected(server, HEAD.replace(b"500", b"99999999")) as client:
            began = time.monotonic()
            with contextlib.suppress(OSError):  # the rest is not taken for ever
                while time.monotonic() - began < 5:
                    client.sendall(b"x" * 1000)
                    time.sleep(0.01)
            assert time.monotonic() - began < 3
    assert [len(body) for body in app.bodies] == [1000]


def test_a_client_that_takes_nothing_is_left(app: Application) -> None:
    app.reply = b"x" * (32 << 20)
    request = HEAD.replace(b"500", b"2") + b"{}"
    with (
        operated(app, "limits.send_seconds=0.5", "limits.concurrent=1") as server,
        connected(server, request) as client,
    ):
        client.settimeout(10)
        assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")
        app.reply = b"{}"
        began = time.monotonic()
        assert server.http.post(CHAT, json={}, timeout=10).status_code == 200  # it waited for the place
        assert time.monotonic() - began < 5
