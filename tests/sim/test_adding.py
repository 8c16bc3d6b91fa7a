"""docs/adding.md is true: architecture, operation, kernels, formats, rounding, layout, cache rows, target, card.

New files only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType

import gguf
import numpy as np
import pytest

from dense_truth import Truth
from imp_codegen import cache, cards, device_code, formats, kernels, layouts, models, ops, rounding, targets
from imp_codegen.checkpoint import open_checkpoint
from imp_codegen.compiler import CompileOptions, compile_model, plan_model
from imp_codegen.kernels.form import Wanted
from imp_runtime.engine import Engine
from imp_runtime.errors import ImpError
from imp_runtime.sampling import SamplingParams
from model_checks import check_kernels, kl_divergence, quiet
from small_gguf import HEAD_DIM, KV_HEADS, LAYERS, tensors_of, write_gguf

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
from imp_codegen.models._blocks import build_decoder
from imp_codegen.models._decoder import Variant, read_decoder
from imp_codegen.ops import Add
from imp_codegen.ops.toy_subtract import Subtract
from imp_codegen.spec import ModelSpec


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    return read_decoder(checkpoint, "toy", Variant())


def build(spec: ModelSpec) -> Graph:
    ops = build_decoder(spec).ops
    return Graph(tuple(Subtract(op.out, op.x, op.y) if isinstance(op, Add) else op for op in ops))
'''
STORAGE = '''"""TQ2_0: blocks of 256 weights -d, 0 or d: qs[64], 2 bits each, then d (ggml-common.h, block_tq2_0)."""
import numpy as np

from imp_codegen.formats import Codes, Format, Part

BLOCK = np.dtype([("qs", "u1", 64), ("d", "V2")])


def split(raw):
    blocks = raw.view(BLOCK)
    qs = blocks["qs"].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None]
    return (qs & 3).reshape(len(raw), -1), np.ascontiguousarray(blocks["d"]).view(np.uint8).reshape(len(raw), -1)


def dequantize(raw):
    codes, d = split(np.ascontiguousarray(raw))
    scales = d.view("<f2").astype(np.float32)
    return ((codes.reshape(*scales.shape, 256).astype(np.float32) - 1) * scales[..., None]).reshape(len(raw), -1)


FORMAT = Format("TQ2_0", 256, (Part(66, 256),), dequantize, ggml_type=35, codes=Codes(256, split, (-1, 0, 1)))
'''
BYTES = '''"""I8: whole numbers, which are no weights by themselves."""
import numpy as np

from imp_codegen.formats import Format, Part

FORMAT = Format("I8", 1, (Part(1, 1),), lambda raw: raw.view(np.int8).astype(np.float32), ggml_type=24)
'''
SPREAD = '''"""SPREAD: codes 0 to 7 for -3 to 4 in one tensor, a float16 scale for 256 columns in another."""
import numpy as np

from imp_codegen.formats import Codes, Format, Part

PARTS = (Part(1, 1), Part(2, 256, rows=4))


def split(raw):
    cols = FORMAT.cols(raw.shape[1])
    return np.ascontiguousarray(raw[:, :cols]), np.ascontiguousarray(raw[:, cols:])


def dequantize(raw):
    codes, scales = split(raw)
    return np.repeat(scales.view("<f2").astype(np.float32), 256, axis=1) * (codes.astype(np.float32) - 3)


FORMAT = Format("SPREAD", 256, PARTS, dequantize, codes=Codes(256, split, tuple(range(-3, 5))), of=("I8", "F16"))
'''
SPREAD_ARCHITECTURE = '''"""Qwen2's layers; each matrix of an MLP is two tensors."""
from imp_codegen.models._blocks import build_decoder
from imp_codegen.models._decoder import Variant, read_decoder
from imp_codegen.models._source import usual
from imp_codegen.sources import Group, Tensor

build = build_decoder


def read_spec(checkpoint):
    return read_decoder(checkpoint, "toy_spread", Variant())


def source(weight, spec, dialect):
    codes = usual(weight, dialect)
    matrix = weight.endswith(("ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"))
    return Group("SPREAD", (codes, Tensor(codes.name.replace("weight", "scale")))) if matrix else codes
