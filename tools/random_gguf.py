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
from imp_runtime.errors import ImpError


def write_random_gguf(shape: Path, quant: str, output: Path) -> None:
    """Write `output`; ImpError for a shape or a format that imp does not know."""
    with closing(random_checkpoint(shape, quant)) as checkpoint:
        metadata = checkpoint.metadata
        arch = metadata.string("general.architecture")
        writer = GGUFWriter(output, arch)
        writer.add_name(f"{shape.stem} {quant}, random weights")
        writer.add_tokenizer_model("none")
        writer.add_vocab_size(metadata.integer(f"{arch}.vocab_size"))
        writer.add_block_count(metadata.integer(f"{arch}.block_count"))
        writer.add_context_length(metadata.integer(f"{arch}.context_length"))
        writer.add_embedding_length(metadata.integer(f"{arch}.embedding_length"))
        writer.add_feed_forward_length(metadata.integer(f"{arch}.feed_forward_length"))
        writer.add_head_count(metadata.integer(f"{arch}.attention.head_count"))
        writer.add_head_count_kv(metadata.integer(f"{arch}.attention.head_count_kv"))
        writer.add_key_length(metadata.integer(f"{arch}.attention.key_length"))
        writer.add_value_length(metadata.integer(f"{arch}.attention.value_length"))
        writer.add_layer_norm_rms_eps(metadata.number(f"{arch}.attention.layer_norm_rms_epsilon"))
        writer.add_rope_freq_base(metadata.number(f"{arch}.rope.freq_base"))
        writer.add_rope_dimension_count(metadata.integer(f"{arch}.rope.dimension_count"))
        for tensor in checkpoint.tensors.values():
            row_bytes = tensor.nbytes // tensor.rows
            kind = GGMLQuantizationType[tensor.format]
            stored = (*tensor.shape[:-1], row_bytes)
            writer.add_tensor_info(tensor.name, stored, np.dtype(np.uint8), tensor.nbytes, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in checkpoint.tensors.values():
            writer.write_tensor_data(checkpoint.rows(tensor.name, 0, tensor.rows))
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
