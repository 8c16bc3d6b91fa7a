"""Writes a GGUF file of random weights with a model's real shapes, for speed measurements with other engines.

    python tools/random_gguf.py models/shapes/qwen3-8b.json Q4_K_M out.gguf

The weights are those of `imp compile --random-weights`. There is no tokenizer: "none" is llama.cpp's name for a model
that is given token ids only.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, RopeScalingType

from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.models import load_architecture, weights_of
from imp_codegen.models._rope import ROPE_FREQUENCIES
from imp_codegen.spec import MoeSpec
from imp_codegen.stored import Stored
from imp_runtime.errors import ImpError

FUSED = {
    "phi3": {
        "attn_q": "attn_qkv",
        "attn_k": "attn_qkv",
        "attn_v": "attn_qkv",
        "ffn_gate": "ffn_up",
        "ffn_up": "ffn_up",
    }
}
"""Architectures that keep several of our matrices in one tensor, in the order of the graph."""


def write_random_gguf(shape: Path, quant: str, output: Path) -> None:
    """Write `output`; ImpError for a shape or a format that imp does not know."""
    with closing(random_checkpoint(shape, quant)) as checkpoint:
        architecture = load_architecture(checkpoint)
        spec = architecture.read_spec(checkpoint)
        graph = architecture.build(spec)
        weights = weights_of(checkpoint, graph, {})
        # Of a model with windows, a layer without one says the most.
        attention = next((layer.mixer for layer in spec.layers if not layer.mixer.window), spec.layers[0].mixer)
        windowed = next((layer.mixer for layer in spec.layers if layer.mixer.window), None)
        rope = attention.rope
        if rope is None or rope.magnitude != 1:
            raise ImpError(f"{shape}: this tool writes no models without a rotary embedding, and none with YaRN")
        mixture = next((layer.ffn for layer in spec.layers if isinstance(layer.ffn, MoeSpec)), None)
        if mixture is not None and (mixture.biased or mixture.shared or not mixture.normalise):
            raise ImpError(f"{shape}: of mixtures of experts this tool writes those of Qwen3 and Mixtral")
        writer = GGUFWriter(output, spec.architecture)
        writer.add_name(f"{shape.stem} {quant}, random weights")
        writer.add_tokenizer_model("none")
        writer.add_vocab_size(spec.vocab)
        writer.add_block_count(len(spec.layers))
        writer.add_context_length(spec.context)
        writer.add_embedding_length(spec.hidden)
        writer.add_feed_forward_length(spec.layers[0].ffn.width)
        if mixture is not None:
            writer.add_expert_count(mixture.experts)
            writer.add_expert_used_count(mixture.used)
            if spec.architecture != "llama":
                writer.add_expert_feed_forward_length(mixture.width)
        writer.add_head_count(attention.heads)
        writer.add_head_count_kv(attention.kv_heads)
        writer.add_key_length(attention.head_dim)
        writer.add_value_length(attention.head_dim)
        writer.add_layer_norm_rms_eps(spec.norm_eps)
        writer.add_rope_freq_base(rope.theta)
        writer.add_rope_dimension_count(rope.dim)
        factors = np.array(rope.factors, np.float32)
        if factors.size and (factors == factors[0]).all():
            writer.add_rope_scaling_type(RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(float(factors[0]))
            factors = factors[:0]
        if windowed is not None:
            writer.add_sliding_window(windowed.window)
            if windowed.rope is not None and windowed.rope.theta != rope.theta:
                writer.add_float32(f"{spec.architecture}.rope.freq_base_swa", windowed.rope.theta)
        if factors.size:
            writer.add_tensor_info(ROPE_FREQUENCIES, factors.shape, factors.dtype, factors.nbytes)
        tensors = fused(spec.architecture, weights)
        for name, parts in tensors.items():
            *outer, cols = parts[0].shape
            kept = parts[0].format
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
