"""Small models as families of architectures have them around their products: as imp reads them, and in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

import small_gguf
from activations import gated
from dense_truth import Floats, Truth
from imp_codegen.graph import Graph, Op, Value, Weight
from imp_codegen.models import llama
from imp_codegen.ops import Linear, RmsNorm, ScaleBy
from imp_codegen.spec import Activation, Biased, ModelSpec, Norms
from imp_runtime.artifact import Artifact
from imp_runtime.device import Device
from imp_runtime.engine import Engine
from model_checks import check_kernels
from small_gguf import HEAD_DIM, HEADS, HIDDEN, KV_HEADS, LAYERS, VOCAB, WIDTH, vector, write_gguf
from two_forms import BothForms

ROWS: Mapping[Biased, tuple[str, int]] = {
    "q": ("attn_q", HEADS * HEAD_DIM),
    "k": ("attn_k", KV_HEADS * HEAD_DIM),
    "v": ("attn_v", KV_HEADS * HEAD_DIM),
    "output": ("attn_output", HIDDEN),
    "gate": ("ffn_gate", WIDTH),
    "up": ("ffn_up", WIDTH),
    "down": ("ffn_down", HIDDEN),
}
CPP = {"silu": "Silu", "gelu": "Gelu", "gelu_tanh": "GeluTanh", "clamped_silu": "ClampedSilu"}


@dataclass(frozen=True)
class Family:
    """How its models differ from Llama. `unweighted`: the norms before each branch have no weight."""

    norms: Norms = "pre"
    activation: Activation = "silu"
    biases: tuple[Biased, ...] = ()
    head_bias: bool = False
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    softcap: float = 0.0
    unweighted: bool = False
    stream_scale: float = 1.0  # of the residual stream behind the first layer; more behind the next

    def spec(self, spec: ModelSpec) -> ModelSpec:
        layers = tuple(
            replace(layer, norms=self.norms, ffn=replace(layer.ffn, activation=self.activation))
            for layer in spec.layers
        )
        return replace(
            spec,
            layers=layers,
            embedding_scale=self.embedding_scale,
            residual_scale=self.residual_scale,
            logit_scale=self.logit_scale,
            logit_softcap=self.softcap,
        )

    def graph(self, graph: Graph) -> Graph:
        def changed(op: Op) -> Op:
            if self.head_bias and isinstance(op, Linear) and op.out.name == "logits":
                return replace(op, bias=Weight("output.bias", 1, VOCAB))
            if self.unweighted and isinstance(op, RmsNorm) and op.out.name.endswith(("attn_norm", "ffn_norm")):
                return replace(op, weight=None)
            return op

        ops: list[Op] = []
        scaled: dict[Value, Value] = {}
        for op in map(changed, graph.ops):
            reads = {field: scaled[value] for field, value in values(op).items() if value in scaled}
            ops.append(replace(op, **reads))
            if self.stream_scale != 1 and op.out.name.endswith(".residual"):
                scaled[op.out] = Value(f"{op.out.name}.scaled", op.out.width)
                weight = Weight(f"{op.out.name.replace('layers', 'blk')}_scale.weight", 1, 1)
                ops.append(ScaleBy(scaled[op.out], op.out, weight))
        return Graph(tuple(ops))


def values(op: Op) -> dict[str, Value]:
    """What an operation reads, by field."""
    found = {field.name: getattr(op, field.name) for field in fields(op) if field.name != "out"}
    return {name: value for name, value in found.items() if isinstance(value, Value)}


FAMILIES = {
    "gelu, all biases": Family(activation="gelu", biases=("q", "k", "v", "output", "gate", "up", "down")),
    "gpt-oss": Family(activation="clamped_silu", biases=("q", "k", "v", "output", "gate", "up", "down")),
    "some biases": Family(biases=("q", "v", "up"), head_bias=True),
    "granite": Family(embedding_scale=12.0, residual_scale=0.22, logit_scale=1 / 16),
    "gemma": Family(norms="both", activation="gelu_tanh", embedding_scale=HIDDEN**0.5, softcap=30.0),
    "gemma 4": Family(norms="both", activation="gelu_tanh", embedding_scale=HIDDEN**0.5, stream_scale=0.75),
    "olmo": Family(norms="post", biases=("output", "gate", "down")),
    "norms without weights": Family(unweighted=True, logit_scale=0.5, softcap=20.0, head_bias=True),
}


class FamilyTruth(Truth):
    """The same model in float64."""

    def __init__(self, path: Path, family: Family) -> None:
        super().__init__(path)
        self.family = family

    def before(self, name: str, x: Floats) -> Floats:
        if self.family.norms == "post":
            return x
        if self.family.unweighted:
            self.tensors[f"{name}.weight"] = np.ones(x.shape[-1])
        return self.norm(name, x)

    def add(self, x: Floats, name: str, y: Floats) -> Floats:
        return x + self.family.residual_scale * (y if self.family.norms == "pre" else self.norm(name, y))

    def hidden(self, tokens: list[int]) -> Floats:
        x = self.tensors["token_embd.weight"][tokens] * self.family.embedding_scale
        for layer in range(LAYERS):
            block = f"blk.{layer}"
            attended = self.attention(block, self.before(f"{block}.attn_norm", x))
            x = self.add(x, f"{block}.post_attention_norm", attended)
            normed = self.before(f"{block}.ffn_norm", x)
            gate, up = self.linear(f"{block}.ffn_gate", normed), self.linear(f"{block}.ffn_up", normed)
            inner = gated(CPP[self.family.activation], gate, up)
            x = self.add(x, f"{block}.post_ffw_norm", self.linear(f"{block}.ffn_down", inner))
            x = x * self.tensors.get(f"{block}.residual_scale.weight", 1.0)
        return self.norm("output_norm", x)

    def logits(self, tokens: list[int]) -> Floats:
        logits = super().logits(tokens) * self.family.logit_scale
        cap = self.family.softcap
        return cap * np.tanh(logits / cap) if cap else logits


def source(path: Path, family: Family, quant: str, hidden: int = HIDDEN) -> Path:
    """A small model of the family."""
    rng = np.random.default_rng(11)
    tensors: dict[str, np.ndarray | None] = {}
    for layer in range(LAYERS):
        for part in family.biases:
            name, rows = ROWS[part]
            rows = hidden if rows == HIDDEN and part in ("output", "down") else rows
            tensors[f"blk.{layer}.{name}.bias"] = rng.standard_normal(rows).astype(np.float32)
        if family.stream_scale != 1:
            factor = np.array([family.stream_scale + layer / 8], np.float32)
            tensors[f"blk.{layer}.residual_scale.weight"] = factor
        pre, post = ("attn_norm", "ffn_norm"), ("post_attention_norm", "post_ffw_norm")
        if family.norms != "pre":
            tensors |= {f"blk.{layer}.{name}.weight": vector(rng, hidden) for name in post}
        if family.norms == "post" or family.unweighted:
            tensors |= {f"blk.{layer}.{name}.weight": None for name in pre}
    if family.head_bias:
        tensors["output.bias"] = rng.standard_normal(VOCAB).astype(np.float32) * 3
    with patch.object(small_gguf, "HIDDEN", hidden):
        return write_gguf(path, "llama", tensors=tensors, quant=quant)


@contextmanager
def read_as(family: Family) -> Iterator[None]:
    """Llama read and built as the family is."""
    read, build = llama.read_spec, llama.build
    with (
        patch.object(llama, "read_spec", lambda checkpoint: family.spec(read(checkpoint))),
        patch.object(llama, "build", lambda spec: family.graph(build(spec))),
    ):
        yield


TOKENS = [5, 17, 200, 3, 17, 90, 41, 5, 8, 255, 77, 30]


def check_both_forms(artifact: Path, device: Callable[[], Device], path: Path, family: Family, allowed: float) -> None:
    """Step by step, as a prompt and kernel by kernel; `allowed`: of the largest logit. Who loads a device closes it."""
    truth = FamilyTruth(path, family)
    logits, hidden = truth.logits(TOKENS), truth.hidden(TOKENS)
    atol = allowed * np.abs(logits).max()
    with BothForms(artifact, device()) as forms:
        for token, wanted in zip(TOKENS, logits, strict=True):
            graph, persistent = forms.step(token)
            np.testing.assert_array_equal(graph.logits, persistent.logits)
            np.testing.assert_allclose(graph.logits, wanted, rtol=0, atol=atol)
            assert graph.token == persistent.token == graph.logits.argmax()
    with Engine(Artifact.open(artifact), device()) as engine:
        np.testing.assert_allclose(engine.logits(TOKENS), logits, rtol=0, atol=atol)
        np.testing.assert_allclose(engine.hidden(TOKENS), hidden, rtol=0, atol=0.04 * np.abs(hidden).max())
        check_kernels(engine)
