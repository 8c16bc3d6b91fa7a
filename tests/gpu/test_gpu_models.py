import pytest

from imp_runtime.engine import Engine
from model_checks import MODELS, check_against_truth, check_kernels, check_long_prompt, compile_fixture


@pytest.mark.parametrize(("architecture", "quant"), MODELS)
def test_model_on_the_gpu(tmp_path, target, architecture, quant):
    with Engine.load(compile_fixture(tmp_path, architecture, quant, target)) as engine:
        check_against_truth(engine, architecture, quant)
        check_long_prompt(engine, 500)
        check_kernels(engine)
