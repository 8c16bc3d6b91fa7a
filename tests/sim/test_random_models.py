"""Shapes that no fixture has, with random weights: every kernel against its numpy twin."""

import dataclasses
import json

import pytest

from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.graph import Graph
from imp_codegen.models import qwen3
from imp_codegen.ops import Attention, HeadNorm, RmsNorm, Rope
from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from model_checks import check_kernels, quiet

BASE = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 301,
    "max_position_embeddings": 400,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
SHAPES = {
    "biases, odd widths": (
        "LlamaForCausalLM",
        "Q8_0",
        {"attention_bias": True, "hidden_size": 320, "intermediate_size": 448, "head_dim": 32},
    ),
    "float weights": ("Qwen3ForCausalLM", "BF16", {"tie_word_embeddings": True, "intermediate_size": 192}),
    "half weights, one kv head": ("LlamaForCausalLM", "F16", {"num_key_value_heads": 1}),
    "single precision, no groups": ("Qwen3ForCausalLM", "F32", {"num_key_value_heads": 4, "head_dim": 48}),
    "wide heads and rows of several tiles": (
        "Qwen3ForCausalLM",
        "Q4_K_M",
        {"head_dim": 128, "intermediate_size": 6144, "num_attention_heads": 6, "num_key_value_heads": 2},
    ),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", SHAPES)
def test_random_model(tmp_path, name):
    architecture, quant, changes = SHAPES[name]
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**BASE, **changes, "architectures": [architecture]}), "utf-8")
    artifact = tmp_path / "model.impc"
    compile_model(config, artifact, ("sim",), CompileOptions(random_weights=True, quant=quant), quiet)
    with Engine.load(artifact, target="sim") as engine:
        prompt = list(range(140))  # more than a chunk
        last = engine.logits(prompt)[-1]
        assert next(engine.generate(prompt, SamplingParams(max_tokens=1, ignore_eos=True))) == last.argmax()
        check_kernels(engine)


def test_properties_of_an_operation_are_its_own(tmp_path, monkeypatch):
    """Each norm with another eps, each layer with other rotations and another softmax scale."""
    build = qwen3.build

    def varied(spec):
        ops = []
        for at, op in enumerate(build(spec).ops):
            layer = int(op.out.name.split(".")[1]) if op.out.name.startswith("layers") else 0
            match op:
                case RmsNorm():
                    op = dataclasses.replace(op, eps=0.1 * at)
                case HeadNorm():
                    op = dataclasses.replace(op, eps=0.3 + layer)
                case Rope() if layer:
                    changes = {"theta": 50.0, "interleaved": True, "factors": (1.0, 2.0) * (op.head_dim // 4)}
                    op = dataclasses.replace(op, rope=dataclasses.replace(op.rope, **changes))
                case Attention():
                    op = dataclasses.replace(op, scale=op.scale * (1 + layer))
            ops.append(op)
        return Graph(tuple(ops))

    monkeypatch.setattr(qwen3, "build", varied)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**BASE, "num_hidden_layers": 2, "architectures": ["Qwen3ForCausalLM"]}), "utf-8")
    artifact = tmp_path / "model.impc"
    compile_model(config, artifact, ("sim",), CompileOptions(random_weights=True, quant="Q8_0"), quiet)
    with Engine.load(artifact, target="sim") as engine:
        check_kernels(engine)
