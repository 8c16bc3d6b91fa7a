import pytest

from imp_runtime.engine import Engine
from model_checks import MODELS, check_against_truth, check_kernels, compile_fixture


@pytest.mark.parametrize(("architecture", "quant"), MODELS)
def test_model_on_the_gpu(tmp_path, target, architecture, quant):
    with Engine.load(compile_fixture(tmp_path, architecture, quant, target)) as engine:
        check_against_truth(engine, architecture, quant)
        check_kernels(engine)
