"""No text of a model file reaches emitted source, and none reaches terminal, log or page as it is."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tiny_artifact import make_plan, write_tiny

from hostile_texts import EVERYTHING, HOSTILE, Place, Texts
from imp_codegen import compiler
from imp_codegen.build import CodeObject
from imp_codegen.checkpoint import CheckpointError, open_checkpoint
from imp_codegen.compiler import Compiled, CompileOptions, plan_model
from imp_codegen.emit import own_text
from imp_codegen.targets import find_target
from imp_runtime.artifact import Artifact, ArtifactError
from imp_runtime.errors import ImpError
from imp_runtime.plan import Plan, PlanError
from imp_runtime.plan_check import check_plan
from imp_runtime.text import plain_name, visible
from imp_server.cli import execute
from imp_server.console.tables import show, table
from imp_server.console.terminal import say
from imp_server.remote.client import Client
from small_gguf import write_gguf

FILE = Path(__file__).parents[1] / "fixtures" / "llama" / "llama-Q4_K_M.gguf"
OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def planned(path: Path) -> Compiled:
    with closing(open_checkpoint(path)) as checkpoint:
        return plan_model(checkpoint, (find_target("sim"),), CompileOptions())


def chosen(places: tuple[Place, ...]) -> Iterator[Place]:
    """Every place, but of a long list three."""
    for place in places:
        name, _, index = place.what.rstrip("]").partition("[")
        if not index or int(index) in (0, 100, sum(p.what.startswith(f"{name}[") for p in places) - 1):
            yield place


def test_emitted_source_holds_no_text_of_the_file(tmp_path: Path) -> None:
    texts, whole = Texts.of(FILE.read_bytes()), planned(FILE)
    path = tmp_path / "hostile.gguf"
    taken: set[str] = set()
    refusals: list[str] = []
    for place in chosen(texts.places):
        for text in (EVERYTHING, texts.text(place) + EVERYTHING):
            truth = whole
            path.write_bytes(texts.with_texts({place: text}))
            try:
                compiled = planned(path)
            except CheckpointError as error:
                refusals.append(str(error))
                continue
            taken.add(place.what)
            if place.what.startswith("name of"):  # without that key or tensor it is another model
                path.write_bytes(texts.with_texts({place: "general.nothing"}))
                truth = planned(path)
            assert {name: item.source for name, item in compiled.emitted.items()} == {
                name: item.source for name, item in truth.emitted.items()
            }, place
            plan = Plan.from_json(compiled.plan.to_json())
            check_plan(plan)
            assert (plan.planes, plan.targets) == (truth.plan.planes, truth.plan.targets), place
    assert {"general.name", "general.size_label", "tokenizer.chat_template"} <= taken
    assert not [text for text in refusals if OBEYED.search(text)]


def test_nothing_of_a_file_is_obeyed_by_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `imp compile` and `imp inspect` say, whether they take the file or not; no compiler runs."""
    monkeypatch.setattr(compiler, "build", lambda units, progress: tuple(CodeObject(b"code", "", True) for _ in units))
    texts = Texts.of(write_gguf(tmp_path / "m.gguf").read_bytes())
    source, output = tmp_path / "hostile.gguf", tmp_path / "out.impc"
    taken = set()
    for place in chosen(texts.places):
        source.write_bytes(texts.with_texts({place: texts.text(place) + EVERYTHING}))
        if execute(["compile", str(source), "-o", str(output), "--target", "sim"]) == 0:
            taken.add(place.what)
            for more in ((), ("--json",), ("--source", "sim")):
                assert execute(["inspect", str(output), *more]) == 0
        captured = capsys.readouterr()
        assert not OBEYED.search((captured.out + captured.err).replace("\n", "")), place
        assert "internal error" not in captured.err, place
    assert {"general.name", "tokenizer.ggml.tokens[0]"} <= taken


