"""The checks of `imp verify --text`: each finds a model that is wrong in its way, and names it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fake_engine import IM_START, FakeEngine, Output, encode, reference_tokenizer, write_tiny_artifact
from imp_runtime.artifact import Artifact
from imp_runtime.engine import Engine
from imp_runtime.evaluation_text import evaluation_text
from imp_runtime.sampling import SamplingParams
from imp_runtime.sequence import Sequence as Request
from imp_server.cli import execute
from imp_server.coherence import texts
from imp_server.coherence.answers import MARGIN
from imp_server.coherence.gate import Check, checks_of, examine, form_check
from imp_server.coherence.prompts import Prompt
from imp_server.generation.tokenizer import Tokenizer
from imp_server.model import Model
from imp_server.parsers import for_model
from model_checks import quiet

SANE = encode(evaluation_text())[:60]
OTHER = encode("And nothing of all that was true, said the keeper, for he had seen it.")
LENGTH = 48
LIKELY, UNLIKELY = np.log(0.9), -9.0
PROMPTS = (Prompt("greeting", "Hello!", chat=True), Prompt("story", "Once upon a time there was a lock keeper, who"))


@dataclass(frozen=True, slots=True)
class Question:
    """What an answer of the fake may depend on: whether it is sampled, how often it was asked for, others beside it."""

    sampled: bool
    before: int
    others: int
    story: bool


class Scripted(FakeEngine):
    """Answers by `says`; each choice had 90 %, and read as a prompt an answer has the same logits."""

    says: Callable[[Question], Sequence[int]] = staticmethod(lambda _: SANE)
    logits_bad = False
    error_after: int | None = None
    odd: tuple[int, float] | None = None  # a step of steps, and what is added to its log-probability

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact, lambda _: SANE)

    def add(self, prompt: Sequence[int], params: SamplingParams, constraint: Any = None) -> Request:
        sampled = params.temperature > 0
        before = sum(p == tuple(prompt) and (q.temperature > 0) == sampled for p, q in self._asked())
        story = tuple(prompt) == tuple(encode(PROMPTS[1].text))
        self._reply = lambda _: self.says(Question(sampled, before, len(self.live), story))
        return super().add(prompt, params, constraint)

    def _asked(self) -> Iterator[tuple[tuple[int, ...], SamplingParams]]:
        return zip(self.prompts, self.params, strict=True)

    def _next(self, sequence: Request) -> Output:
        if self.error_after is not None and len(sequence.generated) == self.error_after:
            self._drop(sequence)
            return Output(sequence, -1, "error")
        output = super()._next(sequence)
        step = len(sequence.generated)
        likely = LIKELY + (self.odd[1] if self.odd and self.odd[0] == step else 0)
        return Output(sequence, output.token, output.finish, likely, ((output.token, likely), (0, UNLIKELY)))

    def logits_in_parts(self, tokens: Sequence[int], first: int = 0) -> Iterator[npt.NDArray[np.float32]]:
        rows = np.full((len(tokens), self.plan.vocab), np.log(0.1 / (self.plan.vocab - 1)), np.float32)
        for i, token in enumerate(tokens[1:]):
            rows[i, token] = LIKELY
        if self.logits_bad:
            rows[-2, 5] = np.inf
        yield from (rows[:7], rows[7:])


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_tiny_artifact(tmp_path_factory.mktemp("coherence") / "tiny.impc")


@pytest.fixture
def engine(artifact: Artifact) -> Scripted:
    return Scripted(artifact)


def checked(engine: Scripted, tokens: int = LENGTH) -> dict[str, Check]:
    model = Model(engine)  # type: ignore[arg-type]
    found = examine(model, tokens, quiet, PROMPTS)
    assert not engine.live
    return {check.name: check for check in [*checks_of(found), form_check(found, model, quiet)]}


def failing(checks: dict[str, Check]) -> dict[str, str]:
    return {name: check.verdict for name, check in checks.items() if check.verdict != "ok"}


def test_a_sane_model_passes(engine: Scripted) -> None:
    checks = checked(engine)
    assert {check.verdict for check in checks.values()} == {"ok"}
    assert len(checks) == 11
    assert all(check.looked_at for check in checks.values())


def test_one_form(engine: Scripted) -> None:
    found = examine(Model(engine), LENGTH, quiet, PROMPTS)  # type: ignore[arg-type]
    assert form_check(found, None, quiet).verdict == "not run"


# What the answers say


def test_loops(engine: Scripted) -> None:
    engine.says = lambda q: SANE[:10] + SANE[10:15] * 20 if q.sampled else SANE
    checks = checked(engine)
    check = checks["loops"]
    assert check.verdict == "LOOPS"
    assert [(fault.prompt, fault.sampling) for fault in check.faults] == [("greeting", "sampled"), ("story", "sampled")]
    assert check.faults[0].what == "ends in 7 times the same 5 tokens"
    assert failing(checks) == {"loops": "LOOPS"}


def test_a_loop_is_that_which_is_long_and_at_the_end() -> None:
    assert texts.loop([1] * 31) is None
    assert texts.loop([1] * 32) == "ends in 32 times the same 1 tokens"
    assert texts.loop([9, 9, *range(8), *range(8), *range(8), *range(8)]) == "ends in 4 times the same 8 tokens"
    assert texts.loop([*range(8), *range(8), *range(8), *range(1, 8)]) is None
    assert texts.loop([*range(8)] * 4 + [0, 1, 2, 9]) is None
    assert texts.loop([*range(64)] * 4) == "ends in 4 times the same 64 tokens"
    assert texts.loop([*range(65)] * 9) is None
    assert texts.loop([]) is None


def test_what_repeats_itself_by_nature_may_loop(engine: Scripted) -> None:
    engine.says = lambda _: SANE[10:15] * 20
    model = Model(engine)  # type: ignore[arg-type]
    prompts = (Prompt("log", "one two one two", repetitive=True), Prompt("story", "one two"))
    (check,) = [each for each in checks_of(examine(model, LENGTH, quiet, prompts)) if each.name == "loops"]
    assert {fault.prompt for fault in check.faults} == {"story"}


def test_dead_tokens(engine: Scripted) -> None:
    engine.says = lambda q: SANE[:4] + [SANE[4]] * (16 if q.story else 15) + OTHER + SANE
    checks = checked(engine)
    check = checks["dead tokens"]
    assert {fault.prompt for fault in check.faults} == {"story"}
    assert check.faults[0].what == f"token {SANE[4]} 16 times in succession"
    assert failing(checks) == {"dead tokens": "DEAD"}


def test_tokens_that_are_none(tmp_path: Path) -> None:
    none = 515
    assert reference_tokenizer().id_to_token(none) is None
    engine = Scripted(write_tiny_artifact(tmp_path / "tiny.impc", vocab=520))
    engine.says = lambda q: [*SANE[:9], none, *SANE[9:]]
    checks = checked(engine)
    check = checks["vocabulary"]
    assert check.faults[0].what == f"token {none} at step 10 is none of the tokenizer's"
    assert failing(checks) == {"vocabulary": "UNKNOWN"}


def test_special_tokens(engine: Scripted) -> None:
    engine.says = lambda q: [*SANE[:9], IM_START, *SANE[9:]]
    checks = checked(engine)
    check = checks["special tokens"]
    assert len(check.faults) == 4
    assert check.faults[0].what == "the special token <|im_start|> stands in the middle"
    assert failing(checks) == {"special tokens": "SPECIAL"}


def test_what_a_family_writes_in_special_tokens_is_its_own(tmp_path: Path) -> None:
    """Here a tag of reasoning is special, as it is in some tokenizers; without a template it is text."""
    closing = 512
    description = json.loads(reference_tokenizer().to_str())
    description["added_tokens"].append({**description["added_tokens"][0], "id": closing, "content": "</think>"})
    blobs = {"tokenizer.json": json.dumps(description).encode()}
    tokenizer = Tokenizer(write_tiny_artifact(tmp_path / "tiny.impc", vocab=520, blobs=blobs))
    assert closing in tokenizer.special_ids
    family = for_model("{{ messages }}<think>", "hermes")
    said = [*SANE[:5], closing, *SANE[5:9]]
    prompt = encode("<think>\n")
    assert texts.special_token(said, tokenizer, family, prompt) is None
    assert texts.special_token(said, tokenizer, None, prompt) == "the special token </think> stands in the middle"


def test_bytes_that_are_no_utf8(engine: Scripted) -> None:
    smile = encode("🙂")
    assert len(smile) > 1
    engine.says = lambda q: SANE[:9] + smile[:1] + SANE[9:]
    assert failing(checked(engine)) == {"utf-8": "BROKEN"}
    tokenizer = Model(engine).tokenizer  # type: ignore[arg-type]
    assert texts.broken_bytes(SANE[:9] + smile[:1], tokenizer, cut=True) is None
    assert texts.broken_bytes(SANE[:9] + smile[:1], tokenizer, cut=False) is not None
    assert texts.broken_bytes(SANE[:9] + smile, tokenizer, cut=False) is None


# What logits they come from


def test_no_numbers_in_steps(engine: Scripted) -> None:
    engine.error_after = 3
    checks = checked(engine)
    check = checks["finite"]
    assert check.faults[0].what == "no finite logits after 3 tokens"
    assert {fault.sampling for fault in check.faults} == {"greedy", "sampled"}
    assert failing(checks) == {"finite": "NOT FINITE"}


def test_no_numbers_in_prompts(engine: Scripted) -> None:
    engine.logits_bad = True
    checks = checked(engine)
    check = checks["finite"]
    assert {fault.what for fault in check.faults} == {"no finite logits where prompt and answer are read as a prompt"}
    assert failing(checks) == {"finite": "NOT FINITE"}


def test_another_answer_behind_a_hit(engine: Scripted) -> None:
    engine.says = lambda q: OTHER + SANE if q.before == 1 and not q.sampled else SANE
    checks = checked(engine)
    check = checks["prefix cache"]
    margin = LIKELY - UNLIKELY
    why = f"token {OTHER[0]} in place of {SANE[0]}, which is likelier by {margin:.2f} nats"
    assert check.faults[0].what == f"at step 1 {why}"
    assert failing(checks) == {"prefix cache": "DIFFERS"}


def test_another_answer_in_a_batch(engine: Scripted) -> None:
    engine.says = lambda q: SANE[:5] + OTHER if q.others == 1 else SANE
    checks = checked(engine)
    check = checks["batch"]
    assert [(fault.prompt, fault.sampling) for fault in check.faults] == [("story", "greedy")]
    assert check.faults[0].what.startswith(f"at step 6 token {OTHER[0]} in place of {SANE[5]}")
    assert failing(checks) == {"batch": "DIFFERS"}


def test_other_tokens_with_the_same_seed(engine: Scripted) -> None:
    engine.says = lambda q: SANE[:5] + OTHER if q.sampled and q.before == 1 else SANE
    checks = checked(engine)
    check = checks["seed"]
    assert check.faults[0].what == f"at step 6 token {SANE[5]}, then token {OTHER[0]}, with the same seed"
    assert failing(checks) == {"seed": "DIFFERS"}


@pytest.mark.parametrize(("more", "verdicts"), [(-0.9 * MARGIN, {}), (-1.1 * MARGIN, {"prompt": "DIFFERS"})])
def test_steps_whose_logits_are_others_than_a_prompts(engine: Scripted, more: float, verdicts: dict[str, str]) -> None:
    engine.odd = (7, more)
    found = checked(engine)
    assert {name: check.verdict for name, check in found.items() if check.faults} == verdicts
    if verdicts:
        assert found["prompt"].faults[0].what == f"at step 7 the log-probability of token {SANE[6]} differs by 0.55"


def test_a_step_that_chose_another_token_than_the_likeliest_of_a_prompt(engine: Scripted) -> None:
    usual = engine.logits_in_parts

    def logits_in_parts(tokens: Sequence[int], first: int = 0) -> Iterator[npt.NDArray[np.float32]]:
        for rows in usual(tokens, first):
            yield np.roll(rows, 1, axis=1)

    engine.logits_in_parts = logits_in_parts  # type: ignore[method-assign]
    assert failing(checked(engine)) == {"prompt": "DIFFERS"}


def test_a_prompt_of_another_precision_is_not_compared(engine: Scripted) -> None:
    engine.odd = (7, -1.1 * MARGIN)
    engine.plan = replace(engine.plan, prefill="w4a4")
    assert failing(checked(engine)) == {"prompt": "not run"}


def test_another_answer_in_the_other_form(engine: Scripted, artifact: Artifact) -> None:
    other = Scripted(artifact)
    other.says = lambda q: SANE[:20] + OTHER
    found = examine(Model(engine), LENGTH, quiet, PROMPTS)  # type: ignore[arg-type]
    check = form_check(found, Model(other), quiet)  # type: ignore[arg-type]
    assert check.verdict == "DIFFERS"
    assert check.faults[0].what.startswith(f"at step 21 token {OTHER[0]} in place of {SANE[20]}")


def test_where_two_are_nearly_as_likely_either_may_come(engine: Scripted) -> None:
    """And what comes behind is not compared."""

    class Narrow(Scripted):
        def _next(self, sequence: Request) -> Output:
            output = super()._next(sequence)
            pair = ((SANE[5], -0.7), (OTHER[0], -0.9))
            if len(sequence.generated) != 6:
                return output
            return Output(sequence, output.token, output.finish, dict(pair)[output.token], pair)

        def logits_in_parts(self, tokens: Sequence[int], first: int = 0) -> Iterator[npt.NDArray[np.float32]]:
            rows = np.concatenate(list(super().logits_in_parts(tokens)))
            rows[len(tokens) - LENGTH + 4] = -20
            rows[len(tokens) - LENGTH + 4, [SANE[5], OTHER[0]]] = -0.8, -0.6
            yield rows

    narrow = Narrow(engine.artifact)
    narrow.says = lambda q: SANE[:5] + OTHER + SANE if q.others else SANE
    assert failing(checked(narrow)) == {}


# The command


@pytest.fixture
def as_engine(engine: Scripted, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    monkeypatch.setattr(Engine, "load", lambda *_, **__: engine)
    return engine


def test_command(as_engine: Scripted, artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["verify", str(artifact.path), "--text", "-n", "20"]) == 0
    shown = capsys.readouterr().out
    for name in ("finite", "loops", "dead tokens", "vocabulary", "special tokens", "utf-8", "prefix cache", "batch"):
        assert f"\n {name}" in shown
    assert shown.endswith("all checks pass\n")


def test_command_that_fails(as_engine: Scripted, artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    as_engine.says = lambda q: OTHER + SANE if q.others == 3 else SANE[:1] * 60
    arguments = ["verify", str(artifact.path), "--text"]
    assert execute(arguments) == 1
    shown = capsys.readouterr().out
    assert shown.endswith("failed: loops, dead tokens, batch\n")
    assert "\nLOOPS, loops: chat, greedy: ends in 60 times the same 1 tokens\n" in shown
    assert "\nDIFFERS, batch: code, greedy: at step 1 " in shown
    assert execute([*arguments, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert not document["passed"]
    kinds = {check["name"]: (check["kind"], check["verdict"]) for check in document["checks"] if check["faults"]}
    assert kinds["loops"] == ("text", "LOOPS")
    assert kinds["batch"] == ("numbers", "DIFFERS")


def test_random_weights_may_say_anything(
    as_engine: Scripted, artifact: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    as_engine.says = lambda q: SANE[:1] * 60
    arguments = ["verify", str(artifact.path), "--text", "--random-weights"]
    assert execute(arguments) == 0
    assert capsys.readouterr().out.endswith("passed, but for the text of random weights\n")
    as_engine.logits_bad = True
    assert execute(arguments) == 1
    assert capsys.readouterr().out.endswith("failed: finite\n")


def test_options_of_text_alone(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["verify", "model.impc", "-n", "20"]) == 2
    assert "--max-tokens goes with --text" in capsys.readouterr().err
    assert execute(["verify", "model.impc", "--text", "--tokens", "20"]) == 2
    assert "--tokens does not go with --text" in capsys.readouterr().err
