"""Whatever a Hugging Face folder says of a model is used, changes nothing, or is an error that names it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edited_folder import hold, say, weights
from imp_codegen.checkpoint import CheckpointError, open_checkpoint
from imp_codegen.compiler import Compiled, CompileOptions, plan_model
from imp_codegen.pack import computed, pack
from imp_codegen.spec import ModelSpec
from imp_codegen.targets import find_target

FIXTURES = Path(__file__).parents[1] / "fixtures"
VECTOR = ("BF16", [256], bytes(512))


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return copied("llama", tmp_path)


def copied(name: str, tmp_path: Path) -> Path:
    shutil.copytree(FIXTURES / name / "hf", tmp_path / name)
    return tmp_path / name


def planned(folder: Path) -> Compiled:
    with closing(open_checkpoint(folder)) as checkpoint:
        return plan_model(checkpoint, (find_target("sim"),), CompileOptions())


def spec(folder: Path) -> ModelSpec:
    return dataclasses.replace(planned(folder).spec, name="")


def planes(folder: Path) -> dict[str, bytes]:
    with closing(open_checkpoint(folder)) as checkpoint:
        made = plan_model(checkpoint, (find_target("sim"),), CompileOptions())
        packed = pack(made.plan.planes, made.weights.__getitem__, computed(made.ropes))
        return {name: b"".join(map(bytes, chunks)) for name, chunks in packed}


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        planned(folder)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert "\n" not in message
    return message.removeprefix(str(folder)).removeprefix(": ").removeprefix("/")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another class": ({"architectures": ["OPTForCausalLM"]}, "architectures is a list of 1 ('OPTForCausalLM')"),
    "no class": ({"architectures": ...}, "config.json: has no key architectures (expected a list of texts)"),
    "experts": ({"num_local_experts": 8}, "config.json: has no key num_experts_per_tok (expected an integer in 1..8)"),
    "another activation": ({"hidden_act": "relu"}, "config.json: hidden_act is 'relu', expected one of silu, swish"),
    "biases that are not there": ({"attention_bias": True}, "tensor 'model.layers.0.self_attn.q_proj.bias' is missing"),
    "biases of the MLP": ({"mlp_bias": True}, "tensor 'model.layers.0.mlp.gate_proj.bias' is missing"),
    "more layers": ({"num_hidden_layers": 3}, "tensor 'model.layers.2.input_layernorm.weight' is missing"),
    "fewer layers": ({"num_hidden_layers": 1}, "lies beyond the 1 layers of num_hidden_layers"),
    "more rows than there are": ({"vocab_size": 600}, "token_embd.weight has shape [512, 256], expected [600, 256]"),
    "fewer rows than tokens": ({"vocab_size": 300}, "the tokenizer has 512 tokens, but the embedding only 300 rows"),
    "other heads": ({"num_attention_heads": 8}, "attn_q.weight has shape [256, 256], expected [512, 256]"),
    "heads that do not divide": ({"num_attention_heads": 3}, "num_attention_heads 3 is not a multiple of num_key"),
    "a rotary embedding of another kind": (
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        "config.json: rope_scaling.rope_type is 'dynamic', expected default, linear, yarn or llama3",
    ),
    "a rotary embedding of another kind, without numbers": (
        {"rope_scaling": {"rope_type": "dynamic"}},
        "config.json: rope_scaling.rope_type is 'dynamic', expected default, linear, yarn or llama3",
    ),
    "a kind without its numbers": ({"rope_scaling": {"rope_type": "llama3"}}, "has no key rope_scaling.factor"),
    "numbers that contradict each other": (
        {"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4,
                          "original_max_position_embeddings": 64}},
        "rope_scaling.low_freq_factor is 4, expected less than high_freq_factor (4.0)",
    ),
    "numbers of another kind": ({"rope_scaling": {"factor": 2.0}}, "key 'rope_scaling.factor' is 2.0, but imp does"),
    "two kinds": (
        {"rope_parameters": {"rope_type": "default"}},
        "rope_parameters.rope_type is 'default', but rope_scaling.rope_type is 'llama3'; they mean the same",
    ),
    **{
        f"weights quantised by {method}": (
            {"quantization_config": {"quant_method": method, "bits": 4}},
            f"quantization_config.quant_method is '{method}', expected fp8, compressed-tensors, modelopt, mxfp4:",
        )
        for method in ("gptq", "awq", "bitsandbytes", "exl2")
    },
    "a scale of logits": ({"logits_scaling": 8.0}, "config.json: logits_scaling is 8.0, expected 1: imp does"),
    "a soft cap": ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0, expected 0"),
    "an encoder": ({"is_encoder_decoder": True}, "is_encoder_decoder is True, expected false"),
    "something new": ({"new_norm": "post"}, "config.json: key 'new_norm' is 'post', but imp does not know this key"),
    "something new inside": ({"a": {"b": [1, 2]}}, "key 'a.b' is a list of 2 (1, 2), but imp does not know this key"),
    "no context": ({"max_position_embeddings": 1}, "max_position_embeddings is 1, expected an integer in 2.."),
    "text for a number": ({"rms_norm_eps": "1e-6"}, "rms_norm_eps is '1e-6', expected a finite number"),
    "no number": ({"rope_theta": float("nan")}, "rope_theta is nan, expected a finite number"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_changes_the_model_is_an_error(name: str, llama: Path) -> None:
    fields, expected = REFUSED[name]
    assert expected in refusal(say(llama, **fields))


HARMLESS: dict[str, dict[str, Any]] = {
    "keys that were not asked for": {
        "use_cache": False, "torch_dtype": "float32", "transformers_version": "4.1", "pretraining_tp": 4,
        "id2label": {"0": "x"}, "task_specific_params": {"a": {"b": 1}}, "auto_map": {"AutoModel": "x.Y"},
    },
    "null": {"new_norm": None, "quantization_config": None, "head_dim": None, "final_logit_softcapping": None},
    "a window that transformers does not give to Llama": {"sliding_window": 8},
    "values that change nothing": {
        "logits_scaling": 1.0, "residual_multiplier": 1, "is_encoder_decoder": False, "num_local_experts": 0,
        "partial_rotary_factor": 1.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_what_changes_nothing_is_left_alone(name: str, llama: Path) -> None:
    before = spec(llama)
    assert spec(say(llama, **HARMLESS[name])) == before
    assert planned(llama).notes == ()


def test_both_spellings_of_transformers(llama: Path) -> None:
    old = spec(llama)
    scaling = json.loads((llama / "config.json").read_text("utf-8"))["rope_scaling"]
    new = {"rope_parameters": {"rope_theta": 500000.0, **scaling}, "dtype": "bfloat16"}
    assert spec(say(llama, rope_theta=..., rope_scaling=..., torch_dtype=..., **new)) == old
    older = {"type": scaling["rope_type"], **{key: value for key, value in scaling.items() if key != "rope_type"}}
    assert spec(say(llama, rope_theta=500000, rope_scaling=older, rope_parameters=..., dtype=...)) == old


def test_windows(tmp_path: Path) -> None:
    def windows(folder: Path) -> list[int]:
        return [layer.mixer.window for layer in spec(folder).layers]

    qwen = copied("qwen3", tmp_path)
    assert windows(qwen) == [0, 0]
    on = {"use_sliding_window": True, "sliding_window": 16}
    assert windows(say(qwen, **on)) == [0, 0]  # layer_types decides
    assert windows(say(qwen, layer_types=["full_attention", "sliding_attention"])) == [0, 16]
    assert windows(say(qwen, layer_types=..., max_window_layers=1)) == [0, 16]
    assert windows(say(qwen, max_window_layers=...)) == [0, 0]  # the class's 28 layers see everything
    assert windows(say(qwen, layer_types=["sliding_attention"] * 2, use_sliding_window=False)) == [0, 0]
    for kinds in (["full_attention"], ["full_attention", "linear_attention"]):
        assert "layer_types is a list of" in refusal(say(qwen, layer_types=kinds))
    mistral = say(copied("llama", tmp_path), architectures=["MistralForCausalLM"])
    assert windows(mistral) == [0, 0]  # a class's 4096 are more than this context
    assert windows(say(mistral, sliding_window=8)) == [8, 8]
    assert windows(say(mistral, sliding_window=None)) == [0, 0]


def test_yarn(tmp_path: Path) -> None:
    qwen = copied("qwen3", tmp_path)
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}

    def rope(**more: Any) -> tuple[float, tuple[float, ...]]:
        found = spec(say(qwen, rope_scaling=yarn | more)).layers[0].mixer.rope
        assert found is not None
        return found.magnitude, found.factors

    magnitude, factors = rope()
    assert magnitude == pytest.approx(1.1386294361)  # 0.1 ln 4 + 1
    assert (factors[0], factors[-1]) == (1.0, 4.0)
    assert rope(attention_factor=1.5) == (1.5, factors)
    assert rope(mscale=1.0, mscale_all_dim=1.0) == (1.0, factors)
    assert rope(mscale=0.707, mscale_all_dim=1.0)[0] == pytest.approx((0.0707 * 1.3862943611 + 1) / magnitude)
    assert rope(truncate=False)[1] != factors
    assert rope(beta_fast=4)[1] != factors
    assert "key 'rope_scaling.new' is 1" in refusal(say(qwen, rope_scaling=yarn | {"new": 1}))


def test_tensors_that_would_be_left_out(llama: Path) -> None:
    whole = weights(llama)
    for name in ("model.layers.0.self_attn.q_norm.weight", "model.layers.1.mlp.gate_proj.bias", "score.weight"):
        assert f"tensor '{name}' is none that imp knows of llama" in refusal(hold(llama, whole | {name: VECTOR}))
    hold(llama, whole | {"model.layers.7.input_layernorm.weight": VECTOR})
    assert "'model.layers.7.input_layernorm.weight' lies beyond the 2 layers of num_hidden_layers" in refusal(llama)
    kept = {name: each for name, each in whole.items() if name != "model.norm.weight"}
    assert "tensor 'model.norm.weight' is missing; the checkpoint is incomplete" in refusal(hold(llama, kept))
    dtype, shape, raw = whole["model.norm.weight"]
    for other, words in (
        (
            ("I16", shape, raw),
            "tensor 'model.norm.weight' is I16, which imp does not support; supported: BF16, F16, F32",
        ),
        ((dtype, [1, *shape], raw), "output_norm.weight has shape [1, 256], expected [256]"),
        ((dtype, [128], raw[:256]), "output_norm.weight has shape [128], expected [256]"),
    ):
        assert words in refusal(hold(llama, whole | {"model.norm.weight": other}))


def test_tensors_that_transformers_computes_itself(llama: Path) -> None:
    before = planes(llama)
    hold(llama, weights(llama) | {"model.layers.0.self_attn.rotary_emb.inv_freq": ("F32", [32], bytes(128))})
    assert planes(llama) == before
    assert planned(llama).notes == ()


def test_a_head_beside_an_embedding_that_it_is_tied_to(tmp_path: Path) -> None:
    qwen = copied("qwen3", tmp_path)
    before, whole = planes(qwen), weights(qwen)
    dtype, shape, raw = whole["model.embed_tokens.weight"]
    assert planes(hold(qwen, whole | {"lm_head.weight": (dtype, shape, raw)})) == before
    other = raw[:-2] + bytes((raw[-2] ^ 1, raw[-1]))
    hold(qwen, whole | {"lm_head.weight": (dtype, shape, other)})
    assert "tensor 'lm_head.weight' is none that imp knows of qwen3" in refusal(qwen)
    assert "output.weight" in planes(say(qwen, tie_word_embeddings=False))
    hold(qwen, whole)
    assert "tensor 'lm_head.weight' is missing" in refusal(qwen)


@pytest.mark.parametrize(
    ("prefix", "head"), [("model.language_model.", ""), ("language_model.model.", "language_model.")]
)
def test_the_text_of_a_model_of_text_and_images(llama: Path, prefix: str, head: str) -> None:
    before = planes(llama)
    deeper = {
        f"{head}{name}" if name.startswith("lm_head") else prefix + name.removeprefix("model."): each
        for name, each in weights(llama).items()
    }
    images = {f"vision_tower.{index}.weight": VECTOR for index in range(3)} | {"multi_modal_projector.norm": VECTOR}
    config = json.loads((llama / "config.json").read_text("utf-8"))
    outer = {"architectures": config.pop("architectures"), "vision_config": {"hidden_size": 7}, "image_token_id": 3}
    (llama / "config.json").write_text(json.dumps(outer | {"text_config": config}), "utf-8")
    assert planes(hold(llama, deeper | images)) == before
    assert planned(llama).notes == (
        f"{llama}: 3 tensors of vision_tower are left out",
        f"{llama}: 1 tensors of multi_modal_projector are left out",
    )
    hold(llama, deeper | {"model.norm.weight": VECTOR})
    assert "are the same" in refusal(llama)


def pooled(folder: Path, modules: Any, pooling: Any = None, name: str = "1_Pooling") -> Path:
    """A folder as sentence-transformers writes it."""
    (folder / "modules.json").write_text(json.dumps(modules), "utf-8")
    if pooling is not None:
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(pooling), "utf-8")
    return folder


def module(kind: str, path: str = "") -> dict[str, object]:
    return {"idx": 0, "name": "0", "path": path, "type": f"sentence_transformers.models.{kind}"}


MODULES = [module("Transformer"), module("Pooling", "1_Pooling"), module("Normalize", "2_Normalize")]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "include_prompt": True}, "cls"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}, "mean"),
        ({"embedding_dimension": 256, "pooling_mode": "lasttoken"}, "last"),
        ({"embedding_dimension": 256, "pooling_mode": ["cls"]}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False}, "mean"),
    ],
)
def test_embeddings_are_pooled_as_the_folder_says(llama: Path, config: dict[str, Any], expected: str) -> None:
    assert planned(llama).plan.pooling == "mean"
    assert planned(pooled(llama, MODULES, config)).plan.pooling == expected


@pytest.mark.parametrize(
    ("modules", "config", "words"),
    [
        (MODULES, {"pooling_mode_max_tokens": True}, "pooling_mode is 'pooling_mode_max_tokens', expected one of"),
        (
            MODULES,
            {"pooling_mode": ["cls", "mean"]},
            "pooling_mode is 'cls', 'mean', expected one of mean, cls, lasttok",
        ),
        (MODULES, {"pooling_mode": []}, "pooling_mode is nothing, expected one of"),
        (MODULES, {"pooling_mode": 3}, "pooling_mode is 3, expected"),
        (MODULES, None, "1_Pooling/config.json: does not exist, but modules.json names it"),
        (
            [*MODULES, module("Dense", "3_Dense")],
            {"pooling_mode": "cls"},
            "has a module 'sentence_transformers.models.De",
        ),
        ([module("Pooling", "../x")], None, "the path of Pooling is '../x', expected the name of a folder"),
        ([module("Pooling", "")], None, "the path of Pooling is '', expected the name of a folder"),
        ({}, None, "must be a list of modules"),
        ([3], None, "must be a list of modules"),
        ([{"type": 3, "path": ""}], None, "must be a list of modules"),
    ],
)
def test_other_embeddings_are_refused(llama: Path, modules: Any, config: Any, words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        planned(pooled(llama, modules, config))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
