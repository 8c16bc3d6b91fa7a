"""`imp pull`, against servers that break off, lie, or know no ranges, and indexes of strangers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fake_engine import write_tiny_artifact
from imp_codegen import compiler
from imp_codegen.build import CodeObject
from imp_runtime.version import READ_BY
from imp_server.cli import execute
from imp_server.commands import pull

LLAMA = Path(__file__).parents[1] / "fixtures" / "llama" / "llama-Q8_0.gguf"


@dataclasses.dataclass
class Server:
    """What it serves, how it behaves, and which ranges it was asked for."""

    url: str
    files: dict[str, bytes]
    ranges: bool = True
    break_after: int | None = None  # bytes of a body
    breaks: int = 0  # how many more answers break
    asked: list[str | None] = dataclasses.field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = made.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            asked = self.headers.get("Range")
            begin = 0
            if not self.path.endswith("index.json"):
                made.asked.append(asked)
            if asked and made.ranges:
                begin = int(asked.removeprefix("bytes=").removesuffix("-"))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            body = content[begin:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if made.breaks and not self.path.endswith("index.json"):
                made.breaks -= 1
                body = body[: made.break_after]
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        made = Server(f"http://127.0.0.1:{http.server_port}", {})
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield made
        http.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_artifact(tmp_path_factory.mktemp("pull") / "tiny.impc").path.read_bytes()


def record(content: bytes, **changes: object) -> dict[str, Any]:
    whole = {
        "name": "tiny",
        "file": "tiny.impc",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "thin": False,
        "runtime": READ_BY,
        "source": "tiny.gguf",
    }
    return whole | changes


def index(*records: dict[str, Any]) -> bytes:
    return json.dumps({"version": 1, "imp": "0.1.0", "models": records, "failed": []}).encode()


def offer(server: Server, content: bytes, **changes: object) -> str:
    server.files |= {"/d/tiny.impc": content, "/d/index.json": index(record(content, **changes))}
    return f"{server.url}/d/"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def names(here: Path) -> list[str]:
    return sorted(path.name for path in here.iterdir())


def test_what_is_fetched_is_checked_and_not_fetched_twice(server: Server, content: bytes, here: Path) -> None:
    url = offer(server, content)
    assert execute(["pull", url, "tiny"]) == 0
    assert (here / "tiny.impc").read_bytes() == content
    assert execute(["pull", f"{url}index.json", "tiny"]) == 0
    assert server.asked == [None]
    assert names(here) == ["tiny.impc"]


@pytest.mark.parametrize("how", ["path", "folder", "file"])
def test_an_index_on_the_disk(content: bytes, tmp_path: Path, here: Path, how: str) -> None:
    folder = tmp_path / "a b%20"
    folder.mkdir()
    (folder / "tiny.impc").write_bytes(content)
    (folder / "index.json").write_bytes(index(record(content)))
    given = {"path": str(folder / "index.json"), "folder": str(folder), "file": f"{folder.as_uri()}/index.json"}
    assert execute(["pull", given[how], "tiny", "-o", "x.impc"]) == 0
    assert (here / "x.impc").read_bytes() == content


def test_an_interruption_goes_on_where_it_was(server: Server, content: bytes, here: Path) -> None:
    url = offer(server, content)
    server.break_after, server.breaks = 1000, 2
    assert execute(["pull", url, "tiny"]) == 0
    assert server.asked == [None, "bytes=1000-", "bytes=2000-"]
    assert (here / "tiny.impc").read_bytes() == content


def test_the_next_command_goes_on_where_the_last_was_given_up(
    server: Server, content: bytes, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = offer(server, content)
    part = here / f".tiny.impc.{hashlib.sha256(content).hexdigest()[:16]}.part"
    part.write_bytes(content[:3000])
    server.break_after, server.breaks = 0, 99
    assert execute(["pull", url, "tiny"]) == 2
    assert f"ended after 3,000 of {len(content):,} bytes" in capsys.readouterr().err
    assert names(here) == [part.name], "never a half file under the final name"
    server.breaks, server.asked[:] = 0, []
    assert execute(["pull", url, "tiny"]) == 0
    assert server.asked == ["bytes=3000-"]
    assert (here / "tiny.impc").read_bytes() == content
    assert names(here) == ["tiny.impc"]


def test_a_server_without_ranges_starts_clean(server: Server, content: bytes, here: Path) -> None:
    url = offer(server, content)
    server.ranges, server.break_after, server.breaks = False, 1000, 1
    assert execute(["pull", url, "tiny"]) == 0
    assert server.asked == [None, "bytes=1000-"]
    assert (here / "tiny.impc").read_bytes() == content


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (lambda content: b"\1" + content[1:], "has the SHA-256"),
        (lambda content: content + bytes(5), "is longer than the"),
        (lambda content: content[:-5], "ended after"),
    ],
)
def test_another_content_is_refused(
    server: Server,
    content: bytes,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    lie: Callable[[bytes], bytes],
    words: str,
) -> None:
    url = offer(server, content)
    server.files["/d/tiny.impc"] = lie(content)
    assert execute(["pull", url, "tiny"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert words in error
    assert [name for name in names(here) if not name.endswith(".part")] == []


def test_an_old_file_stays_until_the_new_is_whole(server: Server, content: bytes, here: Path) -> None:
    url = offer(server, content)
    other = write_tiny_artifact(here / "tiny.impc", context=256).path.read_bytes()
    server.break_after, server.breaks = 0, 99
    assert execute(["pull", url, "tiny"]) == 2
    assert (here / "tiny.impc").read_bytes() == other
    server.breaks = 0
    assert execute(["pull", url, "tiny"]) == 0
    assert (here / "tiny.impc").read_bytes() == content
    (here / "note.impc").write_text("mine")
    assert execute(["pull", url, "tiny", "-o", "note.impc"]) == 2
    assert (here / "note.impc").read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"file": "../tiny.impc"}, "file is '../tiny.impc', expected the plain name of a file beside the index"),
        ({"file": "/etc/passwd"}, "file is '/etc/passwd', expected"),
        ({"file": "..\\tiny.impc"}, "expected the plain name"),
        ({"file": "file:///etc/passwd"}, "expected the plain name"),
        ({"file": "http://other/tiny.impc"}, "expected the plain name"),
        ({"file": ".bashrc"}, "expected the plain name"),
        ({"file": 7}, "file is 7, expected"),
        ({"bytes": 10**30}, "expected a size of 1 to"),
        ({"bytes": -1}, "expected a size of 1 to"),
        ({"bytes": True}, "expected a size of 1 to"),
        ({"bytes": 1 << 42}, "but the disk has"),
        ({"sha256": "../x"}, "expected 64 hexadecimal digits"),
        ({"thin": 1}, "thin is 1, expected true or false"),
        ({"runtime": ">=7.0.0,<8.0.0"}, "needs imp 7.0.0 or newer"),
        ({"runtime": None}, "runtime is None, expected a range of versions"),
        ({"runtime": "new"}, "'new' is not a range of versions"),
    ],
)
def test_what_a_strangers_index_must_not_say(
    server: Server,
    content: bytes,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, object],
    words: str,
) -> None:
    assert execute(["pull", offer(server, content, **changes), "tiny"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.splitlines()[-1].startswith("imp: error: ")
    assert server.asked == []
    assert names(here) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("ftp://host/index.json", "begins with ftp://; an index is read from http://"),
        ("file://host/index.json", "names another machine"),
        ("http://127.0.0.1:1/index.json", "cannot be fetched"),
        ("http://[/index.json", "error"),
        ("/no/such/index.json", "cannot be read: No such file"),
        ("{url}/none/", "the server answered 404"),
        ("{url}/text", "is no index of imp build"),
        ("{url}/deep", "is no index of imp build"),
        ("{url}/list", "is no index of imp build"),
        ("{url}/later", "is of version 2, this imp reads 1; install the imp that made it, '0.9.0'"),
        ("{url}/empty", "has no model 'tiny'; it has none"),
    ],
)
def test_indexes_that_are_none(server: Server, capsys: pytest.CaptureFixture[str], given: str, words: str) -> None:
    server.files = {
        "/text": b"\xffhello",
        "/deep": b"[" * 100_000,
        "/list": b"[]",
        "/later": b'{"version": 2, "imp": "0.9.0", "models": []}',
        "/empty": index(),
    }
    assert execute(["pull", given.replace("{url}", server.url), "tiny"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert "internal error" not in error


def test_a_name_that_is_a_path(server: Server, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    url = offer(server, content, name="../tiny")
    assert execute(["pull", url, "../tiny"]) == 2
    assert "is no name of a model in an index" in capsys.readouterr().err
    assert execute(["pull", url, "other"]) == 2
    assert "has no model 'other'; it has ../tiny" in capsys.readouterr().err


def test_a_thin_one_is_linked(
    server: Server, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what is named; else with the repository that the index names; else how to do it is said."""
    monkeypatch.setattr(compiler, "build", lambda units, progress: tuple(CodeObject(b"x", "", True) for _ in units))
    for name, more in (("whole.impc", ()), ("thin", ("--thin",))):
        assert execute(["compile", str(LLAMA), "-o", name, "--target", "sim", *more]) == 0
    whole, thin = (Path(name).read_bytes() for name in ("whole.impc", "thin"))
    url = offer(server, thin, thin=True)
    assert execute(["pull", url, "tiny", "--weights-from", str(LLAMA)]) == 0
    assert Path("tiny.impc").read_bytes() == whole
    assert Path("tiny.thin.impc").read_bytes() == thin
    capsys.readouterr()
    assert execute(["pull", url, "tiny", "-o", "b.impc"]) == 0
    assert "imp link b.thin.impc MODEL -o b.impc" in capsys.readouterr().out
    monkeypatch.setattr(pull, "checkpoint_of", {"hf:org/llama": LLAMA}.__getitem__)
    offer(server, thin, thin=True, source="hf:org/llama")
    assert execute(["pull", url, "tiny", "-o", "b.impc"]) == 0
    assert Path("b.impc").read_bytes() == whole
