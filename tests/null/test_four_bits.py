"""Folders of NVFP4 and MXFP4 weights, in the ways that ModelOpt and compressed-tensors write them, against numpy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from converted import stored
from e4m3 import e4m3
from edited_folder import Tensors, hold, say
from imp_codegen.checkpoint import CheckpointError, open_checkpoint
from imp_codegen.compiler import Compiled, CompileOptions, plan_model
from imp_codegen.targets import find_target
from model_checks import FIXTURES

FOLDERS = {name: FIXTURES / "qwen3" / name for name in ("nvfp4-ct", "nvfp4-modelopt")}
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
MODULES = {
    "ffn_down": "mlp.down_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "attn_v": "self_attn.v_proj",
}


@contextmanager
def planned(folder: Path) -> Iterator[Compiled]:
    with closing(open_checkpoint(folder)) as checkpoint:
        yield plan_model(checkpoint, (find_target("sim"),), CompileOptions())


def array(tensors: Tensors, name: str) -> NDArray[Any]:
    kind, shape, data = tensors[name]
    return np.frombuffer(data, "<f4" if kind == "F32" else np.uint8).reshape(shape)


def truth(tensors: Tensors, module: str) -> NDArray[np.float64]:
    """The weights of a module as its writer means them, in float64."""
    packed = f"{module}.weight_packed" in tensors
    codes = array(tensors, f"{module}.weight" + "_packed" * packed)
    values = E2M1[np.stack([codes & 15, codes >> 4], -1).reshape(len(codes), -1)]
    scales = array(tensors, f"{module}.weight_scale")
    if f"{module}.weight_scale_2" in tensors:
        factor = float(array(tensors, f"{module}.weight_scale_2").reshape(-1)[0])
    elif f"{module}.weight_global_scale" in tensors:
        factor = 1 / float(array(tensors, f"{module}.weight_global_scale")[0])
    else:
        return values * np.repeat(2.0 ** (scales.astype(int) - 127), 32, axis=1)
    table = np.array([e4m3(code) for code in range(256)], np.float64)
    return values * np.repeat(table[scales], 16, axis=1) * factor


def check_weights(folder: Path, bound: float) -> None:
    tensors = stored(folder / "model.safetensors")
    with planned(folder) as compiled:
        for ours, module in MODULES.items():
            weight = compiled.weights[f"blk.1.{ours}.weight"]
            rows, cols = weight.shape
            raw = weight.rows(0, rows)
            expected = truth(tensors, f"model.layers.1.{module}")
            np.testing.assert_allclose(weight.format.dequantize(raw), expected, rtol=bound)
            place = compiled.placed[f"blk.1.{ours}.weight"]
            assert place.layout is not None
            assert place.tile is not None
            packed = place.layout.pack(weight.format, raw, place.tile)
            unpacked = place.layout.unpack(weight.format, packed, rows, cols, place.tile)
            np.testing.assert_allclose(unpacked, expected, rtol=bound)


@pytest.mark.parametrize("name", FOLDERS)
def test_nvfp4_is_what_its_writer_means(name: str) -> None:
    """But for the rounding of a float32's reciprocal, and of a product."""
    check_weights(FOLDERS[name], 2.5e-7)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """compressed-tensors' to be changed."""
    shutil.copytree(FOLDERS["nvfp4-ct"], tmp_path / "m")
    return tmp_path / "m"


def recipe(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text("utf-8"))["quantization_config"]
    config["config_groups"]["group_0"] |= {key: changes.pop(key) for key in [*changes] if key == "format"}
    config["config_groups"]["group_0"]["weights"] |= changes
    if (form := config["config_groups"]["group_0"]["format"]) != config["format"]:
        config["format"] = form
    return say(folder, quantization_config=config)


