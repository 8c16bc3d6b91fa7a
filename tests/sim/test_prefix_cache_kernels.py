"""The prefix cache with real kernels: what comes from it is what would have been computed, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imp_codegen.compiler import CompileOptions, compile_model
from imp_runtime.engine import Engine
from model_checks import kl_divergence, quiet
from prefix_checks import GREEDY, check, prompt_of, run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("demo") / "demo.impc"
    compile_model(ROOT / "models" / "demo.gguf", output, ("sim",), CompileOptions(), quiet)
    return output


@pytest.fixture
def engine(demo: Path) -> Iterator[Engine]:
    with Engine.load(demo, target="sim") as engine:
        yield engine


@pytest.fixture(scope="module")
def plain(demo: Path) -> Iterator[Engine]:
    with Engine.load(demo, target="sim", prefix_cache=False) as engine:
        yield engine


def chunks(engine: Engine) -> list[int]:
    """The tokens of each chunk that is run from now on."""
    found: list[int] = []
    write = engine.runner.write_rows

    def noting(sequences: list[tuple[int, list[int], bool]], index: int) -> None:
        found.extend(len(tokens) for _, tokens, _ in sequences)
        write(sequences, index)

    engine.runner.write_rows = noting  # type: ignore[method-assign]  # looks on
    return found


def test_the_same_prompt_again_computes_the_last_block_only(engine: Engine, plain: Engine) -> None:
    prompt = prompt_of(204)
    run(engine, prompt)
    seen = chunks(engine)
    (found,) = run(engine, prompt)
    check(found, plain, 192)
    assert seen == [12]


@pytest.mark.thorough
@pytest.mark.parametrize("same", [16, 50, 130, 200])
def test_another_last_turn(engine: Engine, plain: Engine, same: int) -> None:
    """Chunks then begin elsewhere, which changes nothing."""
    run(engine, prompt_of(200))
    (found,) = run(engine, prompt_of(200)[:same] + prompt_of(150, 1))
    check(found, plain, same // 16 * 16)


def test_the_next_turn_has_the_answer_before_it(engine: Engine, plain: Engine) -> None:
    """What decode steps left is as good as what a prompt leaves, but not the same bits: their sums differ."""
    ((first, _),) = run(engine, prompt_of(90))
    turn = [*first.prompt, *first.generated, *prompt_of(5, 2)]
    ((sequence, logits),) = run(engine, turn)
    assert sequence.prompt_cached == 96 == (len(turn) - 7) // 16 * 16
    ((alone, truth),) = run(plain, turn)
    assert sequence.generated == alone.generated
    assert kl_divergence(truth, logits).max() < 2e-3


@pytest.mark.thorough
def test_eviction_changes_no_token(demo: Path, plain: Engine) -> None:
    """Three conversations in turn, with room for two: 13 to 15 of 32 blocks each, the last ones of the oldest go."""
    with Engine.load(demo, target="sim", kv_tokens=512) as engine:
        for turn, left in enumerate([(0, 0, 0), (112, 80, 48)]):
            for seed, cached in enumerate(left):
                (found,) = run(engine, prompt_of(200, seed) + prompt_of(20 * turn, seed + 9))
                check(found, plain, cached)
        (found,) = run(engine, prompt_of(200, 2) + prompt_of(20, 11) + prompt_of(9))
        check(found, plain, 208)


def test_two_at_once_share_what_begins_alike(engine: Engine, plain: Engine) -> None:
    stem = prompt_of(140)
    one, other = stem + prompt_of(20, 1), stem + prompt_of(30, 2)
    seen = chunks(engine)
    for found in run(engine, one, other):
        check(found, plain, 0)
    assert sum(seen) == len(one) + len(other) - 128, "the second found the first's chunk"
    for found, cached in zip(run(engine, one, other), (144, 160), strict=True):
        check(found, plain, cached)


@pytest.mark.parametrize("steps", [1, pytest.param(2, marks=pytest.mark.thorough)])
def test_after_an_abort_in_the_middle(engine: Engine, plain: Engine, steps: int) -> None:
    victim = engine.add(prompt_of(270), GREEDY)
    for _ in range(steps):
        engine.step()
    engine.abort(victim)
    (found,) = run(engine, prompt_of(270))
    check(found, plain, 128 * steps)
