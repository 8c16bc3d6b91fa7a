import pytest

from imp_runtime.artifact import Artifact
from imp_runtime.engine import Engine
from imp_runtime.sim import SimDevice
from model_checks import MODELS, check_against_truth, check_kernels, check_long_prompt, compile_fixture

# Of folders those that say something which their GGUF files do not, or whose norms are stored otherwise: of all others
# the planes are the same bytes (tests/null/test_both_dialects.py). And those of which there is no GGUF file.
FILES = {model for model, quant in MODELS if not quant.startswith("hf")}
OWN_FOLDERS = {"mistral", "gemma3", *(model for model, _ in MODELS if model not in FILES)}
# Made of operations and kernels that the others run; their graphs are compared with the truth in
# tests/null/test_graph_truth.py, and they run whole on a GPU (tests/gpu). Here they are thorough.
ALIKE = {"deepseek_v2_lite", "deepseek_v3", "ernie4_5", "exaone4", "glm4", "glm4_moe_lite", "mixtral_folder", "olmo3"}
ALIKE |= {"gemma2", "granite", "ministral", "seed_oss", "smollm3"}
# Whose products and graphs others run, each with its own twin or truth: formats of products all are in
# test_decode_stages.py and test_panel_stages.py, Gemma's folder gives its file's planes.
VARIED = {
    *(("llama", quant) for quant in ("IQ4_XS", "Q2_K", "Q3_K_M")),
    ("gemma3", "hf-bf16"),
    ("gpt_oss", "Q4_K_M"),
    ("mistral", "Q4_K_M"),
    ("qwen3", "nvfp4-ct"),
}
RUN = [
    pytest.param(model, quant, marks=[pytest.mark.thorough] if model in ALIKE or (model, quant) in VARIED else [])
    for model, quant in MODELS
    if not quant.startswith("hf") or model in OWN_FOLDERS
]


@pytest.mark.parametrize(("architecture", "quant"), RUN)
def test_model_on_the_simulator(tmp_path, architecture, quant):
    artifact = compile_fixture(tmp_path, architecture, quant, "sim")
    with Engine.load(artifact, target="sim") as engine:
        check_against_truth(engine, architecture, quant)
        if architecture not in FILES or not quant.startswith("hf"):  # kernels of float weights test_float_models has
            check_kernels(engine)


LONG = {("gemma3", "Q4_K_M"), ("qwen3", "Q8_0")}


@pytest.mark.parametrize(
    ("architecture", "quant"),
    [pytest.param(*model, marks=[] if model in LONG else [pytest.mark.thorough]) for model in MODELS],
)
def test_a_long_prompt_on_the_simulator(tmp_path, architecture, quant):
    with Engine.load(compile_fixture(tmp_path, architecture, quant, "sim"), target="sim") as engine:
        check_long_prompt(engine)


@pytest.mark.thorough
@pytest.mark.parametrize(("architecture", "quant", "order"), [("llama", "Q8_0", 1), ("qwen3", "Q4_K_M", 2)])
def test_model_in_check_mode(tmp_path, architecture, quant, order):
    """No race, no bad address, no misalignment, in descending and random order of threads; and the same results."""
    artifact = Artifact.open(compile_fixture(tmp_path, architecture, quant, "sim", check=True))
    with Engine(artifact, SimDevice(threads=1, order=order, seed=7)) as engine:
        check_against_truth(engine, architecture, quant)
        check_kernels(engine)


@pytest.mark.parametrize("sms", [pytest.param(1, marks=pytest.mark.thorough), 5])
def test_a_graph_is_right_on_any_number_of_multiprocessors(tmp_path, sms):
    artifact = compile_fixture(tmp_path, "qwen3", "Q8_0", f"sim:{sms}")
    with Engine.load(artifact, target="sim") as engine:
        assert engine.runner.target.sms == sms
        check_against_truth(engine, "qwen3", "Q8_0")
