"""docs/adding.md is true: an architecture, its operation and its kernels come from new files only."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dense_truth import Truth
from imp_codegen import kernels, models, ops
from imp_codegen.compiler import CompileOptions, compile_model
from imp_runtime.engine import Engine
from model_checks import check_kernels, kl_divergence, quiet
from small_gguf import write_gguf

OP = '''"""A difference."""
from dataclasses import dataclass

from imp_codegen.graph import Evaluation, Floats, Op, Value


@dataclass(frozen=True, slots=True)
class Subtract(Op):
    """out = x - y."""

    x: Value
    y: Value

    def fits(self) -> bool:
        return self.out.width == self.x.width == self.y.width

    def evaluate(self, at: Evaluation, *read: Floats) -> Floats:
        return read[0] - read[1]
'''
FAMILY = '''"""A product that is taken from the residual stream: an addition with the scale -1."""
from dataclasses import dataclass

from imp_codegen.graph import Edges, Op
from imp_codegen.kernels import linear_add
from imp_codegen.kernels.kernel_spec import KernelSpec
from imp_codegen.kernels.linear_add import LinearAdd
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.family import Match
from imp_codegen.kernels.vector import vector_from
from imp_codegen.ops import Add, Gated, Linear
from imp_codegen.ops.toy_subtract import Subtract


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSubtract(Match):
    """X -= W input."""

    added: LinearAdd

    def lower(self, low: Lowering) -> tuple[KernelSpec, ...]:
        return self.added.lower(low)


def match(edges: Edges, op: Op, rows: int) -> LinearSubtract | None:
    """A matrix whose result only a subtraction takes away."""
    vector = vector_from(edges, op, rows) if isinstance(op, Linear | Gated) else None
    linear = edges.only_reader(op.out) if isinstance(op, Gated) else op
    if vector is None or not isinstance(linear, Linear):
        return None
    minus = edges.only_reader(linear.out)
    if not isinstance(minus, Subtract) or minus.y != linear.out:
        return None
    add = Add(minus.out, minus.x, minus.y, -1.0)
    shared = dict(
        reads=(*vector.reads, (minus.x,)),
        writes=((minus.out,),),
        over={minus.out: minus.x},
    )
    added = LinearAdd(ops=(*vector.ops, linear, add), vector=vector, linear=linear, add=add, **shared)
    return LinearSubtract(ops=(*vector.ops, linear, minus), added=added, **shared)
'''
ARCHITECTURE = '''"""Qwen2's layers, but what they make is taken away."""
from imp_codegen.checkpoint import Checkpoint
from imp_codegen.graph import Graph
from imp_codegen.models._decoder import Variant, build_decoder, read_decoder
from imp_codegen.ops import Add
from imp_codegen.ops.toy_subtract import Subtract
from imp_codegen.spec import ModelSpec


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    return read_decoder(checkpoint, "toy", Variant())


def build(spec: ModelSpec) -> Graph:
    ops = build_decoder(spec).ops
    return Graph(tuple(Subtract(op.out, op.x, op.y) if isinstance(op, Add) else op for op in ops))
'''
FILES = {
    (ops, "toy_subtract"): OP,
    (kernels, "toy_linear_subtract"): FAMILY,
    (models, "toy"): ARCHITECTURE,
}
CACHED = (kernels.families, models.architectures, models._classes)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Packages look for their modules in folders beside their own, too."""
    for (package, name), text in FILES.items():
        _add(tmp_path, monkeypatch, package, name, text)
    for cached in CACHED:
        cached.cache_clear()
    yield tmp_path
    for package, name in FILES:
        sys.modules.pop(f"{package.__name__}.{name}", None)
        if hasattr(package, name):
            delattr(package, name)
    for cached in CACHED:
        cached.cache_clear()


def _add(folder: Path, monkeypatch: pytest.MonkeyPatch, package: ModuleType, name: str, text: str) -> None:
    place = folder / package.__name__
    place.mkdir(exist_ok=True)
    (place / f"{name}.py").write_text(text, "utf-8")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(place)])


class Taken(Truth):
    """The float64 truth of the model whose layers' results are taken away."""

    def hidden(self, tokens: list[int]) -> np.ndarray:
        x = self.tensors["token_embd.weight"][tokens]
        for layer in range(int(self.get("block_count", 0))):
            block = f"blk.{layer}"
            x = x - self.attention(block, self.norm(f"{block}.attn_norm", x))
            normed = self.norm(f"{block}.ffn_norm", x)
            gate = self.linear(f"{block}.ffn_gate", normed)
            inner = gate / (1 + np.exp(-gate)) * self.linear(f"{block}.ffn_up", normed)
            x = x - self.linear(f"{block}.ffn_down", inner)
        return self.norm("output_norm", x)


def test_a_toy_from_new_files(toy: Path) -> None:
    source, artifact = write_gguf(toy / "toy.gguf", "toy"), toy / "toy.impc"
    compile_model(source, artifact, ("sim",), CompileOptions(), quiet)
    tokens = [5, 17, 200, 3, 17, 90, 41, 5, 8, 255]
    truth = Taken(source).logits(tokens)
    with closing(Engine.load(artifact, target="sim")) as engine:
        assert kl_divergence(truth, engine.logits(tokens)).max() < 1e-5
        assert kl_divergence(Truth(source).logits(tokens), engine.logits(tokens)).max() > 0.1
        check_kernels(engine)