'''
ROUNDED = '''"""Eighths, whose float16 is exact up to 256."""
import numpy as np

from imp_codegen.rounding import Rounding


def few(weights):
    return (np.rint(weights * 8) / 8).astype("<f2").view(np.uint8)


ROUNDING = Rounding("eighths", "F16", 1, few, largest=256.0)
'''
PLACING = '''"""OFFSET_CODES: a byte a code, then a float16 scale per 256; code c stands for c - offset."""
import numpy as np

from imp_codegen.formats import Part
from imp_codegen.layouts import Layout, scaled


def arguments(fmt):
    if fmt.codes is None or fmt.codes.per != 256 or not fmt.codes.values:
        return None
    first, *_, last = fmt.codes.values
    return (-first,) if fmt.codes.values == tuple(range(first, last + 1)) else None


def split(fmt, raw):
    return fmt.codes.split(raw)


def decode(fmt, codes, scales):
    return scaled(codes.astype(np.float32) + fmt.codes.values[0], scales)


SECTIONS = (Part(1, 1), Part(2, 256))
LAYOUT = Layout("OFFSET_CODES", "q8", 2048, True, SECTIONS, arguments, split, decode)
'''
LAYOUT = """// Unsigned codes less an offset, and an f16 scale per 256.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

template <TileShape T, int Offset>
struct OFFSET_CODES {
  static constexpr TileShape kTile = T;
  static constexpr bool kInteger = true;
  static constexpr int kVector = 16;
  static constexpr int kScales = round_up(T.rows * T.cols, 16);
  static constexpr int kTileBytes = kScales + round_up(T.rows * T.cols / 128, 16);

  struct Lane {
    uint4 codes;
    std::uint16_t d;
  };
  struct Input {
    uint4 x;
    float d;
  };
  static __device__ __forceinline__ std::uint32_t centred(std::uint32_t codes) {
    return ((codes | 0x80808080u) - Offset * 0x01010101u) ^ 0x80808080u;
  }
  static __device__ __forceinline__ std::uint16_t scale(const std::uint8_t* tile, int row, int col) {
    return reinterpret_cast<const std::uint16_t*>(tile + kScales)[row * (T.cols / 256) + col / 256];
  }

  template <class Memory = Stream>
  static __device__ __forceinline__ Lane load(const std::uint8_t* tile, int row, int vector) {
    const uint4 c = Memory::load16(tile + row * T.cols + vector * 16);
    return {{centred(c.x), centred(c.y), centred(c.z), centred(c.w)}, scale(tile, row, vector * 16)};
  }
  static __device__ __forceinline__ Input input(const Q8Activations& x, int vector) {
    return {x.chunk(vector), bits_to_float(x.scales[vector >> 1].x)};
  }
  static __device__ __forceinline__ float dot(const Lane& w, const Input& in, int, float before) {
    int sum = dp4a(w.codes.x, in.x.x, 0);
    sum = dp4a(w.codes.y, in.x.y, sum);
    sum = dp4a(w.codes.z, in.x.z, sum);
    sum = dp4a(w.codes.w, in.x.w, sum);
    return fma(static_cast<float>(sum), half_to_float(w.d) * in.d, before);
  }
  static __device__ __forceinline__ HalfPairs halfs(const Lane (&w)[2], int, int half) {
    const uint4& c = w[half].codes;
    const std::uint32_t d = twice(half_to_float(w[half].d));
    return WordsOf32{{c.x, c.y, c.z, c.w}}.halfs<128>(0, [&](std::uint32_t pair) { return half2_multiply(pair, d); });
  }
  static __device__ __forceinline__ float value(const std::uint8_t* tile, int row, int col) {
    const int code = tile[row * T.cols + col];
    return half_to_float(scale(tile, row, col)) * static_cast<float>(code - Offset);
  }
};

}  // namespace imp
"""
CACHE = '''"""Eight bits an element, then 16 bytes, the first two a float16 scale."""
import numpy as np

from imp_codegen.cache import CacheFormat

TIE = 1e-3  # of a step between two codes


def keep(x, ties):
    step = (np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)).astype(np.float16).astype(np.float32)
    exact = np.divide(x, step, out=np.zeros_like(x), where=step > 0)
    codes = np.rint(exact)
    if ties:
        codes += np.sign(exact - codes) * (np.abs(exact - codes) > 0.5 - TIE)
    return (codes * step).astype(np.float16).astype(np.float32)


