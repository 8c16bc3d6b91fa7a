"""What `imp verify` says of a fault in an operation of mixtures, and in attention's sinks: that operation's name.

Of the models that tests/sim/test_models.py compiles, too. Faults of Route, and of experts with other formats, are in
test_expert_models.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from test_verify import Rows, checked, slightly

from imp_runtime.engine import Engine
from model_checks import compile_fixture

QUANTS = {"gemma4_moe": "hf-bf16", "gpt_oss": "MXFP4", "qwen2_moe": "hf-bf16"}
# A model, the program, the result that is wrong, and how.
RESULTS: list[tuple[str, str, str, Callable[[Rows], object]]] = [
    ("gemma4_moe", "forward_r128", "layers.1.down", slightly),  # ExpertLinear
    ("gemma4_moe", "step_r1", "layers.1.combined", slightly),  # Combine
    ("gemma4_moe", "step_r1", "layers.1.scaled", slightly),
    ("qwen2_moe", "step_r1", "layers.1.shared_weighed", slightly),  # Weigh
    ("qwen2_moe", "forward_r128", "layers.1.shared_weighed", slightly),
]
# A model, a vector that is another one on the device, by how much, and whose result then is wrong.
VECTORS: list[tuple[str, str, float, str]] = [
    ("gemma4_moe", "blk.1.ffn_down_exps.scale", 1.01, "layers.1.route"),
    ("gpt_oss", "blk.1.attn_sinks.weight", 1.1, "layers.1.attention"),
]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Engine]]:
    folder, open_ones = tmp_path_factory.mktemp("models"), dict[str, Engine]()

    def engine(model: str) -> Engine:
        if model not in open_ones:
            artifact = compile_fixture(folder, model, QUANTS[model], "sim")
            open_ones[model] = Engine.load(artifact, target="sim")
        return open_ones[model]

    yield engine
    for each in open_ones.values():
        each.close()


@pytest.mark.parametrize(("model", "program", "value", "fault"), RESULTS)
def test_a_wrong_result(
    engines: Callable[[str], Engine], model: str, program: str, value: str, fault: Callable[[Rows], object]
) -> None:
    failure = checked(engines(model), program, value, fault).first_failure
    assert failure is not None
    assert (failure.op, failure.program) == (value, program)


@pytest.mark.parametrize(("model", "vector", "factor", "value"), VECTORS)
def test_a_kernel_that_reads_another_vector(
    engines: Callable[[str], Engine], model: str, vector: str, factor: float, value: str
) -> None:
    engine = engines(model)
    right = engine.artifact.plane(vector).view("<f4").copy()
    engine.runner.write(f"weights/{vector}", (right * np.float32(factor)).view(np.uint8))
    failure = checked(engine).first_failure
    engine.runner.write(f"weights/{vector}", right.view(np.uint8))
    assert failure is not None
    assert failure.op == value
