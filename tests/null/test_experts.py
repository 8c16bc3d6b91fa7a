"""Mixtures of experts: what files say of them, where a folder has them, and the operations beside plain numpy."""

from __future__ import annotations

import dataclasses
import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from test_folder_account import planes

from imp_codegen.checkpoint import CheckpointError, open_checkpoint
from imp_codegen.checkpoint.mixtures import format_in_mixture
from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.compiler import CompileOptions, plan_model
from imp_codegen.graph import Value
from imp_codegen.ops import Route
from imp_codegen.reference import Reference, Weights
from imp_codegen.sources import Stack, Tensor
from imp_codegen.spec import ModelSpec, MoeSpec
from imp_codegen.stored import open_source
from imp_codegen.targets import find_target
from model_checks import FIXTURES
from small_gguf import add_key

QWEN3, MIXTRAL = FIXTURES / "qwen3_moe" / "qwen3_moe-Q4_K_M.gguf", FIXTURES / "mixtral" / "mixtral-Q4_K_M.gguf"
FOLDER = FIXTURES / "qwen3_moe" / "hf"
SHAPES = Path(__file__).parents[2] / "models" / "shapes"


def planned(path: Path) -> ModelSpec:
    with closing(open_checkpoint(path)) as checkpoint:
        return plan_model(checkpoint, (find_target("sim"),), CompileOptions()).spec


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        planned(path)
    return str(error.value)


