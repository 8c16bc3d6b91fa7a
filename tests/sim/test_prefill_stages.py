"""The prefill stages but attention on the CPU, against float64 numpy."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sim_library import compile_sim

from activations import gated
from imp_codegen.formats import format_named
from imp_codegen.layouts import Layout, Tile, layouts
from random_rows import place, random_rows

Array = NDArray[Any]
POISON = 0x7FC0BEEF  # a NaN where nothing may be read
POST_EPS = 1e-3
UP = 8  # floats of a token's row beside those that a gate multiplies


@dataclass(frozen=True)
class Gemm:
    """A matrix product; `tile` is the layout's tile shape."""

    format: str
    rows: int
    cols: int
    tokens: int
    stride: int
    offset: int = 0
    accumulate: bool = False
    bias: bool = False
    scale: float = 1.0
    cap: float = 0.0
    tile: tuple[int, int] = (2, 256)

    def place(self) -> tuple[Layout, Tile, str]:
        return place(format_named(self.format), self.rows, self.cols, Tile(*self.tile))

    def stage(self) -> str:
        config = (
            f".rows = {self.rows}, .cols = {self.cols}, .tokens = {self.tokens}, .stride = {self.stride}, "
            f".offset = {self.offset}, .accumulate = {str(self.accumulate).lower()}, .bias = {str(self.bias).lower()}, "
            f".scale = {self.scale}f, .cap = {self.cap}f"
        )
        return f"imp::GemmBf16<imp::GemmConfig{{{config}}}, {self.place()[2]}>"


@dataclass(frozen=True)
class Encode:
    """An encoder of activations."""

    cols: int
    source: str = "plain"
    dense: bool = True
    tokens: int = 32
    eps: float = 1e-5
    weighted: bool = True
    activation: str = "Silu"
    post: bool = False
    scaled: bool = False  # the sum
    keep: bool = True
    panels: bool = False
    fragments: bool = False
    peak: int = 14

    @property
    def struct(self) -> int:
        """Pointers to what is encoded."""
        return 2 if self.source == "gated" else 3 + self.scaled if self.post else 0

    def stage(self) -> str:
        flags = {"norm": self.source == "norm", "gated": self.source == "gated", "dense": self.dense}
        late = {"weighted": self.weighted, "post": self.post}
        fields, more = (
            ", ".join(f".{name} = {str(value).lower()}" for name, value in each.items()) for each in (flags, late)
        )
        config = (
            f".cols = {self.cols}, .tokens = {self.tokens}, {fields}, .eps = {self.eps}f, {more}, "
            f".post_eps = {POST_EPS}f, .scaled = {str(self.scaled).lower()}, .keep = {str(self.keep).lower()}"
        )
        if self.source == "gated":
            config += f", .gate_stride = {self.cols}, .up_stride = {self.cols + UP}"
        config += (
            f", .panels = {str(self.panels).lower()}, .fragments = {str(self.fragments).lower()}, .peak = {self.peak}"
        )
        return f"imp::EncodeActivations<imp::ActivationsConfig{{{config}}}, imp::{self.activation}>"


@dataclass(frozen=True)
class Norm:
    """The norm of every token in floats; of the sum with a branch, if `post`."""

    cols: int
    post: bool = False
    weighted: bool = True
    tokens: int = 32

    def stage(self) -> str:
        flags = f".weighted = {str(self.weighted).lower()}, .post = {str(self.post).lower()}, .post_eps = {POST_EPS}f"
        return f"imp::NormChunk<imp::NormChunkConfig{{.cols = {self.cols}, .threads = 96, .eps = 1e-5f, {flags}}}>"


