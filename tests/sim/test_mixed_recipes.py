"""A folder as recipes mix them, NVFP4, FP8 and BF16 side by side, on the simulator beside the same weights in F32."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from converted import stored
from edited_folder import Tensors, hold, say
from imp_codegen.checkpoint import open_checkpoint
from imp_codegen.compiler import CompileOptions, compile_model, plan_model
from imp_codegen.targets import find_target
from imp_runtime.engine import Engine
from model_checks import FIXTURES, check_kernels, kl_divergence, quiet

TOKENS = [5, 17, 200, 3, 17, 90, 41, 5, 8, 255]
OURS = {
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
}  # fmt: skip
FP8 = {
    "weights": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False},
    "format": "float-quantized",
    "targets": ["re:.*self_attn.*"],
}


def mixed(folder: Path) -> Path:
    """Attention in FP8, the last down projection in BF16, all else in NVFP4 as it was."""
    tensors, rng = stored(folder / "model.safetensors"), np.random.default_rng(3)
    for name in [name for name in tensors if name.endswith("_packed")]:
        module = name.removesuffix(".weight_packed")
        rows, cols = tensors[name][1][0], 2 * tensors[name][1][1]
        if "self_attn" not in module and not module.endswith("1.mlp.down_proj"):
            continue
        for end in ("weight_packed", "weight_scale", "weight_global_scale", "input_global_scale"):
            del tensors[f"{module}.{end}"]
        values = (rng.standard_normal((rows, cols)) / cols**0.5).astype(np.float32)
        if "mlp" in module:
            tensors[f"{module}.weight"] = "BF16", [rows, cols], (values.view(np.uint32) >> 16).astype("<u2").tobytes()
            continue
        codes = rng.integers(0, 0x7F, (rows, cols), dtype=np.uint8) | rng.integers(0, 2, (rows, cols), np.uint8) << 7
        scales = rng.uniform(0.5, 2, (rows, 1)).astype("<f4") / np.float32(100 * cols**0.5)
        tensors[f"{module}.weight"] = "F8_E4M3", [rows, cols], codes.tobytes()
        tensors[f"{module}.weight_scale"] = "F32", [rows, 1], scales.tobytes()
    config = json.loads((folder / "config.json").read_text("utf-8"))["quantization_config"]
    config["config_groups"]["group_1"] = FP8
    return hold(say(folder, quantization_config=config | {"format": "mixed-precision"}), tensors)


def in_floats(folder: Path, output: Path) -> Path:
    """The same weights in F32, as `tests/null/test_four_bits.py` finds that they are read."""
    tensors: Tensors = {
        name: tensor
        for name, tensor in stored(folder / "model.safetensors").items()
        if not any(f".{module}." in name for module in OURS)
    }
    with closing(open_checkpoint(folder)) as checkpoint:
        weights = plan_model(checkpoint, (find_target("sim"),), CompileOptions()).weights
        for layer in range(2):
            for module, ours in OURS.items():
                weight = weights[f"blk.{layer}.{ours}.weight"]
                values = weight.format.dequantize(weight.rows(0, weight.shape[0])).astype("<f4")
                tensors[f"model.layers.{layer}.{module}.weight"] = "F32", [*weight.shape], values.tobytes()
    shutil.copytree(folder, output)
    return hold(say(output, quantization_config=...), tensors)


@pytest.mark.thorough
@pytest.mark.parametrize("form", ["graph", "persistent"])
def test_three_formats_in_one_folder(form: str, tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "qwen3" / "nvfp4-ct", tmp_path / "mixed")
    folder = mixed(tmp_path / "mixed")
    logits = []
    for path in (folder, in_floats(folder, tmp_path / "floats")):
        artifact = path.with_suffix(".impc")
        compile_model(path, artifact, ("sim",), CompileOptions(form=form), quiet)  # type: ignore[arg-type]
        with Engine.load(artifact, target="sim") as engine:
            assert ("NVFP4_TENSORS" in engine.plan.quant and "FP8_ROWS" in engine.plan.quant) == (path == folder)
            logits.append(engine.logits(TOKENS))
            check_kernels(engine)
    assert kl_divergence(logits[1], logits[0]).max() < 0.02  # NVFP4's activations are int8 codes
