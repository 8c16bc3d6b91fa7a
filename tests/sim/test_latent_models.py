"""Latent attention with random weights on the simulator: every kernel against its twin, and rows beside one another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imp_codegen.compiler import CompileOptions, compile_model
from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from model_checks import check_kernels, quiet
from two_forms import CONFIG

# Of both classes: queries with a latent and without, heads and parts of them of odd sizes, groups of experts.
V3: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "head_dim": 16,
    "q_lora_rank": 96,
    "kv_lora_rank": 96,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 64,
    "first_k_dense_replace": 1,
    "n_routed_experts": 36,
    "n_group": 6,
    "topk_group": 2,
    "num_experts_per_tok": 5,
    "n_shared_experts": 2,
    "moe_intermediate_size": 64,
}
LITE: dict[str, Any] = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 64,
    "q_lora_rank": None,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 64,
    "v_head_dim": 32,
    "first_k_dense_replace": 2,
    "num_experts_per_tok": 2,
}


def compiled(folder: Path, config: dict[str, Any], quant: str) -> Engine:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}), "utf-8")
    options = CompileOptions(random_weights=True, quant=quant)
    compile_model(folder / "config.json", folder / "model.impc", ("sim",), options, quiet)
    return Engine.load(folder / "model.impc", target="sim")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with compiled(tmp_path_factory.mktemp("v3"), V3, "Q8_0") as engine:
        yield engine


def test_every_kernel_is_its_twin(engine: Engine) -> None:
    check_kernels(engine)


@pytest.mark.thorough
def test_prompts_of_several_chunks_and_steps_agree(engine: Engine) -> None:
    prompt = list(np.random.default_rng(2).integers(0, 300, 150))
    tokens = [int(token) for token in prompt]
    logits = engine.logits(tokens)
    assert next(engine.generate(tokens, SamplingParams(max_tokens=1, ignore_eos=True))) == logits[-1].argmax()
    np.testing.assert_array_equal(engine.logits(tokens[:60]), logits[:60])


def test_the_cache_has_a_row_of_latent_and_what_turns(engine: Engine) -> None:
    """Float16, one a layer and position."""
    layers, width = V3["num_hidden_layers"], V3["kv_lora_rank"] + V3["qk_rope_head_dim"]
    assert engine.artifact.plan.block_bytes == layers * 16 * width * 2


@pytest.mark.thorough
@pytest.mark.parametrize("quant", ["BF16", "Q4_K_M"])
def test_every_kernel_of_heads_of_576(tmp_path: Path, quant: str) -> None:
    with compiled(tmp_path, LITE, quant) as engine:
        check_kernels(engine)
