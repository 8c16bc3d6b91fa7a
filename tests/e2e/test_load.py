"""`make load`: a server that is well passes, an engine's end included; what is lost or leaked is found."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import load
import pytest
from load_client import Answer
from load_requests import Asked

from model_checks import compile_fixture


def test_all_is_answered_though_the_engine_is_killed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = compile_fixture(tmp_path, "qwen3", "Q8_0", "sim")
    flags = ["--seconds", "6", "--clients", "6", "--aborts", "0.2", "--kill", "--serve", "--target sim"]
    code = load.main([str(file), *flags])
    out = capfd.readouterr().out
    assert code == 0, out
    for words in ("engine ended", "answered", "there again after", "p99"):
        assert words in out


class Server(socketserver.ThreadingTCPServer):
    """Answers /props with `free`, one number after the other, and all else with `answer`."""

    def __init__(self) -> None:
        self.answer = b""
        self.free = [5]
        super().__init__(("127.0.0.1", 0), Handler)
        self.port = self.server_address[1]


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        line, length = self.rfile.readline(), 0
        while (header := self.rfile.readline().strip()) != b"":
            if header.startswith(b"Content-Length: "):
                length = int(header.split()[1])
        self.rfile.read(length)
        if b"GET /props" in line:
            free = server.free.pop(0) if len(server.free) > 1 else server.free[0]
            props = b'{"default_generation_settings": {"n_ctx": 64}, "free_slots": 4, "free_kv_blocks": %d}' % free
            self.wfile.write(whole(200, props))
        else:
            self.wfile.write(server.answer)


def whole(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def streamed(*events: bytes, ends: bool = True) -> bytes:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + (b"0\r\n\r\n" if ends else b"")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


REFUSED = whole(400, b'{"error": {"message": "no"}}')
EVENT = b'data: {"choices": []}\n\n'


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "status 0, IncompleteReadError"),
        (whole(500, b"oops"), "status 500, no JSON"),
        (REFUSED, "has an error: status 400, no"),
        (whole(503, b'{"error": {"message": "loading"}}'), "has an error: status 503, loading"),
        (whole(200, b"{}"), "was not refused: status 200"),
        (streamed(EVENT, ends=False), "has no answer: status 200, IncompleteReadError"),
        (streamed(EVENT, EVENT), "has no answer: status 200"),
        (streamed(EVENT, b'data: {"error": {"message": "broken"}}\n\n'), "has an error: status 200, broken"),
    ],
)
def test_what_is_lost_is_found(
    server: Server, answer: bytes, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(load, "_IDLE_SECONDS", 0)
    server.answer = answer
    assert load.main([f"http://127.0.0.1:{server.port}", "--seconds", "0.3", "--clients", "4", "--aborts", "0"]) == 1
    out = capsys.readouterr().out
    assert "LOST" in out
    assert words in out
    assert "leaked" not in out


@pytest.mark.parametrize(("began", "outcome"), [(5.0, "engine ended"), (25.0, "engine ended"), (35.0, "LOST")])
@pytest.mark.parametrize("status", [200, 500, 503])
def test_the_end_of_the_engine_excuses_only_who_came_before_it_was_there_again(
    began: float, outcome: str, status: int
) -> None:
    report = load.Report(killed=20.0, again=30.0)
    asked = Asked("chat", "/v1/chat/completions", b"{}", True, None)
    report.add(asked, Answer(began=began, status=status, error="the engine has ended"))
    assert report.outcomes == {("chat", outcome): 1}


def test_what_is_leaked_is_found(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(load, "_IDLE_SECONDS", 0)
    server.answer, server.free = REFUSED, [5, 4]
    assert load.main([f"http://127.0.0.1:{server.port}", "--seconds", "0.1", "--clients", "2"]) == 1
    assert "FAULT: leaked: Free(slots=4, blocks=5) were free and now Free(slots=4, blocks=4)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["/no/such.impc"], "/no/such.impc"),
        (["http://127.0.0.1:1"], "does not say what is free"),
    ],
)
def test_what_cannot_be_tried(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert load.main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("load: error: ")
    assert error.count("\n") == 1