def with_keys(source: Path, output: Path, changes: dict[str, Any], renamed: dict[str, str] | None = None) -> Path:
    """The file with other keys (None: without), and tensors under other names."""
    reader = gguf.GGUFReader(source)
    keys = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    arch = keys.pop("general.architecture")
    writer = gguf.GGUFWriter(output, arch)
    for key, value in {**keys, **{f"{arch}.{key}": value for key, value in changes.items()}}.items():
        if value is not None:
            add_key(writer, key, value)
    for tensor in reader.tensors:
        name = (renamed or {}).get(tensor.name, tensor.name)
        writer.add_tensor(name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return output


def with_fields(folder: Path, output: Path, **changes: Any) -> Path:
    shutil.copytree(folder, output)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (output / "config.json").write_text(json.dumps({**config, **changes}), "utf-8")
    return output


def test_specs() -> None:
    assert [layer.ffn for layer in planned(QWEN3).layers] == [MoeSpec(4, 2, 256)] * 2
    assert [layer.ffn for layer in planned(MIXTRAL).layers] == [MoeSpec(3, 2, 256)] * 2
    spec = planned(FOLDER)
    assert ModelSpec.from_json(spec.to_json()) == spec


USUAL: dict[str, Any] = {
    "expert_gating_func": 1,
    "expert_weights_norm": True,
    "expert_weights_scale": 1.0,
    "expert_shared_count": 0,
    "expert_group_count": 1,
}


def test_keys_that_say_the_usual(tmp_path: Path) -> None:
    assert dataclasses.replace(planned(with_keys(QWEN3, tmp_path / "m.gguf", USUAL)), name="Hf") == planned(QWEN3)


REFUSED: dict[str, tuple[Any, str]] = {
    "expert_gating_func": (2, "qwen3moe.expert_gating_func is 2, expected 1: imp does not compile other mixtures"),
    "expert_weights_scale": (2.5, "qwen3moe.expert_weights_scale is 2.5, expected 1"),
    "expert_shared_count": (1, "qwen3moe.expert_shared_count is 1, expected 0"),
    "expert_group_count": (4, "qwen3moe.expert_group_count is 4, expected 1"),
    "expert_used_count": (5, "qwen3moe.expert_used_count is 5, expected an integer in 1..4"),
    "expert_count": (3, "blk.0.ffn_gate_inp.weight has shape [4, 256], expected [3, 256]"),
    "expert_feed_forward_length": (128, "blk.0.ffn_gate_exps.weight has shape [4, 256, 256], expected [4, 128, 256]"),
    "expert_shared_feed_forward_length": (64, "qwen3moe.expert_shared_feed_forward_length is 64, expected nothing"),
    "leading_dense_block_count": (1, "leading_dense_block_count is 1, expected 0"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_not_compiled_is_named(key: str, tmp_path: Path) -> None:
    value, expected = REFUSED[key]
    assert expected in refusal(with_keys(QWEN3, tmp_path / "m.gguf", {key: value}))


def test_shares_that_do_not_add_up_to_one_are_read(tmp_path: Path) -> None:
    file = with_keys(QWEN3, tmp_path / "m.gguf", {"expert_weights_norm": False})
    for path in (file, with_fields(FOLDER, tmp_path / "hf", norm_topk_prob=False)):
        assert [layer.ffn for layer in planned(path).layers] == [MoeSpec(4, 2, 256, normalise=False)] * 2


def test_early_files_of_mixtures_are_refused_with_advice(tmp_path: Path) -> None:
    renamed = {"blk.0.ffn_gate_exps.weight": "blk.0.ffn_gate.0.weight"}
    said = refusal(with_keys(MIXTRAL, tmp_path / "m.gguf", {}, renamed))
    assert "has a tensor for each expert, such as 'blk.0.ffn_gate.0.weight'" in said
    assert "convert the model again" in said


def test_an_architecture_that_has_no_experts(tmp_path: Path) -> None:
    folder = with_fields(FIXTURES / "qwen3" / "hf", tmp_path / "hf", num_experts=8, num_experts_per_tok=2)
    assert "is a mixture of experts (num_experts is 8), which imp does not compile of qwen3" in refusal(folder)


@pytest.mark.parametrize("file", [QWEN3, MIXTRAL, FIXTURES / "deepseek_v2" / "deepseek_v2-Q4_K_M.gguf"])
def test_gate_and_up_in_one_tensor_are_the_same_planes(file: Path, tmp_path: Path) -> None:
    reader = gguf.GGUFReader(file)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    writer = gguf.GGUFWriter(tmp_path / "joined.gguf", reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            add_key(writer, name, field.contents())
    for name, tensor in tensors.items():
        data, other = tensor.data, tensors.get(name.replace("gate_exps", "up_exps"), tensor)
        if other is not tensor:
            assert other.tensor_type == tensor.tensor_type
            data, name = np.concatenate([data, other.data], axis=1), name.replace("gate_exps", "gate_up_exps")
        if "ffn_up_exps" not in name:
            writer.add_tensor(name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert planes(tmp_path / "joined.gguf") == planes(file)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"num_experts_per_tok": 5}, "config.json: num_experts_per_tok is 5, expected an integer in 1..4"),
        ({"mlp_only_layers": [2]}, "mlp_only_layers[0] is 2, expected an integer in 0..1"),
        ({"mlp_only_layers": [1]}, "tensor 'model.layers.1.mlp.experts.0.down_proj.weight' (and 12 more) is none that"),
        ({"decoder_sparse_step": 2}, "tensor 'model.layers.0.mlp.experts.0.down_proj.weight' (and 12 more) is none"),
        ({"moe_intermediate_size": 512}, "ffn_gate_exps.weight has shape [4, 256, 256], expected [4, 512, 256]"),
        ({"num_local_experts": 3}, "tensor 'model.layers.0.mlp.experts.3.down_proj.weight' (and 5 more) is none that"),
        ({"num_local_experts": 5}, "tensor 'model.layers.0.mlp.experts.4.gate_proj.weight' is missing"),
        ({"top_k_experts": 3}, "top_k_experts is 3, but num_experts_per_tok is 2; they mean the same"),
    ],
)
def test_fields_that_do_not_fit_are_named(fields: dict[str, Any], expected: str, tmp_path: Path) -> None:
    assert expected in refusal(with_fields(FOLDER, tmp_path / "hf", **fields))


# Fields of every family whose values decide what a mixture answers, and what is said of one that is not known.
ODD_FIELDS: dict[str, tuple[Any, str]] = {
    "hidden_act": ("relu", "is 'relu', expected one of silu, swish, gelu"),
    "rope_parameters": ({"rope_type": "odd"}, "rope_parameters.rope_type is 'odd', expected"),
    "scoring_func": ("tanh", "scoring_func"),
    "n_group": (4, "n_group is 4, expected"),
    "norm_topk_prob": ("some", "norm_topk_prob is 'some', expected true or false"),
    "router_bias": (True, "key 'router_bias' is True, but imp does not know this key"),
}
ODD_FAMILIES = ("mixtral_folder", "qwen3_moe", "qwen2_moe", "gpt_oss", "gemma4_moe", "deepseek_v3", "glm4_moe_lite")


@pytest.mark.parametrize("field", ODD_FIELDS)
@pytest.mark.parametrize("family", ODD_FAMILIES)
def test_a_value_that_is_not_known_is_named_in_every_family(family: str, field: str, tmp_path: Path) -> None:
    value, expected = ODD_FIELDS[field]
    folder = FIXTURES / family / "hf"
    said = json.loads((folder / "config.json").read_text("utf-8"))
    name = "hidden_activation" if field == "hidden_act" and field not in said else field
    for other in ("rope_scaling", "rope_theta") if field == "rope_parameters" else ():
        said.pop(other, None)
    if family in ("deepseek_v3", "glm4_moe_lite") and field == "n_group":
        value, expected = 5, "n_group is 5, expected a divisor of the number of experts"
    shutil.copytree(folder, tmp_path / "hf")
    (tmp_path / "hf" / "config.json").write_text(json.dumps(said | {name: value}), "utf-8")
    assert expected in refusal(tmp_path / "hf")


def test_a_stack_is_its_matrices_below_one_another() -> None:
    names = [f"model.layers.0.mlp.experts.{expert}.up_proj.weight" for expert in (2, 0, 3)]
    with closing(open_checkpoint(FOLDER)) as checkpoint:
        stack = open_source(Stack(tuple(map(Tensor, names))), checkpoint)
        whole = np.concatenate([checkpoint.rows(name, 0, 256) for name in names])
        assert stack.shape == (3, 256, 256)
        for start, stop in ((0, 768), (255, 257), (256, 512), (100, 700), (767, 768)):
            np.testing.assert_array_equal(stack.rows(start, stop), whole[start:stop])
        other = Stack((Tensor(names[0]), Tensor("model.layers.0.self_attn.k_proj.weight")))
        with pytest.raises(
            CheckpointError, match=r"k_proj.weight' is BF16 \[128, 256\], expected a matrix as the first"
        ):
            open_source(other, checkpoint)


@pytest.mark.parametrize("normalise", [True, False])
def test_a_route(normalise: bool) -> None:
    logits = np.array([[1, 3, 3, 2, -1], [0.0, -0.0, -5, 0, 0]], np.float32)
    op = Route(Value("route", 6), Value("logits", 5), normalise)
    reference = Reference(Weights(lambda *_: np.zeros((0, 0), np.float32), lambda _: "bf16"), rounded=False)
    route = reference.evaluate(op, {"logits": logits}, np.zeros(2, np.int64), np.arange(2))
    assert route[:, :3].tolist() == [[1, 2, 3], [0, 1, 3]]
    for row, each in zip(logits.astype(np.float64), route, strict=True):
        share = np.exp(row) / np.exp(row).sum()
        kept = share[each[:3].astype(int)]
        np.testing.assert_allclose(each[3:], kept / kept.sum() if normalise else kept, rtol=1e-6)


@pytest.mark.parametrize(("experts", "wanted"), [(8, ("Q8_0", "Q8_0", "Q5_K")), (128, ("Q4_K", "Q6_K", "Q4_K"))])
def test_formats_of_random_weights(experts: int, wanted: tuple[str, ...]) -> None:
    """As llama-quantize's: of eight experts what they share gets more bits, and no router is quantised."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(8):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes[f"blk.{layer}.{part}.weight"] = (256, 256)
        for part in ("gate", "up", "down"):
            shapes[f"blk.{layer}.ffn_{part}_exps.weight"] = (experts, 256, 256)
        shapes[f"blk.{layer}.ffn_gate_inp.weight"] = (experts, 256)
    shapes["output.weight"] = (1000, 256)
    found = {name: format_in_mixture(name, "Q4_K_M", shapes) for name in shapes}
    assert tuple(found[f"blk.0.{part}.weight"] for part in ("attn_k", "attn_v", "attn_output")) == wanted
    assert {found[f"blk.{layer}.ffn_gate_inp.weight"] for layer in range(8)} == {"F32"}
    downs = [found[f"blk.{layer}.ffn_down_exps.weight"] for layer in range(8)]
    assert downs == ["Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q6_K"]


def test_products_by_expert_are_of_halfs_on_every_card() -> None:
    """Which decides what `imp verify` compares them with; the simulator runs only one of the two kinds."""
    targets = ("sm_90a", "sm_120a", "sim")
    with closing(open_checkpoint(FIXTURES / "qwen3_moe" / "qwen3_moe-Q4_K_M.gguf")) as checkpoint:
        plan = plan_model(checkpoint, tuple(map(find_target, targets)), CompileOptions(form="graph")).plan
    for target in targets:
        kernels = plan.target(target).program("forward_r128").kernels
        products = [kernel for kernel in kernels if any(op.startswith("ExpertLinear") for op in kernel.ops)]
        assert len(products) == 2 * plan.layers
        for kernel in products:
            assert kernel.tiles is not None
            assert kernel.tiles.kind.startswith("half "), target


@pytest.mark.parametrize(
    ("shape", "target", "rows"),
    [
        ("qwen3-30b-a3b", "sm_90a:h200", 64),
        ("mixtral-8x7b", "sm_90a:h200", 16),
        ("qwen3-30b-a3b", "sm_120a", 16),
        ("mixtral-8x7b", "sm_120a", 8),
    ],
)
def test_rows_that_share_experts_go_by_expert(shape: str, target: str, rows: int, tmp_path: Path) -> None:
    """From so many rows on it is faster: sooner where memory is slower, and where there are few experts."""
    config = json.loads((SHAPES / f"{shape}.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3, "vocab_size": 999}), "utf-8")
    with closing(random_checkpoint(tmp_path / "config.json", "Q4_K_M")) as checkpoint:
        plan = plan_model(checkpoint, (find_target(target),), CompileOptions(form="graph")).plan
    programs = {program.name: [kernel.entry for kernel in program.kernels] for program in plan.targets[0].programs}
    batches = {name: entries for name, entries in programs.items() if name.startswith("batch_r")}
    by_expert = {name for name, entries in batches.items() if any(entry.startswith("places") for entry in entries)}
    assert len(batches) == 4
    assert by_expert == {name for name in batches if int(name.removeprefix("batch_r")) >= rows}


@pytest.mark.parametrize(
    ("shape", "target", "codes", "router"),
    [
        ("mixtral-8x7b", "sm_90a:h200", True, False),  # 896 blocks of results for 132 CTAs
        ("mixtral-8x7b", "sm_120a", False, False),  # for 170, of which some would have 14 % more than their share
        ("qwen3-30b-a3b", "sm_90a:h200", False, True),  # 192 blocks, and a router of 262,144 weights
    ],
)
def test_what_gate_and_up_of_one_row_do_for_others(
    shape: str, target: str, codes: bool, router: bool, tmp_path: Path
) -> None:
    """Codes for down where blocks are shared out evenly; logits without a launch where a CTA holds the router."""
    config = json.loads((SHAPES / f"{shape}.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1, "vocab_size": 999}), "utf-8")
    with closing(random_checkpoint(tmp_path / "config.json", "Q4_K_M")) as checkpoint:
        plan = plan_model(checkpoint, (find_target(target),), CompileOptions(form="graph")).plan
    entries = [kernel.entry.rpartition("_")[0] for kernel in plan.targets[0].program("step_r1").kernels]
    assert ("router" in entries) == router
    assert entries.count("expert_gate_up") == entries.count("expert_down") == 1
    assert ("experts.codes" in {buffer.name for buffer in plan.targets[0].buffers}) == codes
