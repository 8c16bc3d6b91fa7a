"""DeepSeek's models: what files say of latent attention and of routers, and both layouts of its matrices."""

from __future__ import annotations

import json
import math
from contextlib import closing
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from test_folder_account import copied, refusal, say, spec

from imp_codegen.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.graph import Value, Weight
from imp_codegen.models import load_architecture, sources_of, weights_of
from imp_codegen.ops import HeadLinear, Join, Route
from imp_codegen.passes.account import account
from imp_codegen.reference import Reference, Weights
from imp_codegen.spec import LatentSpec, ModelSpec, MoeSpec
from model_checks import FIXTURES
from small_gguf import add_key
from two_forms import CONFIG

FILE = FIXTURES / "deepseek_v2" / "deepseek_v2-Q4_K_M.gguf"
HEADS, NOPE, ROPE, RANK, VALUES = 4, 64, 32, 256, 64
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 40.0,
    "original_max_position_embeddings": 4096,
    "mscale": 0.707,
    "mscale_all_dim": 0.707,
}
LITE: dict[str, Any] = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "num_key_value_heads": HEADS,
    "head_dim": ROPE,
    "q_lora_rank": None,
    "kv_lora_rank": RANK,
    "qk_nope_head_dim": NOPE,
    "qk_rope_head_dim": ROPE,
    "v_head_dim": VALUES,
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "rope_theta": None,
    "rope_parameters": YARN,
}
V3 = {"architectures": ["DeepseekV3ForCausalLM"], "n_group": 4, "topk_group": 2, "q_lora_rank": 64}


def spec_of(folder: Path, **changes: Any) -> ModelSpec:
    path = folder / "config.json"
    path.write_text(json.dumps({**CONFIG, **LITE, **changes}), "utf-8")
    with closing(random_checkpoint(path, "F32")) as checkpoint:
        spec = load_architecture(checkpoint).read_spec(checkpoint)
        account(checkpoint, spec, ())
        return spec