def decode(rows):
    codes = rows[..., :-16].view(np.int8).astype(np.float32)
    scales = np.ascontiguousarray(rows[..., -16:-14]).view("<f2").astype(np.float32)
    return (codes * scales).astype(np.float16).astype(np.float32)


FORMAT = CacheFormat("q8_row", "CacheQ8Row", lambda head_dim: head_dim + 16, keep, decode)
'''
CACHE_LAYOUT = """// Eight bits an element, and a float16 scale.
#pragma once
#include "imp/layout/cache.h"
#include "imp/layout/tile.h"

namespace imp {

template <int HeadDim>
struct CacheQ8Row {
  static constexpr int kHeadDim = HeadDim;
  static constexpr int kRowBytes = HeadDim + 16;

  template <int N, class Columns, class Write>
  static __device__ __forceinline__ void encode(int, const float2 (&v)[N], const Columns& columns, const Write& write) {
    float peak = 0;
#pragma unroll
    for (int i = 0; i < N; i++) {
      if (lane_index() + i * kWarp < HeadDim / 2) peak = max(peak, max(max(v[i].x, -v[i].x), max(v[i].y, -v[i].y)));
    }
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) peak = max(peak, shuffle_xor(peak, mask));
    const std::uint16_t step = float_to_half(peak / 127.0f);
    const float inverse = step != 0 ? 1.0f / half_to_float(step) : 0.0f;
#pragma unroll
    for (int i = 0; i < N; i++) {
      const int pair = lane_index() + i * kWarp;
      if (pair >= HeadDim / 2) continue;
      write(columns.first(pair), static_cast<std::int8_t>(round_int(v[i].x * inverse)));
      write(columns.second(pair), static_cast<std::int8_t>(round_int(v[i].y * inverse)));
    }
    if (lane_index() < 4) write(HeadDim + lane_index() * 4, lane_index() == 0 ? std::uint32_t{step} : 0u);
  }

  template <class Tile>
  static __device__ __forceinline__ void keys(std::uint32_t (&a)[4], const Tile& tile, int step) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const std::uint8_t* row = tile.row(lane_index() / 4 + i % 2 * 8);
      const int column = step * 16 + lane_index() % 4 * 2 + i / 2 * 8;
      a[i] = floats_to_half2(element(row, column), element(row, column + 1));
    }
  }
  template <class Tile>
  static __device__ __forceinline__ void values(std::uint32_t (&a)[4], const Tile& tile, int step) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int row = lane_index() % 4 * 2 + i / 2 * 8;
      const int column = step * 16 + lane_index() / 4 + i % 2 * 8;
      a[i] = floats_to_half2(element(tile.row(row), column), element(tile.row(row + 1), column));
    }
  }
  static __device__ __forceinline__ int place(int position, int chunk) {
    return position % kCacheTokens * kRowBytes + chunk * 8;
  }
  static __device__ __forceinline__ void fetch(std::uint8_t* to, const std::uint8_t* from, int chunk) {
    const std::uint8_t* row = from - chunk * 8;
    auto* pairs = reinterpret_cast<std::uint32_t*>(to);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      pairs[i] = floats_to_half2(element(row, chunk * 8 + 2 * i), element(row, chunk * 8 + 2 * i + 1));
    }
  }

 private:
  static __device__ __forceinline__ float element(const std::uint8_t* row, int column) {
    const float step = half_to_float(*reinterpret_cast<const std::uint16_t*>(row + HeadDim));
    return static_cast<float>(static_cast<std::int8_t>(row[column])) * step;
  }
};

}  // namespace imp
"""
CARD = '''"""Another simulated GPU, with an odd number of multiprocessors and of warps."""
from imp_codegen.cards import Card, Formulas

CARD = Card(
    name="toy_card",
    title="toy",
    target="toy",
    sms=3,
    shared=57 << 10,
    formulas=Formulas(
        gemv_warps=3, stream_slots=2, in_flight=6 << 10, early_ctas=32, early_cols=4096,
        whole_cols=8192,
        lanes=4, short_tile=4200
    ),
    speed=None,
)
'''
TARGET = '''"""What its code may use: little shared memory."""
from imp_codegen.cards.toy_card import CARD
from imp_codegen.targets import Target

