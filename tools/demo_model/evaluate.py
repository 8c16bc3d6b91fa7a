"""Measures the demo model with Hugging Face transformers, which shares no code with this repository.

    python tools/demo_model/evaluate.py [--model build/demo_model/hf] [--gguf models/demo.gguf]

Writes results.json (perplexity on heldout.txt of the bf16 weights and of the weights dequantised from the GGUF file,
both run in fp32) and tests/fixtures/demo/logits.npz (logits and greedy continuation of one prompt, from the GGUF file's
weights). Needs torch, transformers, tokenizers, safetensors and gguf; a CPU is enough.

Perplexity: heldout.txt as one stream of tokens, cut into windows of 512 that do not overlap (the last may be shorter);
each token is predicted from those before it in its window, the first of each window is not scored.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from export import gguf_name
from gguf.quants import dequantize
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import Qwen3Config, Qwen3ForCausalLM

HERE = Path(__file__).parent
WINDOW = 512
PREFIX_WINDOWS = 4
PROMPT = """\
import os
import sys

def read_lines(path, encoding="utf-8"):
    \"\"\"Return the lines of a file.\"\"\"
    with open(path, encoding=encoding) as file:
        return file.readlines()

def count_words(path):
    """
PROMPT_TOKENS = 48
GREEDY_TOKENS = 16


def with_gguf_weights(model: Qwen3ForCausalLM, path: Path) -> Qwen3ForCausalLM:
    """The same model with every parameter replaced by the file's dequantised values."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    with torch.no_grad():
        for name, parameter in model.model.named_parameters():
            tensor = tensors.pop(gguf_name(f"model.{name}"))
            values = np.array(dequantize(tensor.data, tensor.tensor_type), np.float32)
            parameter.copy_(torch.from_numpy(values).view(parameter.shape))
    if tensors:
        raise SystemExit(f"{path}: tensors that the model does not have: {sorted(tensors)}")
    return model


@torch.no_grad()
def losses(model: Qwen3ForCausalLM, ids: list[int]) -> list[Tensor]:
    """Of each window, the losses (nats) of its scored tokens."""
    found = []
    for start in range(0, len(ids) - 1, WINDOW):
        window = torch.tensor(ids[start : start + WINDOW])
        logits = model(window[None]).logits[0].double()
        found.append(functional.cross_entropy(logits[:-1], window[1:], reduction="none"))
    return found


def perplexity(windows: list[Tensor]) -> float:
    return float(torch.cat(windows).mean().exp())


@torch.no_grad()
def golden(model: Qwen3ForCausalLM, prompt: list[int]) -> dict[str, np.ndarray]:
    """Logits (float32, tokens x vocabulary) of the prompt and the greedy tokens after it with their top-2 margins."""
    ids = list(prompt)
    margins = []
    for _ in range(GREEDY_TOKENS):
        best = model(torch.tensor([ids])).logits[0, -1].topk(2)
        margins.append(float(best.values[0] - best.values[1]))
        ids.append(int(best.indices[0]))
    return {
        "prompt_ids": np.array(prompt, np.int32),
        "logits": model(torch.tensor([prompt])).logits[0].numpy(),
        "greedy_ids": np.array(ids[len(prompt) :], np.int32),
        "greedy_margin": np.array(margins, np.float32),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("build/demo_model/hf"))
    parser.add_argument("--gguf", type=Path, default=Path("models/demo.gguf"))
    parser.add_argument("--fixture", type=Path, default=Path("tests/fixtures/demo/logits.npz"))
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    ids = tokenizer.encode((HERE / "heldout.txt").read_text("utf-8")).ids
    config = Qwen3Config.from_pretrained(arguments.model, attn_implementation="eager")
    model = Qwen3ForCausalLM.from_pretrained(arguments.model, config=config, dtype=torch.float32).eval()

    original = losses(model, ids)
    quantised_model = with_gguf_weights(model, arguments.gguf)
    quantised = losses(quantised_model, ids)
    results = {
        "method": "windows of 512 tokens, stride 512; the first token of a window is not scored; run in fp32",
        "heldout_tokens": len(ids),
        "scored_tokens": sum(map(len, original)),
        "perplexity_bf16": perplexity(original),
        "perplexity_q8_0": perplexity(quantised),
        "prefix_windows": PREFIX_WINDOWS,
        "prefix_perplexity_q8_0": perplexity(quantised[:PREFIX_WINDOWS]),
        "training": json.loads((arguments.model / "training.json").read_text("utf-8")),
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    prompt = tokenizer.encode(PROMPT).ids[:PROMPT_TOKENS]
    arguments.fixture.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(arguments.fixture, **golden(quantised_model, prompt))
    print(json.dumps({key: value for key, value in results.items() if key != "training"}, indent=1))
    print(f"{len(prompt)} prompt tokens, {arguments.fixture.stat().st_size:,} bytes of logits")


if __name__ == "__main__":
    main()