GEMMS = {
    "f32": Gemm("F32", rows=40, cols=80, tokens=32, stride=41, offset=1, tile=(8, 80)),
    "bf16_odd": Gemm("BF16", rows=34, cols=176, tokens=64, stride=34, tile=(2, 16)),
    "f16": Gemm("F16", rows=66, cols=256, tokens=64, stride=66, accumulate=True, bias=True, tile=(2, 128)),
    "bf16": Gemm("BF16", rows=64, cols=64, tokens=128, stride=64, tile=(8, 64)),
    "scaled": Gemm(
        "F16", rows=70, cols=224, tokens=32, stride=70, accumulate=True, bias=True, scale=0.22, tile=(4, 32)
    ),
    "capped": Gemm("BF16", rows=33, cols=64, tokens=32, stride=33, bias=True, scale=0.125, cap=2.0, tile=(8, 64)),
    # the same sums, in a chunk of another size
    "bf16_t32": Gemm("BF16", rows=64, cols=64, tokens=32, stride=64, tile=(8, 64)),
}
ENCODERS = {
    "encode": Encode(cols=224),
    "encode_floats": Encode(cols=176, source="norm"),
    "encode_norm": Encode(cols=1056, source="norm"),
    "encode_swiglu": Encode(cols=96, source="gated"),
    "encode_dense": Encode(cols=96, source="norm"),
    "encode_gelu": Encode(cols=96, source="gated", activation="Gelu"),
    "encode_gelu_tanh": Encode(cols=96, source="gated", activation="GeluTanh"),
    "encode_unweighted": Encode(cols=96, source="norm", weighted=False),
    "encode_post": Encode(cols=1056, post=True),
    "encode_post_scaled": Encode(cols=96, source="norm", post=True, scaled=True),
    "encode_post_scaled_alone": Encode(cols=224, post=True, scaled=True),
    "encode_post_norm": Encode(cols=2080, source="norm", post=True),
    "encode_post_last": Encode(cols=96, source="norm", post=True, keep=False),
    "encode_panels": Encode(cols=224, dense=False, panels=True),
    "encode_panels_norm": Encode(cols=1056, source="norm", dense=False, panels=True, peak=4),
    "encode_clamped_silu": Encode(cols=96, source="gated", activation="ClampedSilu"),
    "encode_panels_gelu": Encode(cols=96, source="gated", dense=False, panels=True, activation="Gelu"),
    "encode_fragments": Encode(cols=224, source="norm", dense=False, panels=True, fragments=True),
    "encode_panels_post": Encode(cols=256, source="norm", dense=False, panels=True, post=True, scaled=True),
}
NORMS = {
    "norm": Norm(cols=388),
    "norm_unweighted": Norm(cols=64, weighted=False),
    "norm_post": Norm(cols=800, post=True),
}
VOCAB = 300
WIDTH = 96  # of an embedding row
SCALE = 1.25


@dataclass(frozen=True)
class Entry:
    """A stage, the number of its pointers, how many of the first make a struct, and CTAs if it has no shape."""

    stage: str
    pointers: int
    struct: int = 0
    ctas: int = 0

    def source(self, name: str) -> str:
        """The entry and, beside it, its launch shape."""
        given = [f"Any{{a{i}}}" for i in range(self.pointers)]
        arguments = [f"{{{', '.join(given[: self.struct])}}}"] * bool(self.struct) + given[self.struct :]
        grid = f"{self.ctas}, 1, 1" if self.ctas else ", ".join(f"s_{name}::kGrid{axis}" for axis in "XYZ")
        return (
            f"using s_{name} = {self.stage};\n"
            f'extern "C" void {name}({", ".join(f"void* a{i}" for i in range(self.pointers))}) '
            f"{{ s_{name}::run({{{', '.join(arguments)}}}); }}\n"
            f'extern "C" const int {name}_shape[5] = {{{grid}, s_{name}::kThreads, s_{name}::kSharedBytes}};\n'
        )


