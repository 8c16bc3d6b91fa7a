"""API keys, limits, time-outs, logs and the end of the server, in front of an application that the test controls."""

from __future__ import annotations

import hmac
import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import prometheus_client.parser
import pytest

from imp_server.operation.config import ConfigError
from imp_server.operation.gateway import wrap
from imp_server.operation.metrics import Metrics
from imp_server.operation.sd_notify import sd_notify
from operated import CHAT, MESSAGES, Application, Operated, operated, posting, read_all, settings, wait_for


@pytest.fixture
def app() -> Application:
    return Application()


# API keys


def test_keys(app: Application, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\n\nfrom-file  # for the agent\n", "utf-8")
    app.gate.set()
    with operated(app, "api.key=one,two", f"api.key_file={file}") as server:
        for path in ("/health", "/v1/health", "/ready"):
            assert server.http.get(path).status_code == 200
        for given in (
            {},
            {"x-api-key": "on"},
            {"Authorization": "Bearer onee"},
            {"Authorization": "one"},
            {"x-api-key": ""},
        ):
            for path in ("/v1/models", "/metrics", "/tokenize", "/no/such/path", "/health/x", "/%2e/health", "/Health"):
                answer = server.http.get(path, headers=given)
                assert answer.status_code == 401, (path, given)
            answer = server.http.post(CHAT, headers=given, json={})
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.headers["x-should-retry"] == "false"  # else Claude Code tries ten times, for minutes
            error = answer.json()["error"]
            assert (error["type"], error["code"], error["param"]) == ("authentication_error", "invalid_api_key", None)
        assert len(app.bodies) == 3
        for headers in ({"x-api-key": "one"}, {"Authorization": "Bearer two"}, {"authorization": "bearer  from-file"}):
            assert server.http.post(CHAT, headers=headers, json={}).status_code == 200
        for path in (MESSAGES, "/v1/messages/count_tokens", "/messages"):
            answer = server.http.post(path, json={}, headers={"x-api-key": "wrong"})
            body = answer.json()
            assert (answer.status_code, body["type"], body["error"]["type"]) == (401, "error", "authentication_error")
            assert body["request_id"] == answer.headers["x-request-id"]


def test_no_key_is_no_lock_and_an_empty_file_is_no_key(app: Application, tmp_path: Path) -> None:
    app.gate.set()
    with operated(app) as server:
        assert server.http.post(CHAT, json={}).status_code == 200
    empty = tmp_path / "empty"
    empty.write_text("# nobody\n", "utf-8")
    for file, words in ((empty, "has no key"), (tmp_path / "none", "No such file")):
        with pytest.raises(ConfigError, match=words):
            wrap(app, settings([f"api.key_file={file}"]), Metrics())


def test_every_key_is_compared_whole(app: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a refusal says neither which key fits nor how much of it."""
    compared: list[tuple[int, int]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return a == b

    monkeypatch.setattr(hmac, "compare_digest", compare)
    app.gate.set()
    with operated(app, "api.key=one,two,three") as server:
        for key, status in (("one", 200), ("three", 200), ("on", 401), ("x" * 5000, 401), ("", 401)):
            compared.clear()
            assert server.http.post(CHAT, json={}, headers={"x-api-key": key}).status_code == status
            assert compared == [(32, 32)] * 3


# limits


def test_rate_limit_per_address_and_per_key(app: Application) -> None:
    app.gate.set()
    with operated(app, "limits.rate=2/minute") as server:
        codes = [server.http.post(CHAT, json={}).status_code for _ in range(4)]
        assert codes == [200, 200, 429, 429]
        assert [server.http.get("/v1/models").status_code for _ in range(4)] == [200] * 4
        answer = server.http.post(MESSAGES, json={})
        assert (answer.status_code, answer.json()["error"]["type"]) == (429, "rate_limit_error")
        assert 50 <= int(answer.headers["retry-after"]) <= 60
    with operated(app, "limits.rate=1/second", "api.key=a,b") as server:

        def ask(key: str) -> httpx.Response:
            return server.http.post(CHAT, json={}, headers={"x-api-key": key})

        assert [ask(key).status_code for key in ("a", "a", "b", "b")] == [200, 429, 200, 429]
        assert [ask("wrong").status_code for _ in range(3)] == [401] * 3
        refused = ask("a")
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        time.sleep(1.05)
        assert ask("a").status_code == 200


def test_addresses_behind_a_proxy(app: Application) -> None:
    app.gate.set()
    for trusted, codes in (("127.0.0.1", [200, 200, 429]), ("10.0.0.1", [200, 429, 429])):
        with operated(app, "limits.rate=1/minute", f"server.trusted_proxies={trusted}") as server:
            asked = [server.http.post(CHAT, json={}, headers={"X-Forwarded-For": ip}) for ip in ("1.1.1.1", "2.2.2.2")]
            asked.append(server.http.post(CHAT, json={}, headers={"X-Forwarded-For": "1.1.1.1"}))
            assert [answer.status_code for answer in asked] == codes


def test_concurrency_and_queue(app: Application) -> None:
    with operated(app, "limits.concurrent=2", "limits.queue=1") as server:
        with posting(server.url, CHAT), posting(server.url, CHAT), posting(server.url, CHAT, b'{"third": 1}') as third:
            wait_for(lambda: app.running == 2 and server.gateway.waiting == 1)
            for path, kind in ((CHAT, "rate_limit_error"), (MESSAGES, "rate_limit_error")):
                refused = server.http.post(path, json={})
                assert (refused.status_code, refused.json()["error"]["type"]) == (429, kind)
                assert refused.headers["retry-after"] == "1"
            assert server.http.post("/tokenize", json={}).status_code == 200  # generates nothing: not held back
            assert server.http.get("/metrics").text.count("imp_http_queue 1.0") == 1
            app.gate.set()
            third.settimeout(5)
            assert b"200 OK" in third.recv(65536)
        assert b'{"third": 1}' in app.bodies  # what came while it waited has reached the application
        wait_for(lambda: app.running == 0)
        assert app.most <= 3  # two that generate, and /tokenize
        assert [server.http.post(CHAT, json={}).status_code for _ in range(5)] == [200] * 5


def test_never_more_at_once_than_the_limit(app: Application) -> None:
    app.seconds = 0.005
    app.gate.set()
    with operated(app, "limits.concurrent=3") as server, ThreadPoolExecutor(12) as threads:
        answers = threads.map(lambda _: httpx.post(f"{server.url}{CHAT}", json={}).status_code, range(60))
        assert list(answers) == [200] * 60
    assert app.most == 3


def test_a_waiting_client_that_leaves_gives_up_its_place(app: Application) -> None:
    with operated(app, "limits.concurrent=1", "limits.queue=2") as server:
        with posting(server.url, CHAT):
            wait_for(lambda: app.running == 1)
            for _ in range(5):
                with posting(server.url, CHAT), posting(server.url, CHAT):
                    wait_for(lambda: server.gateway.waiting == 2)
                assert wait_for(lambda: server.gateway.waiting == 0) < 0.1
            with posting(server.url, CHAT, b'{"last": 1}') as last:
                wait_for(lambda: server.gateway.waiting == 1)
                app.gate.set()
                last.settimeout(5)
                assert b"200 OK" in last.recv(65536)
        assert len(app.bodies) == 2
        wait_for(lambda: app.running == 0)
        assert server.http.post(CHAT, json={}).status_code == 200


def test_bodies_that_are_too_long_are_not_read(app: Application) -> None:
    with operated(app, "limits.body_bytes=1000") as server:
        host, port = server.url.removeprefix("http://").split(":")
        for path in (CHAT, "/tokenize"):
            with socket.create_connection((host, int(port))) as client:
                client.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n".encode())
                client.settimeout(5)
                answer = client.recv(65536)
            assert answer.startswith(b"HTTP/1.1 413")
            assert b"the most is 1000" in answer
    assert app.bodies == []


def test_time_out_before_and_in_a_stream(app: Application) -> None:
    with operated(app, "limits.request_seconds=0.2") as server:
        late = server.http.post(CHAT, json={})
        assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
        stream = server.http.post(CHAT, json={"stream": True})
        first, error, rest = stream.text.split("\n\n")
        assert (stream.status_code, first, rest) == (200, 'data: {"n": 1}', "")
        assert json.loads(error.removeprefix("data: "))["error"]["code"] == "timeout"
        stream = server.http.post(MESSAGES, json={"stream": True})
        _, error, _ = stream.text.split("\n\n")
        name, data = error.split("\n")
        assert name == "event: error"
        assert json.loads(data.removeprefix("data: "))["error"]["type"] == "timeout_error"
        assert app.cancelled == 3
        app.gate.set()
        assert server.http.post(CHAT, json={}).status_code == 200
    assert app.running == 0


def test_a_time_out_counts_the_queue(app: Application) -> None:
    with operated(app, "limits.request_seconds=0.3", "limits.concurrent=1") as server:
        with posting(server.url, CHAT):
            wait_for(lambda: app.running == 1)
            time.sleep(0.15)
            assert server.http.post(CHAT, json={}).status_code in (200, 504)
        assert server.gateway.waiting == 0


# browsers, ids


def test_cors(app: Application) -> None:
    app.gate.set()
    origin = {"Origin": "https://ui.example"}
    with operated(app, "api.cors_origins=https://ui.example", "api.key=k") as server:
        asked = origin | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        preflight = server.http.options(CHAT, headers=asked)  # browsers send it without the key
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://ui.example"
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        refused = server.http.post(CHAT, json={}, headers=origin)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://ui.example")
        answer = server.http.post(CHAT, json={}, headers=origin | {"x-api-key": "k"})
        assert answer.headers["access-control-allow-origin"] == "https://ui.example"
        other = server.http.post(CHAT, json={}, headers={"Origin": "https://evil.example", "x-api-key": "k"})
        assert "access-control-allow-origin" not in other.headers
    with operated(app) as server:
        assert "access-control-allow-origin" not in server.http.post(CHAT, json={}, headers=origin).headers


def test_cors_of_this_machine(app: Application) -> None:
    """Pages that are served here, at whatever port, and one of the internet that asks into the private network."""
    app.gate.set()
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Private-Network": "true"}
    with operated(app, "api.cors_origins=localhost,https://ui.example") as server:
        for origin, allowed in (
            ("http://localhost:3000", True),
            ("http://localhost", True),
            ("https://127.0.0.1:8443", True),
            ("http://[::1]:5173", True),
            ("https://ui.example", True),
            ("http://localhost.evil.example", False),
            ("http://evil-localhost:3000", False),
            ("http://127.0.0.1.evil.example:80", False),
            ("http://localhost:3000.evil.example", False),
            ("https://ui.example:444", False),
            ("null", False),
        ):
            preflight = server.http.options(CHAT, headers=asked | {"Origin": origin})
            assert preflight.status_code == 200
            assert preflight.headers.get("access-control-allow-origin") == (origin if allowed else None), origin
            if allowed:
                assert preflight.headers["access-control-allow-private-network"] == "true"
            answer = server.http.post(CHAT, json={}, headers={"Origin": origin})
            assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)


def test_the_page_takes_no_other_method(app: Application) -> None:
    with operated(app) as server:
        for path in ("/", "/imp.js", "/metrics"):
            answer = server.http.post(path, json={})
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
            assert answer.json()["error"]["type"] == "invalid_request_error"
            assert server.http.head(path).status_code == 200


def test_request_ids(app: Application) -> None:
    with operated(app) as server:
        assert server.http.get("/x", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
        for odd in ("", "a b", "x" * 129, "\xe9"):
            made = server.http.get("/x", headers=[(b"X-Request-Id", odd.encode("latin-1"))])
            assert made.headers["x-request-id"].startswith("req_")
        ids = {server.http.get("/x").headers["x-request-id"] for _ in range(10)}
        assert len(ids) == 10


# metrics


def samples(server: Operated) -> dict[str, float]:
    text = server.http.get("/metrics").text
    found = {}
    for family in prometheus_client.parser.text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_metrics_of_requests_and_generations(app: Application) -> None:
    app.gate.set()
    metrics = Metrics()
    with operated(app, metrics=metrics) as server:
        server.http.post(CHAT, json={})
        for name in ("a", "b"):
            server.http.get(f"/{name}")  # clients cannot make labels
        observer = metrics.started(10)
        assert samples(server)["imp_generations_waiting{}"] == 1
        for _ in range(3):
            observer.token()
        found = samples(server)
        assert (found["imp_generations_waiting{}"], found["imp_generations_running{}"]) == (0, 1)
        assert (found["imp_kv_tokens_used{}"], found["imp_prompt_tokens_total{}"]) == (13, 10)
        observer.finished("length", 6)
        metrics.started(5).finished("aborted", 1)
        found = samples(server)
    assert found["imp_generated_tokens_total{}"] == 3
    assert found["imp_cached_prompt_tokens_total{}"] == 7
    assert found["imp_time_to_first_token_seconds_count{}"] == 1
    assert found["imp_time_per_output_token_seconds_count{}"] == 2
    assert found["imp_generations_total{finish=length}"] == found["imp_generations_total{finish=aborted}"] == 1
    assert (
        found["imp_kv_tokens_used{}"] == found["imp_generations_waiting{}"] == found["imp_generations_running{}"] == 0
    )
    assert found["imp_http_requests_total{method=GET,route=other,status=200}"] == 2


def test_what_tells_of_the_server_can_be_switched_off(app: Application) -> None:
    with operated(app, "server.metrics=false", "server.slots=false") as server:
        for path in ("/metrics", "/slots"):
            refused = server.http.get(path)
            assert refused.status_code == 501
            error = refused.json()["error"]
            assert error["type"] == "not_supported_error"
            assert f"server.{path[1:]} is false" in error["message"]
        assert app.bodies == []
    with operated(app) as server:
        assert "imp_kv_tokens" in server.http.get("/metrics").text
        assert (server.http.get("/slots").text, app.bodies) == ("{}", [b""])


# the end


def test_shutdown_ends_streams_with_an_error(app: Application) -> None:
    with (
        operated(app, "server.shutdown_seconds=0.3") as server,
        posting(server.url, CHAT, b'{"stream": 1}') as stream,
        posting(server.url, MESSAGES, b'{"stream": 1}') as other,
        posting(server.url, CHAT) as whole,
        socket.create_connection(tuple(server.server.servers[0].sockets[0].getsockname())) as idle,
    ):
        wait_for(lambda: app.running == 3)
        began = time.monotonic()
        server.stop()
        assert b'"code":"shutting_down"' in read_all(stream)
        assert b"event: error\ndata: " in read_all(other)
        answer = read_all(whole)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in answer.lower()
        assert read_all(idle) == b""
        assert time.monotonic() - began < 2
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{server.url}/health", timeout=2)
    assert app.cancelled == 3


def test_shutdown_lets_requests_end_in_their_time(app: Application) -> None:
    with operated(app, "server.shutdown_seconds=3") as server, posting(server.url, CHAT, b'{"stream": 1}') as stream:
        wait_for(lambda: app.running == 1)
        began = time.monotonic()
        server.stop()
        time.sleep(0.1)
        app.gate.set()
        text = read_all(stream)
        assert b"{}" in text
        assert b"error" not in text
        assert time.monotonic() - began < 2


def test_sd_notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    sd_notify("READY=1")
    for address, name in ((str(tmp_path / "s"), None), (f"@imp-test-{os.getpid()}", f"\0imp-test-{os.getpid()}")):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(name or address)
            monkeypatch.setenv("NOTIFY_SOCKET", address)
            sd_notify("READY=1")
            manager.settimeout(2)
            assert manager.recv(100) == b"READY=1"
