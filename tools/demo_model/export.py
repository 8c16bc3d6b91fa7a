"""Writes the trained model as a Q8_0 GGUF file with the metadata that llama.cpp's converter gives a Qwen3 model.

    python tools/demo_model/export.py [--model build/demo_model/hf] [--out models/demo.gguf]

Matrices become Q8_0, norms stay F32. Needs gguf and safetensors; no PyTorch.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import quantize
from numpy.typing import NDArray

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """model.layers.3.mlp.up_proj.weight -> blk.3.ffn_up.weight."""
    stem = name.removeprefix("model.").removesuffix(".weight")
    if stem.startswith("layers."):
        _, layer, part = stem.split(".", 2)
        return f"blk.{layer}.{NAMES[part]}.weight"
    return {"embed_tokens": "token_embd.weight", "norm": "output_norm.weight"}[stem]


def read_bf16(path: Path) -> dict[str, NDArray[np.float32]]:
    """The tensors of a safetensors file whose values are all BF16, widened (numpy has no such type)."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "BF16":
            raise SystemExit(f"{path}: tensor {name} is {entry['dtype']}, expected BF16")
        begin, end = entry["data_offsets"]
        bits = np.frombuffer(data[start + begin : start + end], "<u2").astype(np.uint32) << 16
        tensors[name] = bits.view(np.float32).reshape(entry["shape"])
    return tensors


def write_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict, chat_template: str) -> None:
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    ids: dict[str, int] = tokenizer["model"]["vocab"] | special
    tokens = sorted(ids, key=ids.__getitem__)
    kinds = [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(special["<|im_end|>"])
    writer.add_pad_token_id(special["<|endoftext|>"])
    writer.add_add_bos_token(False)
    writer.add_chat_template(chat_template)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("build/demo_model/hf"))
    parser.add_argument("--out", type=Path, default=Path("models/demo.gguf"))
    arguments = parser.parse_args()
    config = json.loads((arguments.model / "config.json").read_text("utf-8"))
    tensors = read_bf16(arguments.model / "model.safetensors")
    count = sum(tensor.size for tensor in tensors.values())

    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(arguments.out, "qwen3")
    writer.add_type("model")
    writer.add_name("Demo")
    writer.add_description("A tiny language model of Python's standard library, trained by tools/demo_model.")
    writer.add_size_label(f"{count / 1e6:.1f}M")
    writer.add_license("Apache-2.0")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    template = Path(__file__).with_name("chat_template.jinja").read_text("utf-8")
    write_tokenizer(writer, json.loads((arguments.model / "tokenizer.json").read_text("utf-8")), template)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)

    q8_0 = gguf.GGMLQuantizationType.Q8_0
    for name, tensor in tensors.items():
        if tensor.ndim == 1:
            writer.add_tensor(gguf_name(name), tensor)
        else:
            writer.add_tensor(gguf_name(name), quantize(tensor, q8_0), raw_dtype=q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{arguments.out}: {count:,} parameters, {arguments.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
