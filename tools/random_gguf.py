"""Writes a GGUF file of random weights with a model's real shapes, for speed measurements with other engines.

    python tools/random_gguf.py models/shapes/qwen3-8b.json Q4_K_M out.gguf

The weights are those of `imp compile --random-weights`. There is no tokenizer: "none" is llama.cpp's name for a model
that is given token ids only.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.models import load_architecture, weights_of
from imp_codegen.models._rope import ROPE_FREQUENCIES
from imp_runtime.errors import ImpError


def write_random_gguf(shape: Path, quant: str, output: Path) -> None:
    """Write `output`; ImpError for a shape or a format that imp does not know."""
    with closing(random_checkpoint(shape, quant)) as checkpoint:
        architecture = load_architecture(checkpoint)
        spec = architecture.read_spec(checkpoint)
        graph = architecture.build(spec)
        weights = weights_of(checkpoint, graph, {})
        attention = spec.layers[0].mixer
        rope = attention.rope
        if rope is None or rope.magnitude != 1:
            raise ImpError(f"{shape}: this tool writes no models without a rotary embedding, and none with YaRN")
        writer = GGUFWriter(output, spec.architecture)
        writer.add_name(f"{shape.stem} {quant}, random weights")
        writer.add_tokenizer_model("none")
        writer.add_vocab_size(spec.vocab)
        writer.add_block_count(len(spec.layers))
        writer.add_context_length(spec.context)
        writer.add_embedding_length(spec.hidden)
        writer.add_feed_forward_length(spec.layers[0].ffn.width)
        writer.add_head_count(attention.heads)
        writer.add_head_count_kv(attention.kv_heads)
        writer.add_key_length(attention.head_dim)
        writer.add_value_length(attention.head_dim)
        writer.add_layer_norm_rms_eps(spec.norm_eps)
        writer.add_rope_freq_base(rope.theta)
        writer.add_rope_dimension_count(rope.dim)
        factors = np.array(rope.factors, np.float32)
        if factors.size:
            writer.add_tensor_info(ROPE_FREQUENCIES, factors.shape, factors.dtype, factors.nbytes)
        for name, weight in weights.items():
            count = weight.shape[0] if len(weight.shape) > 1 else 1
            row_bytes = weight.format.row_bytes(weight.shape[-1])
            stored = (*weight.shape[:-1], row_bytes)
            kind = GGMLQuantizationType[weight.format.name]
            writer.add_tensor_info(name, stored, np.dtype(np.uint8), count * row_bytes, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors.size:
            writer.write_tensor_data(factors)
        for weight in weights.values():
            writer.write_tensor_data(weight.rows(0, weight.shape[0] if len(weight.shape) > 1 else 1))
        writer.close()


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
