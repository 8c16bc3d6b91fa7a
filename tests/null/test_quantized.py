"""Folders of FP8 weights, in the ways that they are published, against numpy; and what does not fit together."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converted import stored
from e4m3 import e4m3
from edited_folder import Tensors, hold, say, weights
from fp8_folder import BLOCKS, COMPRESSED, GROUP, LLAMA, MODELOPT, narrowed, quantised
from imp_codegen.checkpoint import CheckpointError, open_checkpoint
from imp_codegen.compiler import CompileOptions, plan_model
from imp_codegen.formats import format_named
from imp_codegen.targets import find_target


def test_every_code() -> None:
    found = format_named("F8_E4M3").dequantize(np.arange(256, dtype=np.uint8)[None])[0]
    np.testing.assert_array_equal(found, np.array([e4m3(code) for code in range(256)], np.float32))
    assert (found[0x7E], found[1], found[0x38], found[0xB9]) == (448, 2.0**-9, 1, -1.125)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("blocks", BLOCKS),
        ("rows", COMPRESSED),
        ("one", MODELOPT),
        ("inverse", BLOCKS | {"weight_block_size": None, "activation_scheme": "static"}),
    ],
    ids=["blocks", "rows", "one", "one, called inverse"],
)
@pytest.mark.parametrize("modules", [("_proj",), ("mlp.", "k_proj")], ids=["all", "some"])
def test_weights_are_codes_times_scales(
    kind: str, config: dict[str, Any], modules: tuple[str, ...], tmp_path: Path
) -> None:
    shutil.copytree(LLAMA, tmp_path / "m")
    folder, expected = quantised(say(tmp_path / "m", quantization_config=config), kind, modules)
    with closing(open_checkpoint(folder)) as checkpoint:
        compiled = plan_model(checkpoint, (find_target("sim"),), CompileOptions())
        for ours, module in (
            ("ffn_down", "mlp.down_proj"),
            ("ffn_gate", "mlp.gate_proj"),
            ("attn_v", "self_attn.v_proj"),
        ):
            name = f"model.layers.1.{module}.weight"
            if name not in expected:
                continue
            weight = compiled.weights[f"blk.1.{ours}.weight"]
            rows, cols = weight.shape
            raw = weight.rows(0, rows)
            np.testing.assert_array_equal(weight.format.dequantize(raw), expected[name])
            place = compiled.placed[f"blk.1.{ours}.weight"]
            assert place.layout is not None
            assert place.tile is not None
            packed = place.layout.pack(weight.format, raw, place.tile)
            unpacked = place.layout.unpack(weight.format, packed, rows, cols, place.tile)
            np.testing.assert_array_equal(unpacked, expected[name])
        name = "model.layers.0.self_attn.k_proj.weight"  # whose rows are permuted
        half = expected[name].reshape(2, 2, -1, expected[name].shape[1]).swapaxes(1, 2).reshape(expected[name].shape)
        weight = compiled.weights["blk.0.attn_k.weight"]
        np.testing.assert_array_equal(weight.format.dequantize(weight.rows(3, 77)), half[3:77])


@pytest.mark.parametrize("kind", ["blocks", "rows", "one"])
def test_matrices_that_end_within_a_block(kind: str, tmp_path: Path) -> None:
    """Of 128 x 128 weights that a scale is for those at the right and lower edge may be fewer: here 96, and 2 * 96."""
    shutil.copytree(LLAMA, tmp_path / "m")
    config = {"blocks": BLOCKS, "rows": COMPRESSED, "one": MODELOPT}[kind]
    folder, expected = quantised(say(narrowed(tmp_path / "m", 224), quantization_config=config), kind, ("mlp.",))
    with closing(open_checkpoint(folder)) as checkpoint:
        compiled = plan_model(checkpoint, (find_target("sim"),), CompileOptions())
        for ours, module in (("ffn_down", "down_proj"), ("ffn_gate", "gate_proj")):
            placed, weight = compiled.placed[f"blk.1.{ours}.weight"], compiled.weights[f"blk.1.{ours}.weight"]
            rows, cols = weight.shape
            assert 224 in (rows, cols)
            raw = weight.rows(0, rows)
            assert placed.layout is not None
            assert placed.tile is not None
            unpacked = placed.layout.unpack(
                weight.format, placed.layout.pack(weight.format, raw, placed.tile), rows, cols, placed.tile
            )
            np.testing.assert_array_equal(unpacked, expected[f"model.layers.1.mlp.{module}.weight"])


def test_one_column_of_blocks(tmp_path: Path) -> None:
    """Of a matrix of 96 columns and 512 rows there are four scales, a column: they are no row's own."""
    shutil.copytree(LLAMA, tmp_path / "m")
    folder, expected = quantised(
        say(narrowed(tmp_path / "m", 96), quantization_config=BLOCKS), "blocks", ("down_proj",)
    )
    name = "model.layers.0.mlp.down_proj.weight"
    with closing(open_checkpoint(folder)) as checkpoint:
        assert checkpoint.tensors[f"{name}_scale_inv"].shape[1] == 1 < checkpoint.tensors[f"{name}_scale_inv"].shape[0]
        weight = plan_model(checkpoint, (find_target("sim"),), CompileOptions()).weights["blk.0.ffn_down.weight"]
        np.testing.assert_array_equal(weight.format.dequantize(weight.rows(3, 200)), expected[name][3:200])