def test_what_a_folder_says(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    assert spec.layers[0].mixer.latent == LatentSpec(0, RANK, NOPE, ROPE, VALUES, joined=True)
    magnitude = 0.1 * 0.707 * math.log(40) + 1
    assert spec.layers[0].mixer.scale == pytest.approx((NOPE + ROPE) ** -0.5 * magnitude**2)
    assert spec.layers[0].mixer.rope is not None
    assert spec.layers[0].mixer.rope.magnitude == 1
    assert spec.layers[1].ffn == MoeSpec(8, 3, 32, normalise=False, shared=64)
    assert not isinstance(spec.layers[0].ffn, MoeSpec)
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_what_v3_says(tmp_path: Path) -> None:
    ffn = spec_of(tmp_path, **V3).layers[1].ffn
    router = {"sigmoid": True, "corrected": True, "groups": 4, "groups_used": 2, "scale": 2.5}
    assert ffn == MoeSpec(8, 3, 32, shared=32, **router)


def test_other_magnitudes_turn_what_turns(tmp_path: Path) -> None:
    rope = spec_of(tmp_path, rope_parameters=YARN | {"mscale": 1.0}).layers[0].mixer.rope
    assert rope is not None
    assert rope.magnitude == pytest.approx((0.1 * math.log(40) + 1) / (0.1 * 0.707 * math.log(40) + 1))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"n_group": 3} | {"architectures": V3["architectures"]}, "n_group is 3, expected a divisor of the number of"),
        (V3 | {"n_group": 8, "topk_group": 4}, "n_group is 8, expected groups of two experts or more"),
        (V3 | {"topk_group": 5}, "topk_group is 5, expected at most 4, whose experts are as many as a token's (3)"),
        (V3 | {"topk_group": 1}, "topk_group is 1, expected at most 4"),
        (V3 | {"scoring_func": "softmax"}, "scoring_func is 'softmax', expected sigmoid"),
        (V3 | {"topk_method": "greedy"}, "topk_method is 'greedy', expected noaux_tc"),
        ({"topk_method": "noaux_tc"}, "topk_method is 'noaux_tc', expected greedy or group_limited_greedy"),
        ({"norm_topk_prob": True}, "norm_topk_prob is True, expected false"),
        ({"moe_layer_freq": 2}, "moe_layer_freq is 2, expected 1"),
        ({"num_key_value_heads": 2}, "num_key_value_heads is 2, expected 4"),
        ({"qk_head_dim": 128}, "qk_head_dim is 128, expected 96"),
        ({"head_dim": 64}, "head_dim is 64, expected 32"),
        ({"attention_bias": True}, "attention_bias is True, expected false"),
        ({"num_hash_layers": 1}, "key 'num_hash_layers' is 1, but imp does not know this key"),
    ],
)
def test_what_is_not_compiled_is_named(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        spec_of(tmp_path, **changes)
    assert expected in str(error.value)


def rewritten(output: Path, keys: dict[str, Any], *, whole: bool = False) -> Path:
    """The file with other keys (None: without); `whole`: one matrix of keys and values, as early files have."""
    reader = gguf.GGUFReader(FILE)
    found = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    writer = gguf.GGUFWriter(output, found.pop("general.architecture"))
    for key, value in (found | {f"deepseek2.{key}": value for key, value in keys.items()}).items():
        if value is not None:
            add_key(writer, key, value)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    for name, tensor in tensors.items():
        if whole and name.endswith("attn_v_b.weight"):
            continue
        if whole and name.endswith("attn_k_b.weight"):
            of_values = tensors[name.replace("_k_b", "_v_b")]
            k, v = (gguf.quants.dequantize(each.data, each.tensor_type) for each in (tensor, of_values))
            both = np.concatenate([k.swapaxes(1, 2), v], axis=1).reshape(-1, RANK)
            writer.add_tensor(name.replace("_k_b", "_kv_b"), both)
        else:
            writer.add_tensor(name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return output


def floats(checkpoint: Checkpoint) -> tuple[ModelSpec, dict[str, np.ndarray]]:
    architecture = load_architecture(checkpoint)
    spec = architecture.read_spec(checkpoint)
    graph = architecture.build(spec)
    stored = weights_of(checkpoint, graph, sources_of(architecture, checkpoint, spec, graph))
    return spec, {
        name: each.format.dequantize(each.rows(0, each.shape[0] if len(each.shape) > 1 else 1))
        for name, each in stored.items()
        if len(each.shape) < 3
    }


EARLY = {
    "attention.head_count_kv": HEADS,
    "attention.key_length": NOPE + ROPE,
    "attention.value_length": VALUES,
    "attention.key_length_mla": None,
    "attention.value_length_mla": None,
}


def test_early_files_have_the_same_weights(tmp_path: Path) -> None:
    file = rewritten(tmp_path / "m.gguf", EARLY, whole=True)
    with closing(open_checkpoint(FILE)) as new, closing(open_checkpoint(file)) as old:
        (spec, weights), (early, same) = floats(new), floats(old)
    joined = [layer.mixer.latent.joined for layer in (*spec.layers, *early.layers) if layer.mixer.latent]
    assert joined == [False, False, True, True]
    assert [layer.mixer.scale for layer in spec.layers] == [layer.mixer.scale for layer in early.layers]
    assert weights.keys() == same.keys()
    for name, each in weights.items():
        np.testing.assert_array_equal(each, same[name])


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"attention.head_count_kv": 4}, "deepseek2.attention.head_count_kv is 4, expected 1"),
        ({"attention.key_length": 256}, "deepseek2.attention.key_length is 256, expected 288"),
        ({"attention.key_length_mla": 32}, "attention.key_length_mla is 32, expected more than rope.dimension_count"),
        ({"expert_gating_func": 3}, "deepseek2.expert_gating_func is 3, expected 1, softmax, or 2, sigmoid"),
        ({"expert_group_count": 3}, "deepseek2.expert_group_count is 3, expected a divisor"),
    ],
)
def test_keys_that_contradict_are_named(keys: dict[str, Any], expected: str, tmp_path: Path) -> None:
    file = rewritten(tmp_path / "m.gguf", keys)
    with closing(open_checkpoint(file)) as checkpoint, pytest.raises(CheckpointError) as error:
        load_architecture(checkpoint).read_spec(checkpoint)
    assert expected in str(error.value)


