"""What is written down of a request: by whom, with what result, and that no client can forge or hide a line of it."""

from __future__ import annotations

import json
import logging
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imp_runtime.text import visible
from imp_server.operation import logs
from imp_server.operation.config import ConfigError, LogConfig
from imp_server.operation.gateway import wrap
from imp_server.operation.metrics import Metrics
from operated import CHAT, Application, operated, posting, read_all, settings

# A line end of every kind, escape sequences (also of one byte), marks of direction, a surrogate.
ODD = "a\r\n2026-11-26T00:00:00.000Z INFO forged\x1b[31m\x9b2J\x7f\x00\x85\u2028\u2029\u202e\u200f\ud800"


@pytest.fixture
def app() -> Application:
    return Application()


@contextmanager
def logging_as(kind: str, level: str = "info") -> Iterator[None]:
    before = {name: (logging.getLogger(name).handlers, logging.getLogger(name).level) for name in ("imp", "uvicorn")}
    logs.configure(LogConfig(level=level, format=kind))
    try:
        yield
    finally:
        for name, (handlers, number) in before.items():
            logger = logging.getLogger(name)
            logger.handlers, logger.level, logger.propagate = handlers, number, True


def test_request_log(app: Application, tmp_path: Path) -> None:
    file = tmp_path / "logs" / "requests.jsonl"
    app.gate.set()
    with operated(app, f"log.requests={file}", "api.key=secret") as server:
        server.http.post(CHAT, content=b'{"x": "private"}', headers={"x-api-key": "secret", "X-Request-Id": "a"})
        server.http.post(CHAT, content=b"{}", headers={"X-Request-Id": "b"})
    text = file.read_text("utf-8")
    first, second = map(json.loads, text.splitlines())
    assert (first["request_id"], first["method"], first["path"], first["status"]) == ("a", "POST", CHAT, 200)
    assert first["seconds"] >= first["first_byte_seconds"] >= 0
    assert first["client"].startswith("key-")
    assert (second["request_id"], second["status"], second["client"]) == ("b", 401, "127.0.0.1")
    assert "secret" not in text
    assert "private" not in text
    assert file.stat().st_mode & 0o777 == 0o600
    with operated(app, f"log.requests={file}", "log.bodies=true") as server:
        server.http.post("/tokenize", content=b'{"x": "\xc3\xa4"}')
        server.http.post(CHAT, content=b'{"stream": true}')
        server.http.post("/tokenize", content=b"\xff{")
    entries = [json.loads(line) for line in file.read_text("utf-8").splitlines()[2:]]
    assert [entry["request"] for entry in entries] == [{"x": "ä"}, {"stream": True}, "\ufffd{"]
    assert [entry["response"] for entry in entries] == [{}, 'data: {"n": 1}\n\n{}', {}]
    with pytest.raises(ConfigError, match=r"log\.requests"):
        wrap(app, settings([f"log.requests={tmp_path}"]), Metrics())


def test_a_full_disk_does_not_stop_the_service(app: Application) -> None:
    with operated(app, "log.requests=/dev/full") as server:
        assert [server.http.get("/x").status_code for _ in range(3)] == [200] * 3


@pytest.mark.parametrize("kind", ["json", "text"])
def test_structured_logs(app: Application, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    app.gate.set()
    with logging_as(kind), operated(app) as server:
        server.http.post(CHAT, json={}, headers={"X-Request-Id": "abc"})
        server.http.get("/health")
    (line,) = capsys.readouterr().err.splitlines()  # /health is of no interest
    if kind == "json":
        entry = json.loads(line)
        assert (entry["level"], entry["message"]) == ("info", f"POST {CHAT} 200")
        assert (entry["request_id"], entry["status"]) == ("abc", 200)
    else:
        assert f"INFO    POST {CHAT} 200  request_id=abc" in line


def test_health_while_loading_is_of_no_interest(app: Application, capsys: pytest.CaptureFixture[str]) -> None:
    """What asks once a second must not fill the log while a model loads; that the model has failed is told."""
    for level, shown in (("info", [("/v1/models", 503), ("/ready", 500)]), ("debug", None)):
        with logging_as("json", level), operated(app) as server:
            for status, path in ((503, "/health"), (503, "/ready"), (503, "/v1/models"), (500, "/ready")):
                app.status = status
                assert server.http.get(path).status_code == status
        entries = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        found = [(entry["path"], entry["status"]) for entry in entries if "path" in entry]
        assert found == shown if shown is not None else len(found) == 4


@pytest.mark.parametrize("kind", ["json", "text"])
def test_no_client_reaches_the_terminal(
    app: Application, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    file = tmp_path / "requests.jsonl"
    app.gate.set()
    odd = ODD.encode("utf-8", "surrogatepass")
    escaped = "".join(f"%{byte:02x}" for byte in odd)
    settings = ("server.trusted_proxies=127.0.0.1", f"log.requests={file}", "log.bodies=true")
    headers = [(b"X-Forwarded-For", b"1.1.1.1 \xc2\x9b \xe2\x80\xae"), (b"X-Request-Id", b"a\x85\xa0b")]
    with logging_as(kind), operated(app, *settings) as server:
        server.http.post(f"/{escaped}", headers=headers, content=json.dumps({"x": ODD}))
        server.http.post("/x", content=b"\xff" + odd)
        server.http.get("/a%20200%20%20request_id=forged")
        with posting(server.url, f"/{escaped}%2f..%2f", headers="X-Forwarded-For: a b=c\r\n") as client:
            client.shutdown(1)
            read_all(client)
    with logging_as(kind):
        try:
            raise ValueError(ODD)
        except ValueError:
            logging.getLogger("imp").exception("odd %s", ODD, extra={"fields": {"name": ODD}})
        logging.getLogger("imp").warning("%s", ODD, extra={"fields": {"x": "a b", "y": 'c="d"', "z": 1}})
    shown = capsys.readouterr().err
    for text in (shown, file.read_text("utf-8")):
        found = {c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in "\u202e\u200f"}
        assert found == {"\n"}
    lines = shown.splitlines()
    assert not [line for line in lines if line.startswith("2026-11-26T00:00:00")]
    if kind == "json":
        entries = [json.loads(line) for line in lines]
        assert len(entries) == 6
        assert entries[-1]["message"] == entries[-2]["name"] == ODD  # nothing is lost
        assert ODD in entries[-2]["exception"]
    else:
        begun = [line for line in lines if not line.startswith("    ")]
        assert len(begun) == 6
        assert any("GET /a%20200%20%20request_id=forged 200  request_id=req_" in line for line in begun)
        assert begun[-1].endswith('x="a b" y="c=\\"d\\"" z=1')
    entries = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert entries[0]["request"] == {"x": ODD}
    assert [entry["status"] for entry in entries] == [200] * 4


def test_escapes_leave_json_the_same() -> None:
    every = "".join(chr(i) for i in range(sys.maxunicode + 1) if not 0xD800 <= i < 0xE000) + "\ud800 \udc00"
    same = json.loads(visible(json.dumps(every, ensure_ascii=False))) == every
    assert same  # without pytest's showing a million characters


def test_a_request_line_that_is_none_is_not_repeated(app: Application, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_as("text"), operated(app) as server, posting(server.url, "/x\x1b[31m y") as client:
        assert read_all(client).startswith(b"HTTP/1.1 400")
    assert "\x1b" not in capsys.readouterr().err
