"""The chat page in a real browser, with the demo model on the simulator; and the server as a process."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from browser import CHROMIUM, Page, browser
from demo_server import ROOT, Process, compile_demo, imp, serving

WEB = ROOT / "server" / "imp_server" / "web"
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
READY = "document.querySelector('#dot.ready')"
IDLE = "!document.querySelector('#send').hidden"
ANSWER = "document.querySelector('#log > li:last-child.assistant .body').textContent"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_demo(tmp_path_factory.mktemp("web"))


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Process]:
    with serving(model, "--alias", "alias") as server:
        yield server


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        page.size(1100, 760)
        yield page


@pytest.fixture
def page(chromium: Page, server: Process) -> Iterator[Page]:
    """The page as somebody sees it for the first time."""
    chromium.prefer("light")
    chromium.open(f"{server.url}/")
    chromium.run("localStorage.clear(), sessionStorage.clear()")
    chromium.problems.clear()
    chromium.requests.clear()
    chromium.reload()
    chromium.until(READY)
    yield chromium
    assert chromium.problems == []


def sampling(page: Page, **values: float) -> None:
    page.run(f"localStorage.setItem('imp.chat', {json.dumps(json.dumps({'settings': values}))})")
    page.reload()
    page.until(READY)


def ask(page: Page, text: str) -> None:
    page.click("#prompt")
    page.write(text)
    page.press("Enter")


def metrics(server: Process) -> dict[str, float]:
    text = httpx.get(f"{server.url}/metrics").text
    return {name: float(value) for name, value in re.findall(r"^(imp_\S+) (\S+)$", text, re.MULTILINE)}


def test_files_and_headers(server: Process) -> None:
    page = httpx.get(f"{server.url}/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    head = httpx.head(f"{server.url}/")
    assert (head.status_code, head.content) == (200, b"")
    assert httpx.post(f"{server.url}/").status_code == 405
    for file in WEB.iterdir():
        if file.suffix in (".html", ".css", ".js", ".svg"):
            text = file.read_text("utf-8")
            assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), file  # nothing from elsewhere
            assert "innerHTML" not in text
            assert "insertAdjacent" not in text


@needs_chromium
def test_a_conversation(page: Page, server: Process) -> None:
    sampling(page, max_tokens=12, temperature=0)
    assert page.run("document.querySelector('#empty').hidden") is False
    page.run(
        "window.seen = new Set(); new MutationObserver(() => { const b = document.querySelector('.assistant .body');"
        " if (b) window.seen.add(b.textContent) }).observe(document.querySelector('#log'),"
        " {childList: true, subtree: true, characterData: true})"
    )
    ask(page, "Count the words")
    page.until(f"{IDLE} && document.querySelector('.assistant .note span')")
    body = {
        "messages": [{"role": "user", "content": "Count the words"}],
        "model": "Demo",
        "temperature": 0,
        "max_tokens": 12,
    }
    expected = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=30).json()["choices"][0]["message"]
    shown = page.run("JSON.parse(localStorage.getItem('imp.chat')).messages.map((m) => [m.role, m.content])")
    assert shown == [["user", "Count the words"], ["assistant", expected["content"]]]
    assert page.run("window.seen.size") >= 4  # it grew before the eyes
    note = page.run("document.querySelector('.assistant .note').textContent")
    assert re.search(r"12 tokens · [\d.]+ tok/s · first after [\d.]+ s · reached the limit", str(note)), note
    assert page.run("document.querySelector('#used').textContent.split(' / ')[1]") == "1024"
    used = int(str(page.run("document.querySelector('#used').textContent.split(' / ')[0]")))
    assert used == page.run("document.querySelector('#meter').value")
    assert used > 12
    before = page.run("document.querySelector('#log').innerText")
    page.reload()
    page.until(READY)
    assert page.run("document.querySelector('#log').innerText") == before
    assert page.run("document.querySelector('#used').textContent") == f"{used} / 1024"
    assert {re.sub(r"^http://[^/]+", "", url) for url in page.requests} == {
        "/", "/imp.css", "/imp.js", "/text.js", "/imp.svg", "/v1/models", "/v1/chat/completions",
    }  # fmt: skip
    assert {
        url.split("/v1")[0].rstrip("/").rsplit("/imp.", 1)[0].removesuffix("/text.js") for url in page.requests
    } == {server.url}


@needs_chromium
@pytest.mark.parametrize("how", ["button", "key"])
def test_stop_frees_the_sequence(page: Page, server: Process, how: str) -> None:
    sampling(page, max_tokens=900, temperature=5, top_k=0, top_p=1)  # so random that it does not end by itself
    before = metrics(server).get('imp_generations_total{finish="aborted"}', 0)
    ask(page, "Write a very long story")
    page.until(f"{ANSWER}.length > 5")
    assert metrics(server)["imp_generations_running"] == 1
    if how == "button":
        page.click("#stop")
    else:
        page.press("Escape")
    page.until(f"{IDLE} && document.querySelector('.note').textContent.includes('stopped')")
    end = time.monotonic() + 5
    while metrics(server)["imp_generations_running"] and time.monotonic() < end:
        time.sleep(0.01)
    found = metrics(server)
    assert found["imp_generations_running"] == found["imp_kv_tokens_used"] == 0
    assert found['imp_generations_total{finish="aborted"}'] == before + 1
    text = page.run(ANSWER)
    time.sleep(0.2)
    assert page.run(ANSWER) == text


@needs_chromium
def test_settings_reach_the_request(page: Page) -> None:
    page.run(
        "window.sent = []; const real = fetch; window.fetch = (url, o) => {"
        " if (o.body) window.sent.push(JSON.parse(o.body)); return real(url, o); }"
    )
    page.click("#tune")
    page.until("document.querySelector('#settings').open")
    page.write("Be brief.")  # the first field has the focus
    for name, value in (("temperature", "0.5"), ("top_k", "7"), ("max_tokens", "3"), ("min_p", "9")):
        page.click(f"[name={name}]")
        page.write(value)
    page.click("#settings .primary")
    assert page.run("document.querySelector('#settings').open")  # 9 is no min-p
    page.run("document.querySelector('[name=min_p]').value = ''")
    page.click("#settings .primary")
    page.until("document.activeElement.id === 'prompt'")
    ask(page, "Hi")
    page.until(f"window.sent.length && {IDLE}")
    (sent,) = page.run("window.sent")  # type: ignore[misc]  # a list
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert (sent["temperature"], sent["top_k"], sent["max_tokens"]) == (0.5, 7, 3)
    assert not {"min_p", "seed", "top_p", "repetition_penalty"} & set(sent)  # empty: the model's own


@needs_chromium
def test_what_a_model_says_is_text(page: Page) -> None:
    evil = (
        '<img src=x onerror="window.hit=1"><script>window.hit=1</script> `<b>x</b>`\n\n```py<i>\nif a < b: <u>\n```\n'
    )
    evil += "\n# Head\n\n1. one\n2. **two**\n\n```\nopen"
    messages = [{"role": "user", "content": evil}, {"role": "assistant", "content": evil, "thought": evil}]
    page.run(f"localStorage.setItem('imp.chat', {json.dumps(json.dumps({'messages': messages}))})")
    page.reload()
    page.until(READY)
    inside = "document.querySelectorAll('#log :is(img, script, b, i, u)').length"
    assert page.run(inside) == 0
    assert page.run("window.hit") is None
    body = "document.querySelector('.assistant .body')"
    assert str(page.run(f"{body}.firstChild.textContent")).startswith('<img src=x onerror="window.hit=1"><script>')
    assert page.run(f"[...{body}.querySelectorAll('pre code')].map((e) => e.textContent)") == ["if a < b: <u>", "open"]
    assert page.run(f"[...{body}.querySelectorAll('h3, ol > li, strong')].map((e) => e.textContent)") == [
        "Head", "one", "two", "two",
    ]  # fmt: skip


@needs_chromium
def test_light_and_dark(page: Page) -> None:
    brightness = (
        "(() => { const c = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number);"
        " return c[0] + c[1] + c[2] })()"
    )
    assert page.run(brightness) > 600  # type: ignore[operator]  # a number
    page.prefer("dark")
    assert page.run(brightness) < 120  # type: ignore[operator]
    page.click("#theme")  # what the person chooses stands over the system
    assert page.run(brightness) > 600  # type: ignore[operator]
    page.reload()
    assert page.run(brightness) > 600  # type: ignore[operator]


@needs_chromium
def test_what_assistive_software_is_told(page: Page) -> None:
    found = page.accessibility()
    for role, name in (
        ("textbox", "Message"),
        ("button", "Settings"),
        ("button", "Light or dark"),
        ("button", "Send"),
        ("heading", "imp"),
        ("link", "Skip to the message field"),
    ):
        assert (role, name) in found, (role, name)
    assert not [node for node in found if node[0] in ("button", "textbox", "link") and not node[1]]


@needs_chromium
def test_a_key_is_asked_for(model: Path, chromium: Page) -> None:
    with serving(model, environment={"IMP_API_KEY": "sesame"}) as server:
        chromium.open(f"{server.url}/")
        chromium.until("document.querySelector('#settings').open && document.activeElement.name === 'key'")
        assert chromium.run("document.querySelector('#model').textContent") == "API key needed"
        chromium.write("sesame")
        chromium.press("Enter")
        chromium.until(READY)
        ask(chromium, "Hi")
        chromium.until("document.querySelector('.assistant .body').textContent")
        assert "sesame" not in str(chromium.run("JSON.stringify(localStorage)"))
        took, status, error = server.end()
    assert (status, took < 5) == (0, True), error
    assert "sesame" not in error


# the process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_in_time(model: Path, tmp_path: Path, number: signal.Signals) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(30)
        arguments = ("--set", "log.format=json", "--set", f"log.requests={tmp_path / 'requests.jsonl'}")
        with serving(model, *arguments, environment={"NOTIFY_SOCKET": address}) as server:
            assert manager.recv(100) == b"READY=1"
            text: list[str] = []

            def read() -> None:
                body = {"prompt": "x", "max_tokens": 1000, "stream": True, "ignore_eos": True}
                with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=20) as response:
                    for line in response.iter_lines():
                        text.append(line)

            reader = threading.Thread(target=read)
            reader.start()
            while len(text) < 3:
                time.sleep(0.01)
            took, status, error = server.end(number)
            reader.join(5)
            assert manager.recv(100) == b"STOPPING=1"
    assert took < 5
    assert status == (0 if number == signal.SIGTERM else 130), error
    assert "Traceback" not in error
    last = [line for line in text if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "shutting_down"
    (entry,) = [
        json.loads(line) for line in (tmp_path / "requests.jsonl").read_text("utf-8").splitlines() if "POST" in line
    ]
    assert (entry["status"], entry["prompt_tokens"]) == (200, 1)
    assert entry["completion_tokens"] > 2
    lines = [json.loads(line) for line in error.splitlines() if line.startswith("{")]
    assert "ready: Demo on CPU simulator" in [line["message"] for line in lines]


def test_a_second_ctrl_c_does_not_wait(model: Path) -> None:
    with serving(model, "--set", "server.shutdown_seconds=4") as server:
        body = {"prompt": "x", "max_tokens": 1000, "stream": True, "ignore_eos": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=20) as response:
            lines = response.iter_lines()
            assert next(lines)
            server.process.send_signal(signal.SIGINT)
            time.sleep(0.3)
            took, status, error = server.end(signal.SIGINT)
            last = [line for line in lines if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "shutting_down"
    assert (status, took < 4) == (130, True), error
    assert "Traceback" not in error
    assert "ERROR" not in error


def test_a_ctrl_c_that_is_ignored_stays_ignored(model: Path) -> None:
    """So a shell keeps it from what a script runs in the background; SIGTERM is for that."""
    with serving(model, through=("sh", "-c", 'trap "" INT; exec "$@"', "sh")) as server:
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert httpx.get(f"{server.url}/health").status_code == 200
        took, status, error = server.end(signal.SIGTERM)
    assert (status, took < 5, "Traceback" in error) == (0, True, False), error


def run(*arguments: str | Path, given: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        imp(*arguments), input=given, capture_output=True, text=True, timeout=60, env=os.environ | environment
    )


def test_chat_with_a_server(server: Process) -> None:
    result = run("chat", f"{server.url}/v1", "--max-tokens", "8", "--temperature", "0", "--system", "Hm", given="Hi\n")
    messages = [{"role": "system", "content": "Hm"}, {"role": "user", "content": "Hi"}]
    body = {"model": "Demo", "messages": messages, "max_tokens": 8, "temperature": 0}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=30).json()
    assert answer["choices"][0]["message"]["content"].strip() in result.stdout
    assert (result.returncode, f"alias at {server.url}:" in result.stderr) == (0, True)
    assert run("chat", server.url, "--temperature", "-1", given="Hi\n").stderr.count("temperature is -1") == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://[::bad", "http://127.0.0.1:9/v1"])
def test_chat_without_a_server(url: str) -> None:
    result = run("chat", url)
    assert result.returncode == 2
    assert result.stderr.startswith("imp: error: http://")
    assert result.stderr.count("\n") == 1


def test_launch(server: Process) -> None:
    shown = run("launch", "claude", "--url", server.url, "--api-key", "it's").stdout
    script = shown + "\nenv"
    found = dict(
        line.partition("=")[::2] for line in subprocess.check_output(["sh", "-c", script], text=True).splitlines()
    )
    assert found["ANTHROPIC_BASE_URL"] == server.url
    assert (found["ANTHROPIC_AUTH_TOKEN"], found["ANTHROPIC_API_KEY"]) == ("it's", "")
    assert found["CLAUDE_CODE_SUBAGENT_MODEL"] == "alias"
    roles = ("OPUS", "SONNET", "HAIKU", "FABLE")
    assert {found[f"ANTHROPIC_DEFAULT_{role}_MODEL"] for role in roles} == {"alias"}
    assert (found["CLAUDE_CODE_MAX_CONTEXT_TOKENS"], found["CLAUDE_CODE_DISABLE_1M_CONTEXT"]) == ("1024", "1")
    shown = run("launch", "codex", "--url", server.url).stdout
    script = 'codex() { for a; do echo "$a"; done; }\nshopt -s expand_aliases\n' + shown + "\ncodex-imp"
    words = subprocess.check_output(["bash", "-c", script], text=True).splitlines()
    provider = next(word for word in words if word.startswith("model_providers.imp="))
    assert tomllib.loads(provider)["model_providers"]["imp"] == {
        "name": "imp", "base_url": f"{server.url}/v1", "wire_api": "responses", "env_key": "IMP_API_KEY",
    }  # fmt: skip
    assert words[-2:] == ["--model", "alias"]
    assert {"model_context_window=1024", "model_auto_compact_token_limit=768"} <= set(words)


def test_shell_completion() -> None:
    environment = {"_IMP_COMPLETE": "complete_bash", "COMP_WORDS": "imp se", "COMP_CWORD": "1"}
    assert run(**environment).stdout.split() == ["serve"]
    shown = run(_IMP_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="imp serve --api").stdout
    assert "--api-key-file" in shown


def test_pictures_of_the_documentation_are_small() -> None:
    for name in ("chat-light.png", "chat-dark.png"):
        file = ROOT / "docs" / "images" / name
        assert file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert file.stat().st_size < 200_000
