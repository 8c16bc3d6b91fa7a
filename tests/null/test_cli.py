"""The command line: what goes where, and that bad input ends in one line and exit code 2."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from fake_engine import FakeEngine, encode, write_tiny_artifact
from imp_codegen.cards import fast_cards
from imp_codegen.predict import predict_us
from imp_runtime.artifact import Artifact
from imp_runtime.engine import Engine, StepOutput
from imp_runtime.timings import Timings
from imp_server.cli import execute
from imp_server.console.tables import quantity

REPLY = "Hello 🙂 world"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "tiny.impc"
    write_tiny_artifact(path)
    return path


@pytest.fixture
def engine(file: Path, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    engine = FakeEngine(Artifact.open(file), lambda prompt: encode(REPLY))
    monkeypatch.setattr(Engine, "load", lambda *_, **__: engine)
    return engine


def type_in(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8"))


def one_line(captured: str) -> str:
    assert captured.startswith("imp: error: ")
    assert captured.count("\n") == 1
    assert "Traceback" not in captured
    return captured


# run and chat


def test_run_streams_the_text_to_stdout(file: Path, engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["run", str(file), "def add("]) == 0
    captured = capsys.readouterr()
    assert captured.out == REPLY + "\n"
    assert engine.prompts == [tuple(encode("def add("))]
    assert f"{len(encode('def add('))} prompt tokens" in captured.err
    assert f"{len(encode(REPLY))} generated" in captured.err
    assert engine.closed


def test_run_tells_where_the_time_went(file: Path, engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    engine.timings.steps |= {"device": 0.25, "weights": 0.5}
    assert execute(["run", str(file), "def add(", "--timings"]) == 0
    captured = capsys.readouterr()
    assert captured.out == REPLY + "\n"
    lines = [line.split(" s")[0] for line in captured.err.splitlines()[1:]]
    told = {line.split("  ")[0]: float(line.split()[-1]) for line in lines}
    assert list(told)[:3] == ["Python and its modules", "device", "weights"]
    assert (told["device"], told["weights"]) == (0.25, 0.5)
    assert told["Python and its modules"] > 0.01
    *steps, total = told.values()
    assert total == pytest.approx(sum(steps), abs=0.01)
    assert f"{256 / 1e9 / 0.5:.2f} GB/s" in captured.err


def test_timings_of_steps_inside_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 2.0, 2.5, 5.0, 7.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    timings = Timings()
    with timings.step("outer"), timings.step("inner"), timings.step("innermost"):
        pass  # from 0, 1, 2 to 7, 5, 2.5
    assert timings.steps == {"innermost": 0.5, "inner": 3.5, "outer": 3.0}
    assert timings.seconds == 7.0


def test_run_passes_every_option(file: Path, engine: FakeEngine) -> None:
    flags = "--max-tokens 3 --temperature 0.5 --top-k 4 --top-p 0.9 --min-p 0.1 --repetition-penalty 1.5"
    flags += " --frequency-penalty 0.25 --presence-penalty -0.5 --seed 11 --chat"
    assert execute(["run", str(file), "Hi", *flags.split()]) == 0
    params = engine.params[0]
    assert (params.max_tokens, params.temperature, params.top_k, params.top_p, params.min_p) == (3, 0.5, 4, 0.9, 0.1)
    assert (params.repetition_penalty, params.frequency_penalty, params.presence_penalty) == (1.5, 0.25, -0.5)
    assert params.seed == 11
    assert engine.prompts == [tuple(encode("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"))]


def test_run_reads_stdin(file: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, "zwei\nZeilen é".encode())
    assert execute(["run", str(file), "-"]) == 0
    assert engine.prompts == [tuple(encode("zwei\nZeilen é"))]


@pytest.mark.usefixtures("engine")
def test_run_with_stdin_that_is_no_text(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, b"ab\xff")
    assert execute(["run", str(file), "-"]) == 2
    assert "byte 2 is 0xff" in one_line(capsys.readouterr().err)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x", "--temperature", "-1"], "temperature is -1"),
        (["x", "--top-p", "3"], "top_p is 3"),
        (
            ["!" * 600],
            "maximum context length is 512 tokens, answer included. However, the prompt has 600 and",
        ),
        ([""], "prompt is empty"),
        (["a\udcff"], "not valid UTF-8"),
    ],
)
def test_run_with_bad_options(file: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["run", str(file), *arguments]) == 2
    assert words in one_line(capsys.readouterr().err)


def test_chat_keeps_the_conversation(
    file: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, b"one\n\ntwo\n/reset\nthree\n/what\n/exit\nnever\n")
    assert execute(["chat", str(file), "--max-tokens", "50"]) == 0

    def turn(role: str, text: str) -> str:
        return f"<|im_start|>{role}\n{text}<|im_end|>\n"

    start = "<|im_start|>assistant\n"
    assert engine.prompts == [
        tuple(encode(turn("user", "one") + start)),
        tuple(encode(turn("user", "one") + turn("assistant", REPLY) + turn("user", "two") + start)),
        tuple(encode(turn("user", "three") + start)),
    ]
    captured = capsys.readouterr()
    assert captured.out.count(REPLY + "\n") == 3
    assert "there are /reset and /exit" in captured.err


@pytest.mark.usefixtures("engine")
def test_chat_survives_a_message_that_is_too_long(
    file: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, b"!" * 600 + b"\nshort\n")
    assert execute(["chat", str(file)]) == 0
    captured = capsys.readouterr()
    assert "context length is 512" in captured.err
    assert REPLY in captured.out
    assert len(engine.prompts) == 1


def test_ctrl_c_stops_an_answer_of_chat_but_not_the_chat(
    file: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = engine.step

    def interrupted() -> list[StepOutput]:
        if len(engine.prompts) == 1 and len(engine.live[0].generated) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step()

    monkeypatch.setattr(engine, "step", interrupted)
    type_in(monkeypatch, b"one\ntwo\n")
    assert execute(["chat", str(file)]) == 0
    assert len(engine.prompts) == 2
    assert engine.aborted.is_set()
    assert capsys.readouterr().out.count(REPLY) == 1


def test_ctrl_c_ends_run_with_130(file: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> list[StepOutput]:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "step", interrupted)
    assert execute(["run", str(file), "x"]) == 130
    assert engine.closed


# inspect


def test_inspect_shows_the_plan(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["inspect", str(file), "--gpu", "h200"]) == 0
    out = capsys.readouterr().out
    for words in ("tiny", "qwen3", "854 k", "code/sim", "step_r1: up to 1 rows, 2 kernels", "imp_norm", "1.02 kB"):
        assert words in out
    (kernel, second) = Artifact.open(file).plan.target("sim").program("step_r1").kernels
    card = fast_cards()["h200"]
    rate = 1e6 / predict_us(card, (kernel, second))
    assert f"predicted for {card.title}: {rate:,.0f} tok/s at batch 1" in out


def test_inspect_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["inspect", str(file), "--json", "--gpu", "rtx-5090"]) == 0
    document = json.loads(capsys.readouterr().out)
    kernels = document["programs"]["step_r1"]["kernels"]
    assert [kernel["kernel"] for kernel in kernels] == ["layer0.attention_norm", "layer1.attention_norm"]
    assert kernels[0]["weight_bytes"] == 1000
    total = sum(kernel["predicted_us"] for kernel in kernels)
    assert document["predicted_decode_tokens_per_second"] == pytest.approx(1e6 / total)
    assert document["contents"]["source/sim.cu"] == len("// emitted source\n")


def leaves(value: object) -> list[object]:
    if isinstance(value, dict):
        return [each for key, inner in value.items() for each in (key, *leaves(inner))]
    return [each for inner in value for each in leaves(inner)] if isinstance(value, list) else [value]


def test_all_that_inspect_shows_is_in_the_json(tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every number and name of the tables, but for those that say how many launches are alike, and their sum."""
    plan = Artifact.open(file).plan
    (target,) = plan.targets
    second = dataclasses.replace(target, target="sm_90a", reason="as it was", sms=131, code="code/sim", simulated=False)
    other = write_tiny_artifact(tmp_path / "two.impc", targets=(target, second), parameters=87_654_321).path
    assert execute(["inspect", str(other), "--gpu", "h200"]) == 0
    text = capsys.readouterr().out
    assert execute(["inspect", str(other), "--gpu", "h200", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    told = {"x".join(map(str, k["grid"])) for p in document["programs"].values() for k in p["kernels"]}
    for value in leaves(document):
        told.add(str(value))
        if isinstance(value, int | float):
            told |= {f"{value:,.0f}", f"{value:.1f}", f"{value:.2f}", *(quantity(value, u) for u in ("", "B", "FLOP"))}
    for program in document["programs"].values():
        entries = [kernel["entry"] for kernel in program["kernels"]]
        told |= {str(len(entries)), *(str(entries.count(entry)) for entry in entries)}
    words = re.compile(r"[\w./:*-]*\d[\w./:*-]*(?:,\d{3})*")
    known = {word for each in told for word in words.findall(each)} | {"1"}  # at batch 1
    assert len(shown := {word.rstrip(":") for word in words.findall(text)}) > 30
    assert shown - known == set()
    for name in ("graph", "as it was", "as asked for", "f16"):
        assert name in text
        assert name in told


def test_inspect_source(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["inspect", str(file), "--source", "sim"]) == 0
    assert capsys.readouterr().out == "// emitted source\n"


# errors


def test_inspect_compares_all_with_its_checksums(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["inspect", str(file), "--check"]) == 0
    assert re.fullmatch(r".*tiny.impc: all \d+ parts are what their checksums say\n", capsys.readouterr().out)
    data = bytearray(file.read_bytes())
    begin = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["tokenizer.json"]["data_offsets"][0]
    data[8 + int.from_bytes(data[:8], "little") + begin] ^= 1
    (tmp_path / "damaged.impc").write_bytes(data)
    assert execute(["inspect", str(tmp_path / "damaged.impc"), "--check"]) == 2
    assert "damaged.impc: 'tokenizer.json' is not what its checksum says" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "No such command 'nothing'"),
        (["run"], "Missing argument 'FILE'"),
        (["run", "/no/such.impc", "x", "--bogus"], "No such option: --bogus"),
        (["run", "/no/such.impc", "x", "-n", "many"], "--max-tokens"),
        (["run", "/no/such.impc", "x", "-n", "0"], "--max-tokens"),
        (["inspect", "{file}", "--gpu", "voodoo"], "--gpu voodoo is unknown; known: h100-pcie, h100-sxm, h200"),
        (["inspect", "{file}", "--target", "sm_90a"], "no code for sm_90a; it carries sim"),
        (["inspect", "{file}", "--source", "sm_90a"], "no code for sm_90a"),
        (["run", "{file}", "x", "--target", "sm_120a"], "no code for sm_120a"),
        (["serve", "{file}", "--port", "70000"], "--port"),
        (["serve", "{file}", "--host", "256.1.1.1"], "cannot be listened on"),
        (["compile", "/no/such.gguf", "-o", "/tmp/x.impc", "--target", "sim,"], "--target is 'sim,'"),
        (["compile", "/no/such.gguf", "-o", "/tmp/x.impc", "--target", "sim"], "/no/such.gguf"),
        (["compile", "{file}", "-o", "/tmp/x.impc", "--target", "sim"], "tiny.impc"),
        (["compile", "{file}", "-o", "/tmp/x.impc", "--target", "tpu"], "tpu"),
    ],
)
def test_wrong_arguments(file: Path, arguments: Sequence[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([argument.replace("{file}", str(file)) for argument in arguments]) == 2
    assert words in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("command", ["run", "chat", "serve", "inspect", "verify", "bench"])
def test_files_that_are_no_artifact(
    tmp_path: Path, file: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = file.read_bytes()
    (tmp_path / "cut.impc").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "noise.impc").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "empty.impc").touch()
    for name in ("cut.impc", "noise.impc", "empty.impc", "missing.impc", ""):
        arguments = [command, str(tmp_path / name), *(["x"] if command == "run" else [])]
        assert execute(arguments) == 2
        assert str(tmp_path / name) in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/x"), "/tmp/x: No space left on device"),
        (ValueError("two\nlines"), "internal error: ValueError: two lines"),
    ],
)
def test_errors_that_nobody_foresaw(
    file: Path,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    words: str,
) -> None:
    def fail() -> list[StepOutput]:
        raise error

    monkeypatch.setattr(engine, "step", fail)
    assert execute(["run", str(file), "x"]) == 2
    assert words in one_line(capsys.readouterr().err)
    assert execute(["run", str(file), "x", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def imp(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "imp_server", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_real_process(file: Path, tmp_path: Path) -> None:
    bad = imp("run", str(tmp_path / "no.impc"), "x")
    assert (bad.returncode, bad.stdout) == (2, "")
    one_line(bad.stderr)
    assert imp("inspect", str(file)).returncode == 0
    assert "Traceback" in imp("--debug", "inspect", str(tmp_path / "no.impc")).stderr
    assert "compile" in imp("--help").stdout
    assert imp("--version").stdout.startswith("imp ")


def test_serve_ends_when_the_model_cannot_be_loaded(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The code of the tiny artifact is no library; that shows only when the engine loads it."""
    assert execute(["serve", str(file), "--port", "0", "--target", "sim"]) == 2
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("imp: error: ")] != []