def test_emitted_source_holds_no_file_name(tmp_path: Path) -> None:
    texts = Texts.of(FILE.read_bytes())
    place = next(p for p in texts.places if texts.text(p) == "general.name")
    name = EVERYTHING.replace("/", "").replace("\0", "")[:70].encode() + b"\xff.gguf"
    path = tmp_path / name.decode(errors="surrogateescape")
    path.write_bytes(texts.with_texts({place: "general.other"}))
    compiled = planned(path)
    assert compiled.emitted["sim"].source == planned(FILE).emitted["sim"].source
    assert compiled.plan.model == plain_name(name.decode(errors="replace").removesuffix(".gguf"))


@pytest.mark.parametrize("text", HOSTILE[:8])
def test_the_emitter_refuses_a_text_that_is_not_its_own(text: str) -> None:
    with pytest.raises(ValueError, match="not a text of imp's own"):
        own_text(text)


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("Qwen3 8B Instruct (v2.1)", "Qwen3 8B Instruct (v2.1)"),
        ("Llama-3.1_8B+x:y@z, w", "Llama-3.1_8B+x:y@z, w"),
        ("通义千问 Größe", "通义千问 Größe"),
        ("a\nb\t c  d", "a b c d"),
        ("*/ x /*?\\", "x"),
        ("org/name", "org name"),
        ("\x1b[31mred\x1b[0m", "31mred 0m"),
        ("<b>&amp;", "b amp"),
        ("a" * 300, "a" * 80),
        ("\udc80\n", ""),
    ],
)
def test_plain_name(given: str, left: str) -> None:
    assert plain_name(given) == left
    assert plain_name(left) == left


def test_visible() -> None:
    assert visible("a\x1b[2J\n\u202e\udcff") == "a\\u001b[2J\\u000a\\u202e\\udcff"
    assert visible("a\n\tb\r", keep="\n\t") == "a\n\tb\\u000d"
    for text in ("naïve 日本語 👩\u200d👩\u200d👧 नमस्ते", EVERYTHING):
        assert not OBEYED.search(visible(text))
    assert visible("naïve 👩\u200d👧") == "naïve 👩\u200d👧"


def test_tables_and_errors_show_what_a_terminal_would_obey(capsys: pytest.CaptureFixture[str]) -> None:
    show(table(EVERYTHING, ("a", "b"), [(EVERYTHING, EVERYTHING)]))
    assert execute(["inspect", EVERYTHING.replace("\0", "")]) == 2
    captured = capsys.readouterr()
    assert not OBEYED.search(captured.out.replace("\n", ""))
    assert not OBEYED.search(captured.err.removesuffix("\n"))


def test_an_answer_is_obeyed_by_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for kind, expected in ((io.StringIO, EVERYTHING), (Terminal, visible(EVERYTHING, keep="\n\t"))):
        stream = kind()
        monkeypatch.setattr("sys.stdout", stream)
        say(EVERYTHING)
        assert stream.getvalue() == expected


@pytest.mark.parametrize("text", [text for text in HOSTILE if plain_name(text) != text])
def test_an_artifact_with_such_a_name_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="model"):
        check_plan(Plan.from_json(dataclasses.replace(make_plan(), model=text).to_json()))


def test_an_artifact_with_control_characters_is_refused(tmp_path: Path) -> None:
    raw = make_plan().to_json()
    with pytest.raises(PlanError, match=r"plan\.architecture is .*; it holds a control character"):
        Plan.from_json(raw.replace('"architecture":"none"', '"architecture":"a\\u001b[2J"'))
    path = write_tiny(tmp_path / "tiny.impc")
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    header = whole[8:end].rstrip().replace(b'"format":"impc"', b'"who":"\\u001b[2J","format":"impc"')
    header = header.ljust(-(-(8 + len(header)) // 256) * 256 - 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + whole[end:])
    with pytest.raises(ArtifactError, match="holds a control character"):
        Artifact.open(path)


def test_a_server_cannot_put_lines_into_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """`eval "$(imp launch claude)"`: the name stands in a comment, too, which a line end would close."""

    class Response:
        is_error = False

        def json(self) -> object:
            return {"data": [{"id": "x\ntouch owned\n"}]}

    with Client("http://127.0.0.1:9") as client:
        monkeypatch.setattr(client._http, "get", lambda path: Response())
        with pytest.raises(ImpError, match="holds a control character"):
            client.model()
