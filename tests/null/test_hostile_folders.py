"""No text of a Hugging Face folder reaches emitted source, and none reaches a terminal as it is."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hostile_texts import EVERYTHING, HOSTILE
from imp_codegen import compiler
from imp_codegen.build import CodeObject
from imp_codegen.checkpoint import CheckpointError, open_checkpoint
from imp_codegen.compiler import Compiled, CompileOptions, plan_model
from imp_codegen.targets import find_target
from imp_runtime.plan import Plan
from imp_runtime.plan_check import check_plan
from imp_runtime.text import plain_name
from imp_server.cli import execute

FOLDER = Path(__file__).parents[1] / "fixtures" / "llama" / "hf"
OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
FILES = ("config.json", "tokenizer_config.json", "generation_config.json", "tokenizer.json")
GENERATION = {"eos_token_id": [511], "temperature": 0.6, "transformers_version": "5.23.0"}
MANY = 3  # entries of an object or list of which a few stand for all
Step = str | int
Change = Callable[[Any], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copied(tmp_path / "model")


def copied(path: Path) -> Path:
    path.mkdir()
    for file in FOLDER.iterdir():
        (path / file.name).symlink_to(file)
    (path / "generation_config.json").write_text(json.dumps(GENERATION), "utf-8")
    return path


def planned(path: Path) -> Compiled:
    with closing(open_checkpoint(path)) as checkpoint:
        return plan_model(checkpoint, (find_target("sim"),), CompileOptions())


def places(value: object, where: tuple[Step, ...] = ()) -> Iterator[tuple[str, tuple[Step, ...]]]:
    """Every text of a JSON value, as ("key" or "value", the way there); of many of a kind the first and the last."""
    if isinstance(value, str):
        yield "value", where
    entries: list[tuple[Step, object]] = []
    if isinstance(value, dict):
        entries = list(value.items())
    elif isinstance(value, list):
        entries = list(enumerate(value))
    vocabulary = len(entries) > MANY and all(type(each) is type(entries[0][1]) for _, each in entries)
    for step, each in (entries[:2] + entries[-1:]) if vocabulary else entries:
        if isinstance(step, str):
            yield "key", (*where, step)
        yield from places(each, (*where, step))


def changed(value: Any, kind: str, where: tuple[Step, ...], change: Callable[[str], str]) -> Any:
    """The JSON value with another text at one place; nothing else differs."""
    if not where:
        return change(value)
    step, rest = where[0], where[1:]
    if isinstance(value, list):
        return [changed(each, kind, rest, change) if i == step else each for i, each in enumerate(value)]
    last = kind == "key" and not rest
    return {
        change(key) if last and key == step else key: changed(each, kind, rest, change)
        if key == step and not last
        else each
        for key, each in value.items()
    }


@pytest.mark.parametrize("name", FILES)
def test_emitted_source_holds_no_text_of_the_folder(folder: Path, name: str) -> None:
    truth = planned(folder)
    whole = json.loads((folder / name).read_text("utf-8"))
    taken: set[tuple[Step, ...]] = set()
    refusals: list[str] = []
    for kind, where in places(whole):
        for change in (lambda text: text + EVERYTHING, *((lambda text: EVERYTHING,) if kind == "value" else ())):
            (folder / name).unlink()
            (folder / name).write_text(json.dumps(changed(whole, kind, where, change)), "utf-8")
            try:
                compiled = planned(folder)
            except CheckpointError as error:
                refusals.append(str(error))
                continue
            taken.add(where)
            assert compiled.emitted["sim"].source == truth.emitted["sim"].source, (kind, where)
            plan = Plan.from_json(compiled.plan.to_json())
            check_plan(plan)
            assert (plan.planes, plan.targets) == (truth.plan.planes, truth.plan.targets), (kind, where)
    assert not [text for text in refusals if OBEYED.search(text)]
    at_least = {
        "config.json": {("model_type",), ("transformers_version",)},
        "tokenizer_config.json": {("chat_template",), ("tokenizer_class",)},
        "generation_config.json": {("transformers_version",)},
        "tokenizer.json": {("version",)} & taken,
    }
    assert at_least[name] <= taken


@pytest.mark.parametrize("text", HOSTILE)
def test_names_of_tensors_and_files(folder: Path, text: str, tmp_path: Path) -> None:
    raw = (FOLDER / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    name = next(iter(header.keys() - {"__metadata__"}))
    changed_header = json.dumps({text if key == name else key: each for key, each in header.items()}).encode()
    (folder / "model.safetensors").unlink()
    whole = len(changed_header).to_bytes(8, "little") + changed_header + raw[start:]
    (folder / "model.safetensors").write_bytes(whole)
    index = {"weight_map": {key: text for key in header if key != "__metadata__"}}
    for write_index in (False, True):
        if write_index:
            (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
        with pytest.raises(CheckpointError) as caught:
            planned(folder)
        assert not OBEYED.search(str(caught.value))
    named = copied(tmp_path / text.replace("/", "").replace("\0", "")[:80])
    compiled = planned(named)
    assert compiled.plan.model == (plain_name(named.name) or "llama")
    assert compiled.emitted["sim"].source == planned(FOLDER).emitted["sim"].source


def test_nothing_of_a_folder_is_obeyed_by_a_terminal(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `imp compile` and `imp inspect` say, whether they take the folder or not; no compiler runs."""
    monkeypatch.setattr(compiler, "build", lambda units, progress: tuple(CodeObject(b"code", "", True) for _ in units))
    output = folder.parent / "out.impc"
    taken = 0
    for name in FILES[:3]:
        whole = json.loads((folder / name).read_text("utf-8"))
        for kind, where in [*places(whole)][::4]:  # each of them is compiled, packed and shown
            (folder / name).unlink()
            text = json.dumps(changed(whole, kind, where, lambda text: text + EVERYTHING))
            (folder / name).write_text(text, "utf-8")
            if execute(["compile", str(folder), "-o", str(output), "--target", "sim"]) == 0:
                taken += 1
                assert execute(["inspect", str(output)]) == 0
            captured = capsys.readouterr()
            assert not OBEYED.search((captured.out + captured.err).replace("\n", "")), (kind, where)
            assert "internal error" not in captured.err, (kind, where)
        (folder / name).unlink()
        shutil.copy(FOLDER / name, folder) if (FOLDER / name).exists() else None
    assert taken > 5
