"""The step kernel on the GPU: bit for bit what the graph of kernels gives, wherever in the context."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gemma4_shapes import e2b, large
from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.targets import find_target
from imp_runtime.artifact import Artifact
from imp_runtime.device import detect_gpu, open_device
from imp_runtime.engine import Engine
from model_checks import FIXTURES, check_against_truth, quiet
from two_forms import CONFIG, BothForms, compile_both

CONTEXTS = (5, 40, 300, 3000)
# Two layers of Qwen3-1.7B, with few tokens to choose from.
QWEN3 = CONFIG | {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 5003,
    "max_position_embeddings": 4096,
}
MODELS = {
    "demo": Path(__file__).parents[2] / "models" / "demo.gguf",
    "heads of two sizes": FIXTURES / "gemma4" / "gemma4-Q4_K_M.gguf",
    "caches that are shared, inputs of the token's own": FIXTURES / "gemma4_e2b" / "hf",
    "heads of 256 and 512, one KV head": e2b(layers=10, shared=4, vocab=5003),
    "heads of 256 and 512, values that are keys": large(layers=6, vocab=5003),
    "Q8_0": QWEN3,
    "Q4_K_M": QWEN3,
    "BF16": QWEN3,
    "three layers, groups of 12 in two shares": {
        **QWEN3,
        "num_hidden_layers": 3,
        "num_attention_heads": 24,
        "num_key_value_heads": 2,
        "head_dim": 64,
    },
}


@pytest.mark.parametrize("name", MODELS)
def test_equals_the_graph(tmp_path, target, name):
    changes, artifact, sized = MODELS[name], tmp_path / "model.impc", find_target(target)
    if isinstance(changes, Path):
        compile_both(changes, artifact, sized)
    else:
        quant = name if name in ("Q8_0", "Q4_K_M", "BF16") else "Q8_0"
        (tmp_path / "config.json").write_text(json.dumps(changes), "utf-8")
        compile_both(tmp_path / "config.json", artifact, sized, quant)
    with BothForms(artifact, open_device(target), sequences=2) as forms:
        last = min(max(CONTEXTS) + 8, forms.runner.plan.context)
        tokens = np.random.default_rng(0).integers(0, forms.vocab, last).tolist()
        near = {at for context in CONTEXTS for at in range(context - 2, context + 8)}
        for position, token in enumerate(tokens):
            if position in near or position % 97 == 0:
                forms.compare([token])
                forms.compare([token], sequence=1)  # much shorter: the two take turns
            else:
                forms.advance(token)


def test_a_card_without_room_decodes_as_a_graph(tmp_path, target):
    """Sized for more multiprocessors than it has, and right all the same."""
    artifact = tmp_path / "model.impc"
    _, sms = detect_gpu()
    sized = f"{target}:{sms + 1}"
    source = FIXTURES / "qwen3" / "qwen3-Q8_0.gguf"
    compile_model(source, artifact, (sized,), CompileOptions(form="persistent"), quiet)
    assert Artifact.open(artifact).plan.target(target).form == "persistent"
    with Engine.load(artifact, target=target) as engine:
        assert engine.runner.target.form == "graph"
        check_against_truth(engine, "qwen3", "Q8_0")
