"""NaN on the GPU, whose own has all bits set, in both forms; also where decode meets it, not the prompt."""

import pytest

from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from nan_model import BAD, KINDS, check_only_one_ends, compile_nan_model


@pytest.fixture(scope="module", params=["graph", "persistent"])
def engine(request, tmp_path_factory, target):
    path = compile_nan_model(tmp_path_factory.mktemp("nan"), target, request.param)
    with Engine.load(path, target=target) as loaded:
        yield loaded


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "+".join(kind) or "greedy")
def test_only_the_sequence_that_has_it_ends(engine, kind):
    check_only_one_ends(engine, kind)


def test_a_step_that_meets_it_ends_the_sequence(engine):
    sequence = engine.add([5, 6, 7], SamplingParams(max_tokens=9, ignore_eos=True, logit_bias=((BAD, 500.0),)))
    found = []
    while engine.has_work:
        found += [(output.token, output.finish) for output in engine.step() if output.sequence is sequence]
    assert found == [(BAD, None), (-1, "error")]
