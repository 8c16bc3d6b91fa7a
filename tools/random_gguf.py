"""Writes a GGUF file of random weights with a model's real shapes, for speed measurements with other engines.

    python tools/random_gguf.py models/shapes/qwen3-8b.json Q4_K_M out.gguf

The weights are those of `imp compile --random-weights`. There is no tokenizer: "none" is llama.cpp's name for a model
that is given token ids only.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from random_gguf_keys import write_keys

from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.models import load_architecture, weights_of
from imp_codegen.models._rope import ROPE_FREQUENCIES
from imp_codegen.spec import ModelSpec, MoeSpec
from imp_codegen.stored import Stored
from imp_runtime.errors import ImpError

FUSED = {
    "deepseek2": {
        "attn_q_nope": "attn_q",
        "attn_q_rope": "attn_q",
        "attn_kv_a_latent": "attn_kv_a_mqa",
        "attn_kv_a_rope": "attn_kv_a_mqa",
    },
    "gpt-oss": {"ffn_norm": "post_attention_norm"},
    "phi3": {
        "attn_q": "attn_qkv",
        "attn_k": "attn_qkv",
        "attn_v": "attn_qkv",
        "ffn_gate": "ffn_up",
        "ffn_up": "ffn_up",
    },
}
"""Architectures that keep several of our matrices in one tensor, in the order of the graph, or name one otherwise."""


def write_random_gguf(shape: Path, quant: str, output: Path) -> None:
    """Write `output`; ImpError for a shape or a format that imp does not know."""
    with closing(random_checkpoint(shape, quant)) as checkpoint:
        architecture = load_architecture(checkpoint)
        spec = architecture.read_spec(checkpoint)
        weights = weights_of(checkpoint, architecture.build(spec), {})
        writer = GGUFWriter(output, spec.architecture)
        writer.add_name(f"{shape.stem} {quant}, random weights")
        factors = write_keys(writer, spec, json.loads(shape.read_text("utf-8")), shape)
        if factors.size:
            writer.add_tensor_info(ROPE_FREQUENCIES, factors.shape, factors.dtype, factors.nbytes)
        tensors = fused(spec.architecture, weights)
        for name, parts in tensors.items():
            *outer, cols = stacked(name, parts[0], spec)
            kept = parts[0].format
            if kept.ggml_type is None:
                raise ImpError(
                    f"{output}: GGUF files have no {kept.name}, which {name} would be; choose another format"
                )
            stored = (*outer, kept.row_bytes(cols))
            if len(parts) > 1:
                stored = (sum(weight.shape[0] for weight in parts), kept.row_bytes(cols))
            kind = GGMLQuantizationType[kept.name]
            writer.add_tensor_info(name, stored, np.dtype(np.uint8), math.prod(stored), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors.size:
            writer.write_tensor_data(factors)
        for parts in tensors.values():
            writer.write_tensor_data(np.concatenate([weight.rows(0, math.prod(weight.shape[:-1])) for weight in parts]))
        writer.close()


def stacked(name: str, weight: Stored, spec: ModelSpec) -> tuple[int, ...]:
    """The shape of a tensor of the file: of heads' own matrices and of experts' biases with a dimension for those."""
    part = name.split(".", 2)[-1]
    mixer, ffn = spec.layers[-1].mixer, spec.layers[-1].ffn
    if part in ("attn_k_b.weight", "attn_v_b.weight"):
        return (mixer.heads, weight.shape[0] // mixer.heads, weight.shape[1])
    if part.endswith("_exps.bias") and isinstance(ffn, MoeSpec):
        return (ffn.experts, weight.shape[0] // ffn.experts)
    return weight.shape


def fused(architecture: str, weights: Mapping[str, Stored]) -> Mapping[str, Sequence[Stored]]:
    """The file's tensors, each of so many of our weights one after the other: ImpError if their formats differ."""
    tensors: dict[str, list[Stored]] = {}
    for name, weight in weights.items():
        block, part = name.removesuffix(".weight").rpartition(".")[::2]
        whole = FUSED.get(architecture, {}).get(part)
        parts = tensors.setdefault(f"{block}.{whole}.weight" if whole else name, [])
        if parts and parts[0].format != weight.format:
            raise ImpError(
                f"{name}: {weight.format.name} beside {parts[0].format.name} in one tensor; take another QUANT"
            )
        parts.append(weight)
    return tensors


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shape", type=Path, metavar="SHAPE", help="a config.json, such as models/shapes/qwen3-8b.json")
    parser.add_argument("quant", metavar="QUANT", help="Q8_0, Q4_K_M, BF16, ...")
    parser.add_argument("output", type=Path, metavar="OUT.gguf")
    given = parser.parse_args()
    try:
        write_random_gguf(given.shape, given.quant, given.output)
    except (ImpError, OSError) as error:
        print(f"random_gguf: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