TARGET = Target(
    name="toy",
    compiler="g++",
    max_shared=56 * 1024,
    gemv_shared=24 * 1024,
    step_warps=3,
    small_layer=256 << 10,
    small_layer_warps=3,
    attention_per_sm=2,
    sample_threads=96,
    card=CARD,
)
'''
FILES = {
    (ops, "toy_subtract"): OP,
    (kernels, "toy_linear_subtract"): FAMILY,
    (models, "toy"): ARCHITECTURE,
    (models, "toy_spread"): SPREAD_ARCHITECTURE,
    (formats, "tq2_0"): STORAGE,
    (formats, "i8"): BYTES,
    (formats, "spread"): SPREAD,
    (rounding, "eighths"): ROUNDED,
    (layouts, "offset_codes"): PLACING,
    (cache, "q8_row"): CACHE,
    (cards, "toy_card"): CARD,
    (targets, "toy"): TARGET,
}
OWN = ((formats, "tq2_0"), (layouts, "tq2_0"))  # the product's, of all that gguf-py can quantise: added here anew
HEADERS = {"layout/offset_codes.h": LAYOUT, "layout/cache_q8_row.h": CACHE_LAYOUT}
CACHED = (
    kernels.families,
    models.architectures,
    models._classes,
    formats.formats,
    layouts.layouts,
    cache.cache_formats,
    cards.cards,
    targets.targets,
    rounding.roundings,
)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Packages look for their modules in folders beside their own, too, and headers are links beside new ones."""
    for package, name in OWN:
        _hide(tmp_path / "own", monkeypatch, package, name)
    for (package, name), text in FILES.items():
        _add(tmp_path, monkeypatch, package, name, text)
    templates = _templates(tmp_path / "templates")
    monkeypatch.setattr(device_code, "templates", lambda: templates)
    for cached in CACHED:
        cached.cache_clear()
    yield tmp_path
    for package, name in (*FILES, *OWN):
        sys.modules.pop(f"{package.__name__}.{name}", None)
        if hasattr(package, name):
            delattr(package, name)
    for cached in CACHED:
        cached.cache_clear()


def _hide(folder: Path, monkeypatch: pytest.MonkeyPatch, package: ModuleType, name: str) -> None:
    """The package's modules but one."""
    place = folder / package.__name__
    place.mkdir(parents=True)
    for path in Path(package.__path__[0]).glob("*.py"):
        if path.stem != name:
            (place / path.name).symlink_to(path)
    monkeypatch.setattr(package, "__path__", [str(place)])
    sys.modules.pop(f"{package.__name__}.{name}", None)


def _add(folder: Path, monkeypatch: pytest.MonkeyPatch, package: ModuleType, name: str, text: str) -> None:
    place = folder / package.__name__
    place.mkdir(exist_ok=True)
    (place / f"{name}.py").write_text(text, "utf-8")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(place)])


def _templates(folder: Path) -> Path:
    whole = device_code.templates()
    for path in whole.rglob("*"):
        link = folder / path.relative_to(whole)
        if path.is_file():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    for name, text in HEADERS.items():
        assert not (folder / "include" / "imp" / name).exists()
        (folder / "include" / "imp" / name).write_text(text, "utf-8")
    return folder


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


TOKENS = [5, 17, 200, 3, 17, 90, 41, 5, 8, 255]


def test_an_architecture_an_operation_and_a_family(toy: Path) -> None:
    source, artifact = write_gguf(toy / "toy.gguf", "toy"), toy / "toy.impc"
    compile_model(source, artifact, ("sim",), CompileOptions(), quiet)
    truth = Taken(source).logits(TOKENS)
    with closing(Engine.load(artifact, target="sim")) as engine:
        assert kl_divergence(truth, engine.logits(TOKENS)).max() < 1e-5
        assert kl_divergence(Truth(source).logits(TOKENS), engine.logits(TOKENS)).max() > 0.1
        check_kernels(engine)


def test_a_weight_format(toy: Path) -> None:
    """Against gguf-py's decoding, bit for bit where it can be."""
    tensors = ternary_tensors()
    source, artifact = write_gguf(toy / "small.gguf", "qwen2", WIDE, tensors, "TQ2_0"), toy / "small.impc"
    fmt, layout = formats.format_named("TQ2_0"), layouts.layouts()["OFFSET_CODES"]
    stored = gguf.quants.quantize(tensors["blk.0.ffn_up.weight"], gguf.GGMLQuantizationType.TQ2_0)
    tile = layouts.choose_tile(layout, fmt.cols(stored.shape[1]))
    unpacked = layout.unpack(fmt, layout.pack(fmt, stored, tile), len(stored), fmt.cols(stored.shape[1]), tile)
    assert np.array_equal(unpacked, gguf.quants.dequantize(stored, gguf.GGMLQuantizationType.TQ2_0))
    compile_model(source, artifact, ("sim",), CompileOptions(), quiet)
    truth = Truth(source).logits(TOKENS)
    with closing(Engine.load(artifact, target="sim")) as engine:
        assert engine.plan.quant == "TQ2_0"
        assert {plane.layout.partition(":")[0] for plane in engine.plan.planes} == {"OFFSET_CODES", "vector"}
        assert kl_divergence(truth, engine.logits(TOKENS)).mean() < 1e-3  # of int8 activations
        check_kernels(engine)


def spread_tensors() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The MLPs as two tensors a matrix, a scale for four rows; and the floats that all is meant to be."""
    rng, floats = np.random.default_rng(6), ternary_tensors()
    stored: dict[str, np.ndarray] = dict(floats)
    kind = gguf.GGMLQuantizationType.TQ2_0
    for name, tensor in tuple(floats.items()):
        if tensor.ndim == 1:
            continue
        floats[name] = gguf.quants.dequantize(gguf.quants.quantize(tensor, kind), kind)
        if "ffn_" in name:
            codes = rng.integers(0, 8, tensor.shape, np.int8)
            scales = rng.uniform(0.01, 0.03, (len(tensor) // 4, 1)).astype(np.float16)
            stored |= {name: codes, name.replace("weight", "scale"): scales}
            floats[name] = np.repeat(scales, 4, axis=0).astype(np.float32) * (codes.astype(np.float32) - 3)
    return stored, floats


def test_a_format_of_two_tensors_that_shares_a_layout(toy: Path) -> None:
    stored, floats = spread_tensors()
    source = write_gguf(toy / "spread.gguf", "toy_spread", WIDE, stored, "TQ2_0")
    truth = Truth(write_gguf(toy / "floats.gguf", "toy_spread", WIDE, floats)).logits(TOKENS)
    artifact = toy / "spread.impc"
    compile_model(source, artifact, ("sim",), CompileOptions(), quiet)
    with closing(Engine.load(artifact, target="sim")) as engine:
        assert set(engine.plan.quant.split("+")) == {"SPREAD", "TQ2_0"}
        text = engine.artifact.read("source/sim.cu").decode()
        offsets = set(re.findall(r"imp::OFFSET_CODES<imp::TileShape\{[^}]*\}, (\d+)>", text))
        assert offsets == {"1", "3"}
        assert kl_divergence(truth, engine.logits(TOKENS)).mean() < 1e-3  # of int8 activations
        check_kernels(engine)


def test_a_format_that_no_layout_takes(toy: Path) -> None:
    source = write_gguf(toy / "small.gguf", "qwen2", tensors={"blk.1.ffn_up.weight": np.zeros((128, 64), np.int8)})
    assert "OFFSET_CODES" in layouts.layouts()
    words = f"blk.1.ffn_up.weight is I8, but no layout takes I8; there are {', '.join(layouts.layouts())}"
    with pytest.raises(ImpError, match=words):
        compile_model(source, toy / "small.impc", ("sim",), CompileOptions(), quiet)


def test_a_rounding(toy: Path) -> None:
    source = write_gguf(toy / "small.gguf", "qwen2")
    options = CompileOptions(weights="eighths")
    with closing(open_checkpoint(source)) as checkpoint:
        compiled = plan_model(checkpoint, (targets.find_target("sim"),), options)
        weight = compiled.weights["blk.1.ffn_up.weight"]
        found = weight.format.dequantize(weight.rows(0, 128))
    exact = tensors_of("qwen2")["blk.1.ffn_up.weight"]
    assert weight.format.name == "F16"
    assert np.array_equal(found, np.rint(exact * 8) / 8)
    assert not np.array_equal(found, exact)


WIDE = {"embedding_length": 256, "feed_forward_length": 256, "attention.head_count": 16}


def ternary_tensors() -> dict[str, np.ndarray]:
    """The small model's, 256 wide: rows are whole blocks."""
    rng = np.random.default_rng(4)
    tensors: dict[str, np.ndarray] = {}
    for name, small in tensors_of("qwen2").items():
        rows = (
            256
            if name.endswith(("attn_q.weight", "_output.weight", "_gate.weight", "_up.weight", "_down.weight"))
            else len(small)
        )
        tensors[name] = (
            rng.uniform(0.5, 1.5, 256).astype(np.float32)
            if small.ndim == 1
            else (rng.standard_normal((rows, 256)) / 16).astype(np.float32)
        )
    return tensors


class EightBits(Truth):
    """Keys and values are rounded to a multiple of a 127th of the largest in their row."""

    def rotate(self, x: np.ndarray) -> np.ndarray:
        turned = super().rotate(x)
        return self.kept(turned) if x.shape[1] == KV_HEADS else turned

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        y = super().linear(name, x)
        return self.kept(y.reshape(len(x), KV_HEADS, -1)).reshape(y.shape) if name.endswith("attn_v") else y

    @staticmethod
    def kept(rows: np.ndarray) -> np.ndarray:
        step = (np.abs(rows).max(axis=-1, keepdims=True) / 127).astype(np.float16).astype(np.float64)
        return (np.rint(rows / step) * step).astype(np.float16).astype(np.float64)


@pytest.mark.parametrize("form", ["graph", "persistent"])
def test_cache_rows(toy: Path, form: Wanted) -> None:
    source, artifact = write_gguf(toy / "small.gguf", "qwen2"), toy / "small.impc"
    compile_model(source, artifact, ("sim",), CompileOptions(kv="q8_row", form=form, check=True), quiet)
    truth, exact = EightBits(source).logits(TOKENS), Truth(source).logits(TOKENS)
    with closing(Engine.load(artifact, target="sim")) as engine:
        assert engine.plan.state[0].format == "q8_row"
        assert engine.plan.block_bytes == LAYERS * 2 * KV_HEADS * 16 * (HEAD_DIM + 16)
        found = engine.logits(TOKENS)
        assert kl_divergence(truth, found).mean() < 0.2 * kl_divergence(exact, found).mean()
        greedy = list(engine.generate(TOKENS, SamplingParams(max_tokens=30, ignore_eos=True)))
        steps = EightBits(source).logits([*TOKENS, *greedy[:-1]])[len(TOKENS) - 1 :]
        assert greedy == steps.argmax(axis=-1).tolist()
        if form == "graph":
            check_kernels(engine)


def test_an_unknown_format_of_cache_rows_names_the_known(toy: Path) -> None:
    source = write_gguf(toy / "small.gguf", "qwen2")
    with pytest.raises(ImpError, match="unknown cache format 'q9'; known: f16, q8_row"):
        compile_model(source, toy / "small.impc", ("sim",), CompileOptions(kv="q9"), quiet)


@pytest.mark.parametrize("form", ["graph", "persistent"])
def test_a_target(toy: Path, form: Wanted) -> None:
    source, artifact = write_gguf(toy / "small.gguf", "qwen2"), toy / "small.impc"
    compile_model(source, artifact, ("sim", "toy"), CompileOptions(form=form), quiet)
    truth = Truth(source).logits(TOKENS)
    answers = []
    for target in ("sim", "toy"):
        with closing(Engine.load(artifact, target=target)) as engine:
            assert engine.target == target
            kernels = engine.runner.target.program("step_r1").kernels
            assert {kernel.block for kernel in kernels} & ({96, 128} if target == "toy" else {128, 160})
            assert kl_divergence(truth, engine.logits(TOKENS)).max() < 1e-5
            answers.append(list(engine.generate(TOKENS, SamplingParams(max_tokens=6, ignore_eos=True))))
    assert answers[0] == answers[1]