@pytest.mark.parametrize("kind", ["U8", "F8_E8M0"])
def test_mxfp4_is_exact(kind: str, folder: Path) -> None:
    """A power of two for 32 codes, and no factor."""
    tensors = stored(folder / "model.safetensors")
    rng = np.random.default_rng(0)
    for name in [name for name in tensors if name.endswith("weight_packed")]:
        module = name.removesuffix("_packed")
        rows, half = tensors[name][1]
        scales = rng.integers(110, 130, (rows, half // 16), dtype=np.uint8)
        tensors[f"{module}_scale"] = (kind, list(scales.shape), scales.tobytes())
        del tensors[f"{module}_global_scale"]
    hold(recipe(folder, format="mxfp4-pack-quantized", group_size=32, strategy="group"), tensors)
    check_weights(folder, 0)


def test_recipes_may_be_mixed(folder: Path) -> None:
    """Attention in FP8 with a scale a row and one matrix in BF16 beside NVFP4, as published folders have it."""
    tensors = stored(folder / "model.safetensors")
    rng = np.random.default_rng(1)
    plain = rng.integers(0, 1 << 16, (256, 256), dtype=np.uint16) & 0xBFFF  # no exponent of what is not finite
    codes: dict[str, NDArray[np.uint8]] = {}
    for name in [name for name in tensors if name.endswith("_packed")]:
        module = name.removesuffix(".weight_packed")
        rows, half = tensors[name][1]
        if "self_attn" not in module and not module.endswith("1.mlp.down_proj"):
            continue
        for end in ("weight_packed", "weight_scale", "weight_global_scale", "input_global_scale"):
            del tensors[f"{module}.{end}"]
        if "mlp" in module:
            tensors[f"{module}.weight"] = ("BF16", [256, 256], plain.tobytes())
            continue
        codes[module] = rng.integers(0, 0x7F, (rows, 2 * half), dtype=np.uint8)
        scales = rng.uniform(0.5, 2, (rows, 1)).astype("<f4")
        tensors[f"{module}.weight"] = ("F8_E4M3", [rows, 2 * half], codes[module].tobytes())
        tensors[f"{module}.weight_scale"] = ("F32", [rows, 1], scales.tobytes())
    config = json.loads((folder / "config.json").read_text("utf-8"))["quantization_config"]
    config["config_groups"]["group_1"] = {
        "weights": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False},
        "format": "float-quantized",
        "targets": ["re:.*self_attn.*"],
    }
    hold(say(folder, quantization_config=config | {"format": "mixed-precision"}), tensors)
    table = np.array([e4m3(code) for code in range(256)], np.float64)
    with planned(folder) as compiled:
        weights = compiled.weights
        for ours, module in (("attn_v", "self_attn.v_proj"), ("attn_output", "self_attn.o_proj")):
            weight, name = weights[f"blk.1.{ours}.weight"], f"model.layers.1.{module}"
            expected = table[codes[name]] * array(tensors, f"{name}.weight_scale")
            found = weight.format.dequantize(weight.rows(0, weight.shape[0]))
            np.testing.assert_allclose(found, expected, rtol=1e-7)
        down, up = weights["blk.1.ffn_down.weight"], weights["blk.1.ffn_up.weight"]
        np.testing.assert_array_equal(down.rows(0, 256).reshape(-1).view("<u2"), plain.reshape(-1))
        found = up.format.dequantize(up.rows(0, 256))
        np.testing.assert_allclose(found, truth(tensors, "model.layers.1.mlp.up_proj"), rtol=2.5e-7)


WHICH = "model.layers.0.mlp.up_proj.weight"


def without_factor(tensors: Tensors) -> None:
    del tensors[f"{WHICH}_global_scale"]


def two_factors(tensors: Tensors) -> None:
    tensors[f"{WHICH}_scale_2"] = tensors[f"{WHICH}_global_scale"]


def a_factor_of_zero(tensors: Tensors) -> None:
    tensors[f"{WHICH}_global_scale"] = ("F32", [1], bytes(4))


def a_scale_below_zero(tensors: Tensors) -> None:
    kind, shape, data = tensors[f"{WHICH}_scale"]
    tensors[f"{WHICH}_scale"] = (kind, shape, b"\x81" + data[1:])


def no_scales(tensors: Tensors) -> None:
    del tensors[f"{WHICH}_scale"]


def fewer_scales(tensors: Tensors) -> None:
    kind, (rows, each), data = tensors[f"{WHICH}_scale"]
    tensors[f"{WHICH}_scale"] = (kind, [rows, each // 2], data[: len(data) // 2])


REFUSED = {
    "no factor": (without_factor, "'model.layers.0.mlp.up_proj.weight_scale' is F8_E4M3 with no factor"),
    "two factors": (two_factors, "is F8_E4M3 with model.layers.0.mlp.up_proj.weight_scale_2 and model.layers.0.mlp.up"),
    "a factor of zero": (a_factor_of_zero, "weight_global_scale' is 0.0, expected a number above 0"),
    "a scale below zero": (a_scale_below_zero, "has a scale whose byte is 0x81, expected at most 0x7e"),
    "no scales": (no_scales, "'model.layers.0.mlp.up_proj.weight_scale' is missing with"),
    "fewer scales": (fewer_scales, "weight_scale"),
}


def read(folder: Path) -> None:
    with planned(folder) as compiled:
        weight = compiled.weights["blk.0.ffn_up.weight"]
        weight.rows(0, weight.shape[0])


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_together_is_named(name: str, folder: Path) -> None:
    change, expected = REFUSED[name]
    tensors = stored(folder / "model.safetensors")
    change(tensors)
    hold(folder, tensors)
    with pytest.raises(CheckpointError) as caught:
        read(folder)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_bits": 8}, "weights.num_bits is 8, but no tensor is F8_E4M3"),
        ({"num_bits": 3}, "weights.num_bits is 3, expected 4 or 8"),
        ({"group_size": 64}, "weights.group_size is 64, expected 16 or 32"),
        ({"type": "int"}, "weights.type is 'int', expected float"),
        (
            {"format": "pack-quantized"},
            "format is 'pack-quantized', expected float-quantized or naive-quantized or nvfp4",
        ),
        ({"rotation": 1}, "config_groups.group_0.weights.rotation' is 1, but imp does not know this key"),
    ],
)
def test_what_a_recipe_says_otherwise_is_named(changes: dict[str, Any], expected: str, folder: Path) -> None:
    with pytest.raises(CheckpointError) as caught, planned(recipe(folder, **changes)):
        pass
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"quant_algo": "NVFP4_AWQ"},
            "hf_quant_config.json: quantization.quant_algo is 'NVFP4_AWQ', expected FP8 or NV",
        ),
        ({"quant_algo": "FP8"}, "hf_quant_config.json: quantization.quant_algo is 'FP8', but no tensor is F8_E4M3"),
        ({"group_size": 64}, "hf_quant_config.json: quantization.group_size is 64, expected 16 or 32"),
        (
            {"has_zero_point": True},
            "key 'quantization.has_zero_point' is True, but imp does not know this key of modelo",
        ),
    ],
)
def test_what_modelopts_own_file_says_otherwise_is_named(
    changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    shutil.copytree(FOLDERS["nvfp4-modelopt"], folder)
    path = folder / "hf_quant_config.json"
    document = json.loads(path.read_text("utf-8"))
    document["quantization"] |= changes
    path.write_text(json.dumps(document), "utf-8")
    with pytest.raises(CheckpointError) as caught, planned(folder):
        pass
    assert expected in str(caught.value)
