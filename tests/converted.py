"""A GGUF file of the weights of a Hugging Face folder, as llama.cpp's converter makes it, written with gguf-py.

But for windows, which the converter leaves out where the architecture is llama.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from small_gguf import add_key

# Architectures whose rows of q and k the converter permutes, and whose norms it adds one to.
PERMUTED = ("llama", "granite", "smollm3")
PLUS_ONE = ("gemma2", "gemma3")

_HALF: dict[str, dict[str, np.ndarray]] = {}  # tensors whose other half is still to come


def convert(folder: Path, like: Path, output: Path) -> Path:
    """Write the BF16 weights of `folder`; keys, and what is no weight, are those of the GGUF file `like`."""
    reader = gguf.GGUFReader(like)
    keys = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    arch = keys["general.architecture"]
    config = json.loads((folder / "config.json").read_text("utf-8"))
    heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
    names = gguf.get_tensor_name_map(
        next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == arch), config["num_hidden_layers"]
    )
    writer = gguf.GGUFWriter(output, arch)
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        keys[f"{arch}.attention.sliding_window"] = config["sliding_window"]
    for key, value in keys.items():
        if key != "general.architecture":
            add_key(writer, key, value)
    for name, (dtype, shape, raw) in stacked(stored(folder / "model.safetensors")).items():
        if arch == "gpt-oss" and ".experts." in name:
            for part, array, kind in experts(name, shape, raw):
                writer.add_tensor(part, array, raw_dtype=kind)
            continue
        module, _, kind = name.rpartition(".")
        whole = names.get_name(name)  # of a tensor that no module has
        ours = f"{whole}.weight" if whole else f"{names.get_name(module)}.{kind}"
        if found := re.fullmatch(r"model\.layers\.(\d+)\.router\.(scale|per_expert_scale)", name):  # unknown to gguf-py
            ours = f"blk.{found[1]}.{'ffn_gate_inp' if found[2] == 'scale' else 'ffn_down_exps'}.scale"
        if found := re.fullmatch(r"model\.layers\.(\d+)\.mlp\.gate\.e_score_correction_bias", name):
            ours = f"blk.{found[1]}.exp_probs_b.bias"
        assert dtype == "BF16"
        array = np.frombuffer(raw, "<u2").reshape(shape)
        for part in heads if arch in PERMUTED else ():
            if f"attn_{part}." in ours:
                array = array.reshape(heads[part], 2, -1, *shape[1:]).swapaxes(1, 2).reshape(shape)
        if "attn_kv_b" in ours:
            for part, each in keys_and_values(array, config).items():
                whole_part = np.ascontiguousarray(each)
                writer.add_tensor(ours.replace("kv_b", part), whole_part, raw_dtype=gguf.GGMLQuantizationType.BF16)
            continue
        if "ffn_gate_inp_shexp" in ours:
            array = array.reshape(-1)
        if len(shape) == 1:
            writer.add_tensor(ours, _widened(array) + (1 if arch in PLUS_ONE else 0))
        else:
            writer.add_tensor(ours, np.ascontiguousarray(array), raw_dtype=gguf.GGMLQuantizationType.BF16)
    for tensor in reader.tensors:
        if tensor.name.startswith("rope_"):
            writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return output


def keys_and_values(array: np.ndarray, config: dict[str, Any]) -> dict[str, np.ndarray]:
    """What becomes of DeepSeek's one matrix of both: of each head keys' rows turned over, and values'."""
    nope, values = config["qk_nope_head_dim"], config["v_head_dim"]
    heads = array.reshape(-1, nope + values, array.shape[1])
    return {"k_b": heads[:, :nope].swapaxes(1, 2), "v_b": heads[:, nope:]}


def experts(name: str, shape: list[int], raw: bytes) -> Iterator[tuple[str, np.ndarray, Any]]:
    """What becomes of gpt-oss's experts: gate and up apart, and MXFP4 as GGUF has it, in one tensor."""
    found = re.fullmatch(r"model\.layers\.(\d+)\.mlp\.experts\.(gate_up|down)_proj_(bias|blocks|scales)", name)
    assert found
    kept = _HALF.setdefault(found[1] + found[2], {})
    if found[3] == "bias":
        array, kind, what = _widened(np.frombuffer(raw, "<u2").reshape(shape)), None, "bias"
    else:
        kept[found[3]] = np.frombuffer(raw, np.uint8).reshape(shape)
        if len(kept) < 2:
            return
        blocks, scales = kept["blocks"], kept["scales"]
        codes = np.empty((*scales.shape, 32), np.uint8)
        codes[..., 0::2], codes[..., 1::2] = blocks % 16, blocks // 16
        packed = codes[..., :16] + 16 * codes[..., 16:]
        array = np.concatenate([scales[..., None], packed], axis=-1).reshape(*scales.shape[:2], -1)
        kind, what = gguf.GGMLQuantizationType.MXFP4, "weight"
        kept.clear()
    rows = {"gate": array[:, 0::2], "up": array[:, 1::2]} if found[2] == "gate_up" else {"down": array}
    for part, each in rows.items():
        yield f"blk.{found[1]}.ffn_{part}_exps.{what}", np.ascontiguousarray(each), kind


def stored(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:start])
    header.pop("__metadata__", None)
    return {
        name: (each["dtype"], each["shape"], whole[start + each["data_offsets"][0] : start + each["data_offsets"][1]])
        for name, each in header.items()
    }


def stacked(tensors: dict[str, tuple[str, list[int], bytes]]) -> dict[str, tuple[str, list[int], bytes]]:
    """The same with the experts of a layer in one tensor, named as gguf-py knows it."""
    found: dict[str, tuple[str, list[int], bytes]] = {}
    for name, (dtype, shape, raw) in sorted(
        tensors.items(), key=lambda item: [int(n) for n in re.findall(r"\d+", item[0])]
    ):
        expert = re.fullmatch(r"(.+\.experts)\.\d+\.(\w+\.weight)", name)
        if expert is None:
            found[name] = (dtype, shape, raw)
            continue
        _, (count, *_), before = found.get(f"{expert[1]}.{expert[2]}", (dtype, [0], b""))
        found[f"{expert[1]}.{expert[2]}"] = (dtype, [count + 1, *shape], before + raw)
    return found


def _widened(bf16: np.ndarray) -> np.ndarray:
    return (bf16.astype(np.uint32) << 16).view(np.float32)