def drop(tensors: Tensors, end: str) -> None:
    for name in [name for name in tensors if name.endswith(end)]:
        del tensors[name]


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "another method": ({"quant_method": "awq", "bits": 4}, "", "quant_method is 'awq', expected fp8, compressed-t"),
    "no method": ({"bits": 4}, "", "quantization_config.quant_method is missing, expected fp8"),
    "other blocks": (BLOCKS | {"weight_block_size": [64, 64]}, "", "weight_block_size is a list of 2 (64, 64), expe"),
    "another float": (BLOCKS | {"fmt": "e5m2"}, "", "quantization_config.fmt is 'e5m2', expected e4m3"),
    "a new key": (BLOCKS | {"rotation": 3}, "", "key 'quantization_config.rotation' is 3, but imp does not know"),
    "other bits": (
        COMPRESSED | {"config_groups": {"group_0": GROUP | {"weights": GROUP["weights"] | {"num_bits": 4}}}}, "",
        "quantization_config.config_groups.group_0.weights.num_bits is 4, but no tensor is U8",
    ),
    "no scales": (BLOCKS, "_scale_inv", "proj.weight' is F8_E4M3, which needs one tensor of scales; there is neither"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_changes_weights_is_an_error(name: str, tmp_path: Path) -> None:
    config, without, expected = REFUSED[name]
    shutil.copytree(LLAMA, tmp_path / "m")
    folder, _ = quantised(say(tmp_path / "m", quantization_config=config), "blocks", ("_proj",))
    tensors = stored(folder / "model.safetensors")
    if without:
        drop(tensors, without)
    hold(folder, tensors)
    with pytest.raises(CheckpointError) as caught, closing(open_checkpoint(folder)) as checkpoint:
        plan_model(checkpoint, (find_target("sim"),), CompileOptions())
    assert expected in str(caught.value)


@pytest.mark.parametrize("method", ["awq", "gptq", "bitsandbytes", "exl2", "hqq"])
def test_other_methods_are_named_whatever_their_tensors_are_called(method: str, tmp_path: Path) -> None:
    """As published: no matrix has the name that a model's own have."""
    shutil.copytree(LLAMA, tmp_path / "m")
    folder = say(tmp_path / "m", quantization_config={"quant_method": method, "bits": 4, "group_size": 128})
    named = {name.replace("proj.weight", "proj.qweight"): tensor for name, tensor in weights(folder).items()}
    hold(folder, named)
    with pytest.raises(CheckpointError) as caught, closing(open_checkpoint(folder)) as checkpoint:
        plan_model(checkpoint, (find_target("sim"),), CompileOptions())
    assert f"quantization_config.quant_method is '{method}', expected fp8, compressed-tensors, modelopt" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)


def test_scales_of_what_is_not_there(tmp_path: Path) -> None:
    """Those of activations change nothing, but only beside a quantised weight."""
    shutil.copytree(LLAMA, tmp_path / "m")
    folder, _ = quantised(say(tmp_path / "m", quantization_config=BLOCKS), "blocks", ("_proj",))
    stray = {"model.norm.input_scale": ("F32", [], np.float32(1).tobytes())}
    hold(folder, stored(folder / "model.safetensors") | stray)
    expected = "tensor 'model.norm.input_scale' is none that imp knows"
    with pytest.raises(CheckpointError, match=expected), closing(open_checkpoint(folder)) as checkpoint:
        plan_model(checkpoint, (find_target("sim"),), CompileOptions())


def test_a_config_of_quantised_weights_that_are_none(tmp_path: Path) -> None:
    shutil.copytree(LLAMA, tmp_path / "m")
    say(tmp_path / "m", quantization_config=BLOCKS)
    with (
        pytest.raises(CheckpointError, match="but no tensor is F8_E4M3"),
        closing(open_checkpoint(tmp_path / "m")) as c,
    ):
        plan_model(c, (find_target("sim"),), CompileOptions())
