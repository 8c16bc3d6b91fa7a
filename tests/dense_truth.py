"""A dense decoder in float64 numpy, straight from a GGUF file as gguf-py reads it: the truth of small models.

Whatever such a file can say about llama, qwen2 and qwen3 is here as llama.cpp means it, whether imp takes it or not.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

Floats = np.ndarray


class Truth:
    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.keys = {name: field.contents() for name, field in reader.fields.items()}
        self.arch = self.keys["general.architecture"]
        self.tensors = {
            t.name: np.asarray(gguf.quants.dequantize(t.data, t.tensor_type), np.float64) for t in reader.tensors
        }
        for name in [name for name in self.tensors if name.endswith(".scale")]:
            self.tensors[name.replace(".scale", ".weight")] *= self.tensors.pop(name)  # NVFP4's factor
        if self.arch == "phi3":
            self.take_apart()

    def take_apart(self) -> None:
        """phi3's q, k and v are one matrix, gate and up another."""
        heads, keys = (int(self.get(f"attention.head_count{kind}", 0)) for kind in ("", "_kv"))
        dim = int(self.get("embedding_length", 0)) // heads
        for layer in range(int(self.get("block_count", 0))):
            block = f"blk.{layer}"
            qkv = np.split(self.tensors.pop(f"{block}.attn_qkv.weight"), np.cumsum([heads, keys]) * dim)
            self.tensors |= {f"{block}.attn_{part}.weight": rows for part, rows in zip("qkv", qkv, strict=True)}
            halves = np.split(self.tensors.pop(f"{block}.ffn_up.weight"), 2)
            self.tensors |= dict(zip((f"{block}.ffn_gate.weight", f"{block}.ffn_up.weight"), halves, strict=True))

    def get(self, key: str, default: float) -> float:
        value = self.keys.get(f"{self.arch}.{key}", default)
        return float(value[0] if isinstance(value, list) else value)

    def linear(self, name: str, x: Floats) -> Floats:
        return x @ self.tensors[f"{name}.weight"].T + self.tensors.get(f"{name}.bias", 0.0)

    def norm(self, name: str, x: Floats) -> Floats:
        eps = self.get("attention.layer_norm_rms_epsilon", 0)
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * self.tensors[f"{name}.weight"]

    def rotate(self, x: Floats) -> Floats:
        """x[tokens, heads, dim], of each head perhaps its first elements only; llama turns neighbours, others not."""
        dim = int(self.get("rope.dimension_count", x.shape[-1]))
        if dim < x.shape[-1]:
            return np.concatenate([self.turned(x[..., :dim]), x[..., dim:]], axis=-1)
        return self.turned(x)

    def turned(self, x: Floats) -> Floats:
        dim = x.shape[-1]
        frequency = self.get("rope.freq_base", 10000) ** (-np.arange(0, dim, 2) / dim)
        frequency /= self.tensors.get("rope_freqs.weight", 1.0)
        if self.keys.get(f"{self.arch}.rope.scaling.type", "linear") == "linear":
            frequency /= self.get("rope.scaling.factor", self.get("rope.scale_linear", 1))
        magnitude = 1.0
        if self.keys.get(f"{self.arch}.rope.scaling.type") == "yarn":
            frequency, magnitude = self.yarn(frequency, dim)
        turned = magnitude * np.exp(1j * np.arange(len(x))[:, None] * frequency)[:, None, :]
        first, second = (
            (x[..., 0::2], x[..., 1::2]) if self.arch == "llama" else (x[..., : dim // 2], x[..., dim // 2 :])
        )
        result = (first + 1j * second) * turned
        out = np.empty_like(x)
        if self.arch == "llama":
            out[..., 0::2], out[..., 1::2] = result.real, result.imag
        else:
            out[..., : dim // 2], out[..., dim // 2 :] = result.real, result.imag
        return out

    def yarn(self, frequency: Floats, dim: int) -> tuple[Floats, float]:
        """https://arxiv.org/abs/2309.00071, with the rounding of both implementations."""
        factor, base = self.get("rope.scaling.factor", 1), self.get("rope.freq_base", 10000)
        context = self.get("rope.scaling.original_context_length", 0)

        def pair(turns: float) -> float:
            return dim * np.log(context / (2 * np.pi * turns)) / (2 * np.log(base))

        fast, slow = self.get("rope.scaling.yarn_beta_fast", 32), self.get("rope.scaling.yarn_beta_slow", 1)
        low, high = max(np.floor(pair(fast)), 0), min(np.ceil(pair(slow)), dim - 1)
        ramp = np.array([min(max((p - low) / max(high - low, 0.001), 0), 1) for p in range(dim // 2)])
        return frequency / factor * ramp + frequency * (1 - ramp), 0.1 * np.log(factor) + 1

    def attention(self, block: str, x: Floats) -> Floats:
        heads = int(self.get("attention.head_count", 0))
        dim = int(self.get("attention.key_length", self.get("embedding_length", 0) // heads))
        q, k, v = (self.linear(f"{block}.attn_{part}", x).reshape(len(x), -1, dim) for part in "qkv")
        if self.arch == "qwen3":
            q, k = self.norm(f"{block}.attn_q_norm", q), self.norm(f"{block}.attn_k_norm", k)
        q, k = self.rotate(q), self.rotate(k)
        k, v = (np.repeat(y, heads // y.shape[1], axis=1) for y in (k, v))
        scores = np.einsum("thd,lhd->htl", q, k) * (self.get("attention.scale", 0) or dim**-0.5)
        seen = np.tri(len(x), dtype=bool)
        if window := int(self.get("attention.sliding_window", 0)):
            seen &= ~np.tri(len(x), k=-window, dtype=bool)
        scores = np.where(seen, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return self.linear(f"{block}.attn_output", np.einsum("htl,lhd->thd", weights, v).reshape(len(x), -1))

    def logits(self, tokens: list[int]) -> Floats:
        """float64[tokens, vocabulary]"""
        return self.linear("output" if "output.weight" in self.tensors else "token_embd", self.hidden(tokens))

    def hidden(self, tokens: list[int]) -> Floats:
        """Behind the final norm: float64[tokens, width]"""
        x = self.tensors["token_embd.weight"][tokens]
        for layer in range(int(self.get("block_count", 0))):
            block = f"blk.{layer}"
            x = x + self.attention(block, self.norm(f"{block}.attn_norm", x))
            normed = self.norm(f"{block}.ffn_norm", x)
            gate = self.linear(f"{block}.ffn_gate", normed)
            x = x + self.linear(
                f"{block}.ffn_down", gate / (1 + np.exp(-gate)) * self.linear(f"{block}.ffn_up", normed)
            )
        return self.norm("output_norm", x)