@pytest.mark.parametrize(("multiplier", "turned"), [(0.0707, False), (None, True)])
def test_yarn_of_files(multiplier: float | None, turned: bool, tmp_path: Path) -> None:
    """The multiplier is a tenth of mscale_all_dim; without it, what turns has the paper's magnitude."""
    scaling = {"type": "yarn", "factor": 40.0, "original_context_length": 4096, "yarn_log_multiplier": multiplier}
    keys = {f"rope.scaling.{name}": value for name, value in scaling.items()}
    with closing(open_checkpoint(rewritten(tmp_path / "m.gguf", keys))) as checkpoint:
        mixer = load_architecture(checkpoint).read_spec(checkpoint).layers[0].mixer
    assert mixer.rope is not None
    assert mixer.rope.magnitude == pytest.approx(0.1 * math.log(40) + 1 if turned else 1)
    by = 1 if turned else (0.1 * 0.707 * math.log(40) + 1) ** 2
    assert mixer.scale == pytest.approx((NOPE + ROPE) ** -0.5 * by)


def evaluated(op: Any, tables: dict[str, np.ndarray], **values: np.ndarray) -> np.ndarray:
    weights = Weights(lambda weight, first, last: tables[weight.name][first:last], lambda _: "bf16")
    reference = Reference(weights, rounded=False)
    tokens = len(next(iter(values.values())))
    return reference.evaluate(op, values, np.arange(tokens), np.arange(tokens))


def test_operations() -> None:
    rng = np.random.default_rng(4)
    x, y = (rng.standard_normal((2, 15)).astype(np.float32) for _ in range(2))
    joined = evaluated(Join(Value("out", 30), Value("x", 15), Value("y", 15), 3), {}, x=x, y=y)
    for token in range(2):
        for head in range(3):
            at = slice(5 * head, 5 * head + 5)
            want = [*x[token, at], *y[token, at]]
            np.testing.assert_array_equal(joined[token, 10 * head : 10 * head + 10], want)
    matrix = rng.standard_normal((12, 5)).astype(np.float32)
    product = evaluated(HeadLinear(Value("out", 12), Value("x", 15), Weight("w", 12, 5), 3), {"w": matrix}, x=x)
    want = np.einsum("hrc,thc->thr", matrix.reshape(3, 4, 5), x.reshape(2, 3, 5)).reshape(2, 12)
    np.testing.assert_allclose(product, want, rtol=1e-5, atol=1e-6)


def test_a_group_of_experts_with_one_of_all_is_chosen_by_its_best_two() -> None:
    logits = np.log(np.array([[0.9, 0.1, 0.6, 0.5, 0.4, 0.3]]) / (1 - np.array([[0.9, 0.1, 0.6, 0.5, 0.4, 0.3]])))
    op = Route(Value("r", 4), Value("l", 6), True, True, None, 3, 1, 2.0)
    route = evaluated(op, {}, l=logits.astype(np.float32))
    np.testing.assert_allclose(route, [[2, 3, 2 * 0.6 / 1.1, 2 * 0.5 / 1.1]], rtol=1e-6)


def test_dense_layers_of_glm_come_first(tmp_path: Path) -> None:
    folder = copied("glm4_moe_lite", tmp_path)
    usual = spec(folder)
    assert spec(say(folder, mlp_layer_types=["dense", "sparse"], first_k_dense_replace=...)) == usual
    words = "mlp_layer_types is a list of 2 ('sparse', 'dense'), expected 1 dense layers and sparse ones behind them"
    assert words in refusal(say(folder, mlp_layer_types=["sparse", "dense"]))