def stages() -> dict[str, Entry]:
    """Every entry."""
    found = {name: Entry(case.stage(), 5) for name, case in GEMMS.items()}
    found |= {name: Entry(case.stage(), 6 + (case.struct or 1), case.struct) for name, case in ENCODERS.items()}
    found |= {name: Entry(case.stage(), 4 + 2 * case.post, 3 * case.post, case.tokens) for name, case in NORMS.items()}
    rows = f"imp::Matrix<imp::F16<imp::TileShape{{2, 32}}>, {VOCAB}, {WIDTH}>"
    for stage, ctas in (("EmbedRow", -(-WIDTH // 64)), ("EmbedRows", 32)):
        config = f"imp::EmbedConfig{{.threads = 64, .scale = {SCALE}f}}"
        found[stage] = Entry(f"imp::{stage}<{config}, {rows}>", 5, ctas=ctas)
    return found | {"advance": Entry("imp::Advance<32>", 3)}


def source() -> str:
    """All of them as one file."""
    headers = ["stage/embed", "stage/encode_activations", "stage/advance"]
    headers += ["stage/gemm_bf16", "stage/norm_chunk"]
    headers += [f"layout/{name.lower()}" for name in layouts()]
    lines = [f'#include "imp/{name}.h"' for name in headers]
    lines.append("struct Any { void* p; template <class T> operator T*() const { return static_cast<T*>(p); } };")
    return "\n".join([*lines, *(entry.source(name) for name, entry in stages().items())])


class Kernels:
    """The compiled stages."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.imp_sim_error.restype = ctypes.c_char_p
        self.library.imp_sim_configure(2, 0, ctypes.c_uint64(1))

    def run(self, name: str, *arrays: Array | None) -> None:
        shape = (ctypes.c_int * 5).in_dll(self.library, f"{name}_shape")
        assert all(a is None or a.flags.c_contiguous for a in arrays)
        args = (ctypes.c_uint64 * len(arrays))(*(0 if a is None else a.ctypes.data for a in arrays))
        entry = ctypes.cast(getattr(self.library, name), ctypes.c_void_p)
        grid = (ctypes.c_int * 3)(*shape[:3])
        status = self.library.imp_sim_launch(entry, args, len(arrays), grid, shape[3], shape[4], 0)
        assert status == 0, self.library.imp_sim_error().decode()


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    folder = tmp_path_factory.mktemp("prefill")
    (folder / "prefill.cu").write_text(source(), "utf-8")
    return Kernels(compile_sim(folder / "prefill.cu", folder))


def aligned(shape: tuple[int, ...], dtype: Any) -> Array:
    """An uninitialised array at a multiple of 256 bytes, as device memory is."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(nbytes + 256, np.uint8)
    start = -raw.ctypes.data % 256
    out: Array = raw[start : start + nbytes].view(dtype).reshape(shape)
    return out


def placed(values: Array) -> Array:
    """A copy of `values` at a multiple of 256 bytes."""
    out = aligned(values.shape, values.dtype)
    out[...] = values
    return out


def step(rows: int) -> Array:
    return np.array([rows, 7, 7, 7], np.int32)


def to_bfloat(x: Array) -> Array:
    """Bits of x rounded to nearest even (no NaN)."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bfloat(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def random_inputs(case: Gemm, n: int, rng: np.random.Generator) -> tuple[list[Array], Array]:
    """Encoded activations with poison from token n on, and the numbers that they mean."""
    planes = aligned((2, case.tokens, case.cols), np.uint16)
    x = rng.standard_normal((case.tokens, case.cols)).astype(np.float32)
    planes[0] = to_bfloat(x)
    planes[1] = to_bfloat(x - from_bfloat(planes[0]))
    meant = from_bfloat(planes[0]).astype(np.float64) + from_bfloat(planes[1])
    planes[:, n:] = POISON >> 16
    return [planes], meant


def values_of(panels: Array) -> Array:
    """Panels [2 groups, tokens, 64] as [tokens, columns]: by the column that a lane's fragment has in a step."""
    count, tokens, _ = panels.shape
    values = np.zeros((tokens, count * 64))
    for k in range(count * 64):
        group, lane, value = k // 128, k % 128 // 32, k % 32
        number, place = divmod(value, 4)  # of the group's eight steps, and which of a lane's four there
        at = number % 4 * 16 + 2 * lane + (0, 8, 1, 9)[place]
        swizzled = at // 8 ^ np.arange(tokens) % 8
        values[:, k] = panels[2 * group + number // 4, np.arange(tokens), swizzled * 8 + at % 8]
    return values


def fragment_places(rows: int, cols: int) -> NDArray[np.int64]:
    """Where fragments hold the value of a row's column, as halfs from their start, [rows, whole groups of columns]."""
    row, k = np.arange(rows)[:, None], np.arange(-(-cols // 128) * 128)
    group, block, value = k // 128, k % 128 // 32, k % 32
    step, lane = value // 4, row % 8 * 4 + block
    place = np.array((0, 2, 1, 3))[value % 4]  # of a lane's four in a step
    return ((group * (rows // 8) + row // 8) * 1024 + (step // 2 * 32 + lane) * 8 + step % 2 * 4 + place).astype(
        np.int64
    )


def test_every_float_layout_is_multiplied() -> None:
    assert {case.place()[0].name for case in GEMMS.values()} == {
        name for name, each in layouts().items() if each.planes
    }


@pytest.mark.parametrize("name", GEMMS)
@pytest.mark.parametrize("n", [1, 27, 10**9], ids=["one", "some", "all"])
def test_gemm(kernels: Kernels, name: str, n: int) -> None:
    case = GEMMS[name]
    n = min(n, case.tokens)
    rng = np.random.default_rng([n, *name.encode()])
    fmt = format_named(case.format)
    raw = random_rows(fmt, case.rows, case.cols, rng)
    layout, tile, _ = case.place()
    weights = placed(layout.pack(fmt, raw, tile))
    inputs, x = random_inputs(case, n, rng)
    bias = placed(rng.standard_normal(case.rows).astype(np.float32)) if case.bias else None
    y = placed(rng.standard_normal((case.tokens, case.stride)).astype(np.float32))
    before = y.copy()
    kernels.run(name, weights, *inputs, bias, y, step(n))

    w = fmt.dequantize(raw).astype(np.float64)
    truth = before.astype(np.float64)
    columns = slice(case.offset, case.offset + case.rows)
    product = (x[:n] @ w.T + (0 if bias is None else bias)) * case.scale
    if case.cap:
        product = case.cap * np.tanh(product / case.cap)
    truth[:n, columns] = product + (truth[:n, columns] if case.accumulate else 0)
    scale = np.abs(x[:n]) @ np.abs(w).T + 1
    assert np.all(np.abs(y[:n, columns] - truth[:n, columns]) < 2e-6 * scale)
    y[:n, columns] = before[:n, columns]
    np.testing.assert_array_equal(y, before)


def test_gemm_does_not_depend_on_the_chunk(kernels: Kernels) -> None:
    big, small = GEMMS["bf16"], GEMMS["bf16_t32"]
    rng = np.random.default_rng(5)
    fmt = format_named("BF16")
    raw = random_rows(fmt, big.rows, big.cols, rng)
    weights = placed(layouts()["BF16"].pack(fmt, raw, Tile(*big.tile)))
    (planes,), _ = random_inputs(big, 128, rng)
    whole = aligned((128, big.stride), np.float32)
    kernels.run("bf16", weights, planes, None, whole, step(128))
    for first, n in ((0, 32), (37, 1), (90, 19)):
        part = aligned((32, big.stride), np.float32)
        chunk = placed(np.resize(planes[:, first : first + n], (2, 32, small.cols)))
        chunk[:, :n] = planes[:, first : first + n]
        kernels.run("bf16_t32", weights, chunk, None, part, step(n))
        np.testing.assert_array_equal(part[:n], whole[first : first + n])


def rms_norm(x: Array, eps: float) -> Array:
    """Of each row, in float64 and without a weight."""
    wide = x.astype(np.float64)
    normed: Array = wide / np.sqrt(np.mean(wide**2, axis=1, keepdims=True) + eps)
    return normed


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("n", [1, 30])
def test_encode(kernels: Kernels, name: str, n: int) -> None:
    case = ENCODERS[name]
    rng = np.random.default_rng([n, *name.encode()])
    shape = (case.tokens, case.cols)
    x = placed((rng.standard_normal(shape) * rng.uniform(0.1, 30, (case.tokens, 1))).astype(np.float32))
    up = placed(rng.standard_normal((case.tokens, case.cols + UP)).astype(np.float32) * 5)
    up[n:] = np.nan
    scale = placed(np.array([0.75], np.float32))
    x[0, 32:64] = 0
    x[n:] = np.nan
    branch = placed(rng.standard_normal((case.tokens, case.cols)).astype(np.float32) * 5)
    branch[0, 32:64] = 0
    branch[n:] = np.nan
    post = placed(rng.uniform(-2, 2, case.cols).astype(np.float32))
    weight = placed(rng.uniform(0.2, 3, case.cols).astype(np.float32))
    planes = placed(np.full((2, case.tokens, case.cols), 99, np.uint16))
    groups = -(-case.cols // 128)
    panels = placed(np.full((2 * groups, case.tokens, 64), np.nan, np.float16))
    factors = placed(np.full(case.tokens, 99, np.float32))
    before = x.copy()
    given = {"gated": [x, up]}.get(case.source, [x, branch, post, scale][: case.struct or 1])
    kernels.run(name, *given, weight if case.weighted else None, planes, panels, factors, None, step(n))

    exact = before[:n].astype(np.float64)
    if case.post:
        exact = (exact + rms_norm(branch[:n], POST_EPS) * post) * (0.75 if case.scaled else 1)
    if case.post and case.keep:
        np.testing.assert_allclose(x[:n], exact, rtol=2e-6, atol=1e-5)
        np.testing.assert_array_equal(x[n:], before[n:])
    else:
        np.testing.assert_array_equal(x, before)
    if case.source == "norm":
        exact = rms_norm(exact, case.eps) * (weight if case.weighted else 1)
    elif case.source == "gated":
        exact = gated(case.activation, exact, up[:n, : case.cols])
    if case.dense:
        values = from_bfloat(planes[0, :n]).astype(np.float64) + from_bfloat(planes[1, :n])
        # what is left of a sum, and of a function that is nearly zero, has the error of what it is made of
        left = 1e-6 * np.abs(exact).max() if case.post or case.activation != "Silu" else 0
        np.testing.assert_allclose(values, exact, rtol=2**-16 + 1e-5, atol=left)
        np.testing.assert_allclose(from_bfloat(planes[0, :n]), exact, rtol=2**-8 + 1e-5, atol=left)
    if case.panels:
        every = panels.reshape(-1)[fragment_places(*shape)] if case.fragments else values_of(panels)
        halfs = every[:n].astype(np.float64)
        largest = np.abs(halfs).max(-1)
        assert np.all((largest == 0) | ((largest >= 2.0**case.peak) & (largest < 2.0 ** (case.peak + 1))))
        left = 1e-6 * np.abs(exact).max() if case.post or case.activation != "Silu" else 0
        values = halfs * factors[:n, None].astype(np.float64)
        step_of_least = 2.0 ** (-24 - case.peak)  # of the halfs that have no whole precision
        peak = np.abs(exact).max(-1, keepdims=True) * step_of_least
        np.testing.assert_array_less(
            np.abs(values[:, : case.cols] - exact), np.abs(exact) * (2.0**-11 + 1e-5) + peak + left + 1e-30
        )
        assert not halfs[:, case.cols :].any()
    others = panels.reshape(-1)[fragment_places(*shape)[n:]] if case.fragments else panels[:, n if case.panels else 0 :]
    assert np.isnan(others).all()
    assert np.all(factors[0 if not case.panels else n :] == 99)
    assert np.all(planes[:, 0 if not case.dense else n :] == 99)


@pytest.mark.parametrize("name", NORMS)
def test_norm(kernels: Kernels, name: str) -> None:
    case, n = NORMS[name], 30
    rng = np.random.default_rng(list(name.encode()))
    x, branch = (placed(rng.standard_normal((case.tokens, case.cols)).astype(np.float32) * 3) for _ in range(2))
    post, weight = (placed(rng.uniform(-2, 2, case.cols).astype(np.float32)) for _ in range(2))
    y = placed(np.full((case.tokens, case.cols), 99, np.float32))
    before = x.copy()
    given = [x, branch, post] if case.post else [x]
    kernels.run(name, *given, weight if case.weighted else None, step(n), y)
    exact = before[:n] + rms_norm(branch[:n], POST_EPS) * post if case.post else before[:n]
    exact = rms_norm(exact, 1e-5) * (weight if case.weighted else 1)
    np.testing.assert_allclose(y[:n], exact, rtol=2e-6, atol=2e-6)
    assert np.all(y[n:] == 99)
    np.testing.assert_array_equal(x, before)


def test_embeddings_are_scaled(kernels: Kernels) -> None:
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((VOCAB, WIDTH)).astype(np.float16)
    plane = placed(layouts()["F16"].pack(format_named("F16"), rows.view(np.uint8), Tile(2, 32)))
    last = placed(rng.integers(0, VOCAB, 32).astype(np.int32))
    tokens = np.where(rng.random(32) < 0.5, -1, rng.integers(0, VOCAB, 32))
    slots = rng.permutation(32)
    lines = placed(np.stack([slots, np.arange(32), tokens, np.zeros(32)], axis=1).astype(np.int32))
    chosen = np.where(tokens < 0, last[slots], tokens)
    one, many = placed(np.zeros(WIDTH, np.float32)), placed(np.zeros((32, WIDTH), np.float32))
    exact = rows[chosen].astype(np.float32) * np.float32(SCALE)
    kernels.run("EmbedRows", plane, step(30), lines, last, many)
    np.testing.assert_array_equal(many[:30], exact[:30])
    assert not many[30:].any()
    for row in (np.flatnonzero(tokens < 0)[0], np.flatnonzero(tokens >= 0)[0]):
        kernels.run("EmbedRow", plane, step(1), placed(lines[row]), last, one)
        np.testing.assert_allclose(one, exact[row], rtol=2**-23)  # without the last bit


def test_positions_advance(kernels: Kernels) -> None:
    """By all rows; by all but the last where a token is chosen after it."""
    positions = np.arange(0, 400, 10).astype(np.int32)
    slots = np.random.default_rng(1).permutation(40)[:35]
    lines = np.stack([np.arange(35) * 3, np.full(35, 3), slots, np.arange(35) % 2 - 1], axis=1).astype(np.int32)
    expected = positions.copy()
    expected[slots[:34]] += 3 - np.arange(34, dtype=np.int32) % 2
    kernels.run("advance", positions, np.array([102, 34, 0, 0], np.int32), lines)
    np.testing.assert_array_equal(positions, expected)
