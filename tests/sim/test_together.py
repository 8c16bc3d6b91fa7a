"""Steps of several sequences in one program on the simulator: the tokens of each are those of its rows run alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pytest

from imp_codegen import compiler
from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.targets import find_target
from imp_runtime.constraint import TokenMask, pack_bits, unpack_bits
from imp_runtime.engine import Engine, StepOutput
from imp_runtime.host_sampler import HostSampler
from imp_runtime.launcher import Launched
from imp_runtime.sampling import SamplingParams
from imp_runtime.scheduler import Batch
from imp_runtime.sequence import Sequence
from model_checks import quiet
from prefix_checks import prompt_of

DEMO = Path(__file__).parents[2] / "models" / "demo.gguf"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("demo") / "demo.impc"
    target = replace(find_target("sim"), batches=(8, 16))
    with patch.object(compiler, "find_targets", lambda _: (target,)):
        compile_model(DEMO, output, ("sim",), CompileOptions(), quiet)
    return output


class Odd:
    """A grammar of odd tokens, then of even ones, in turns."""

    def __init__(self, vocab: int) -> None:
        self.turn, self.vocab = 1, vocab

    def mask(self) -> npt.NDArray[np.uint32]:
        return pack_bits(np.arange(self.vocab) % 2 == self.turn)

    def accept(self, token: int) -> None:
        self.turn = 1 - self.turn

    def done(self) -> bool:
        return False


def answers(
    engine: Engine, several: list[SamplingParams], masks: dict[int, TokenMask] | None = None
) -> tuple[list[Sequence], Counter[str], dict[int, list[StepOutput]]]:
    """Sequences with these records that run together, how often each program was run, and what `step` gave of each."""
    ran: Counter[str] = Counter()
    run = engine.runner.run

    def counted(program: str) -> None:
        ran[program] += 1
        run(program)

    engine.runner.run = counted  # type: ignore[method-assign]
    every = [engine.add(prompt_of(5 + 2 * i, i), params, (masks or {}).get(i)) for i, params in enumerate(several)]
    outputs: dict[int, list[StepOutput]] = {}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.sequence.id, []).append(output)
    return every, ran, outputs


def test_the_likeliest_tokens(artifact: Path) -> None:
    """Rows beside others have the very logits that they have in a program of their own sequence's rows.

    The prompts end in one chunk, so their first tokens are chosen together, too.
    """
    params = [SamplingParams(max_tokens=4 + i, ignore_eos=True) for i in range(3)]
    with Engine.load(artifact, target="sim", prefix_cache=False) as engine:
        every, ran, _ = answers(engine, params)
        assert ran["sample_r8"] == 1 + 4
        assert ran["head_r8"] == 1
        assert ran["head_r1"] == ran["sample_r1"] == 0
        assert ran["step_r1"] <= 2, "only the last tokens of the longest are alone"
        for sequence in every:
            best = engine.logits(sequence.tokens(0, sequence.known)).argmax(axis=1)
            first = len(sequence.prompt) - 1
            assert sequence.generated[:4] == best[first : first + 4].tolist()


HOT = SamplingParams(temperature=0.8, max_tokens=3, ignore_eos=True)


def test_every_kind_of_sampling_side_by_side(artifact: Path) -> None:
    """Each token is the one that the host takes from the same logits."""
    kinds = [
        {"temperature": 0.0, "frequency_penalty": 1.5},
        {"top_k": 20, "top_p": 0.95},
        {"typical_p": 0.8},
        {"mirostat": 2, "mirostat_tau": 3.0, "frequency_penalty": 0.5},
        {"temperature": 0.0, "top_logprobs": 3, "presence_penalty": 1.0},
        {"top_logprobs": 100, "top_k": 40},
        {"sampled_logprobs": True, "top_logprobs": 4, "top_p": 0.9},
        {"min_tokens": 2, "ignore_eos": False},
        {"typical_p": 0.95},  # with a grammar
    ]
    fields = {name: getattr(HOT, name) for name in ("temperature", "max_tokens", "ignore_eos")}
    params = [SamplingParams(**{**fields, "seed": i, **kind}) for i, kind in enumerate(kinds)]  # type: ignore[arg-type]
    choices: dict[Sequence, list[tuple[npt.NDArray[np.float32], npt.NDArray[np.uint32] | None] | None]] = {}
    with Engine.load(artifact, target="sim", prefix_cache=False) as engine:
        vocab, launch = engine.plan.vocab, engine._launcher.launch

        def noted(batch: Batch) -> Iterator[Launched]:
            tokens = list(launch(batch))
            rows = engine.runner.read("logits.all", "f32", (len(tokens), vocab)).astype(np.float32)
            for token, row in zip(tokens, rows, strict=True):
                choices.setdefault(token.sequence, []).append((row, token.mask) if batch.together else None)
            yield from tokens

        engine._launcher.launch = noted  # type: ignore[method-assign]
        every, ran, told = answers(engine, params, {len(kinds) - 1: Odd(vocab)})
    several = {program.rpartition("_")[0] for program in ran if program.endswith(("_r8", "_r16"))}
    assert several == {"batch", "head", "sample", "sieve", "export", "top"}
    for sequence, kind in zip(every, kinds, strict=True):
        host = HostSampler(sequence.params, sequence.seed)
        assert sum(choice is not None for choice in choices[sequence]) > 1
        for place, (output, choice) in enumerate(zip(told[sequence.id], choices[sequence], strict=False)):
            if choice is None:
                break
            row, words = choice
            mask = None if words is None else unpack_bits(words, vocab)
            assert host.choose(row, mask, sequence.prompt, sequence.generated[:place]) == output.token, kind
            if sequence.params.top_logprobs is not None and not sequence.params.sampled_logprobs:
                wide = row.astype(np.float64)
                wide -= wide.max() + np.log(np.exp(wide - wide.max()).sum())
                assert output.logprob == pytest.approx(wide[output.token], abs=3e-5)
                assert [p for _, p in output.top] == pytest.approx(np.sort(wide)[::-1][: len(output.top)], abs=3e-5)


@pytest.mark.thorough
def test_steps_ride_along_with_a_prompt(artifact: Path) -> None:
    """Answers go on while the rows of a long prompt run, in the same program; all tokens are those of the logits."""
    params = SamplingParams(max_tokens=4, ignore_eos=True)
    with Engine.load(artifact, target="sim", prefix_cache=False) as engine:
        every = [engine.add(prompt_of(3 + i, i), params) for i in range(8)]  # with the prompt more than head_r8 takes
        engine.step()
        every.append(engine.add(prompt_of(125, 7), params))
        _, ran, _ = answers(engine, [])
        assert (ran["forward_r128"], ran["head_r8"], ran["head_r16"]) == (2, 1, 1)
        for sequence in (every[0], *every[-2:]):
            best = engine.logits(sequence.tokens(0, sequence.known)).argmax(axis=1)
            first = len(sequence.prompt) - 1
            assert sequence.generated == best[first : first + 4].tolist()
