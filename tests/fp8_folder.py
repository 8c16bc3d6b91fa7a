"""Folders whose matrices are FP8, in the ways that they are published."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from converted import stored
from e4m3 import e4m3
from edited_folder import Tensors, hold, say

LLAMA = Path(__file__).parent / "fixtures" / "llama" / "hf"
BLOCKS = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128], "fmt": "e4m3"}
GROUP = {
    "weights": {
        "num_bits": 8, "type": "float", "symmetric": True, "dynamic": False, "strategy": "channel", "group_size": None,
        "observer": "minmax", "observer_kwargs": {},
    },
    "input_activations": {"num_bits": 8, "type": "float", "dynamic": True, "strategy": "token"},
    "output_activations": None,
    "targets": ["Linear"],
}  # fmt: skip
COMPRESSED = {
    "quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"], "kv_cache_scheme": None,
    "quantization_status": "compressed", "config_groups": {"group_0": GROUP}, "sparsity_config": {}, "version": "0.12",
}  # fmt: skip
MODELOPT = {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"], "producer": {"name": "modelopt"}}


def narrowed(folder: Path, width: int) -> Path:
    """The folder with layers of `width` in place of the model's own, which is larger."""
    tensors = stored(folder / "model.safetensors")
    for name, (dtype, shape, raw) in tensors.items():
        if ".mlp." in name:
            cut = np.frombuffer(raw, "<u2").reshape(shape)[:, :width] if "down_proj" in name else None
            cut = np.frombuffer(raw, "<u2").reshape(shape)[:width] if cut is None else cut
            tensors[name] = dtype, [*cut.shape], cut.tobytes()
    return hold(say(folder, intermediate_size=width), tensors)


def quantised(folder: Path, kind: str, modules: tuple[str, ...]) -> tuple[Path, dict[str, np.ndarray]]:
    """Random codes and scales for the matrices of some modules, always the same; their weights as float32."""
    rng = np.random.default_rng(5)
    tensors: Tensors = {}
    expected = {}
    for name, (dtype, shape, raw) in stored(folder / "model.safetensors").items():
        tensors[name] = dtype, shape, raw
        if len(shape) < 2 or not any(module in name for module in modules):
            continue
        codes = rng.integers(0, 256, shape).astype(np.uint8)
        codes[codes & 127 == 127] = 0
        rows, cols = shape
        scale_shape = {"blocks": [-(-rows // 128), -(-cols // 128)], "rows": [rows, 1], "one": [], "inverse": []}[kind]
        scales = rng.uniform(1e-3, 2e-3, scale_shape).astype(np.float32)
        if kind == "blocks":  # which may be bfloat16, too
            scales = (scales.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        stored_scales = (scales.view(np.uint32) >> 16).astype("<u2") if kind == "blocks" else scales
        tensors[name] = "F8_E4M3", shape, codes.tobytes()
        suffix = "_scale_inv" if kind in ("blocks", "inverse") else "_scale"
        scale_type = "BF16" if kind == "blocks" else "F32"
        tensors[f"{name}{suffix}"] = scale_type, scale_shape, stored_scales.tobytes()
        tensors[name.replace("weight", "input_scale")] = "F32", [], np.float32(1).tobytes()
        wide = scales if kind != "blocks" else np.repeat(np.repeat(scales, 128, 0)[:rows], 128, 1)[:, :cols]
        values = np.array([e4m3(code) for code in range(256)], np.float32)
        expected[name] = values[codes] * wide
    return hold(folder, tensors), expected
