"""Storage formats against gguf-py's decoder, and packed planes against the layout written out weight by weight."""

from __future__ import annotations

import math
from dataclasses import replace
from pkgutil import iter_modules
from types import ModuleType

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import imp_codegen.formats
import imp_codegen.layouts
from e4m3 import e4m3
from imp_codegen.formats import Codes, Format, FormatError, Part, format_named, format_of_ggml, formats
from imp_codegen.layouts import Layout, Tile, choose_tile, layout_for, layouts, plane_bytes, tile_bytes
from random_rows import HALFS, set_halfs


def names(package: ModuleType) -> tuple[str, ...]:
    """What the files of a room are called."""
    found = (entry.name for entry in iter_modules(package.__path__))
    return tuple(sorted(name.upper() for name in found if not name.startswith("_")))


NAMES = names(imp_codegen.formats)
PAIRS = [
    (name, layout.name)
    for name in NAMES
    for layout in layouts().values()
    if layout.arguments(format_named(name)) is not None
]
Q4_K, Q6_K, Q8_0, F16, F32 = (layouts()[name] for name in ("Q4_K", "Q6_K", "Q8_0", "F16", "F32"))


def truth(fmt: Format, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    with np.errstate(all="ignore"):
        if fmt.name == "NVFP4_SCALED":
            return truth(format_named(fmt.of[0]), raw[:, :-4]) * np.ascontiguousarray(raw[:, -4:]).view("<f4")
        if fmt.name.endswith("4_TENSORS"):
            cols = fmt.cols(raw.shape[1])
            values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
            codes = np.stack([raw[:, : cols // 2] & 15, raw[:, : cols // 2] >> 4], -1).reshape(len(raw), -1)
            if fmt.name == "MXFP4_TENSORS":
                exact = values[codes] * np.repeat(2.0 ** (raw[:, cols // 2 :].astype(int) - 127), 32, 1)
            else:
                steps = np.array([e4m3(code) for code in range(256)], np.float64)[raw[:, cols // 2 : -4]]
                factor = np.ascontiguousarray(raw[:, -4:]).view("<f4").astype(np.float64)
                exact = values[codes] * np.repeat(steps, 16, 1) * factor
            return exact.astype(np.float32)
        if fmt.ggml_type is None:
            cols = fmt.cols(raw.shape[1])
            codes = np.array([e4m3(code) for code in range(256)], np.float32)[raw[:, :cols]]
            scales = np.ascontiguousarray(raw[:, cols:]).view("<f4")
            wide = np.repeat(scales, 128, 1)[:, :cols] if fmt.name == "FP8_BLOCKS" else scales
            return codes * (wide if scales.size else np.float32(1))
        return np.asarray(gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[fmt.name]), np.float32)


def assert_same(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """Bit for bit; any nan equals any other."""
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    same = (found.view(np.uint32) == expected.view(np.uint32)) | (np.isnan(found) & np.isnan(expected))
    assert same.all()


def random_rows(fmt: Format, rows: int, cols: int, seed: int) -> NDArray[np.uint8]:
    raw = np.random.default_rng(seed).integers(0, 256, (rows, fmt.row_bytes(cols)), np.uint8)
    if fmt.name == "NVFP4_TENSORS":  # of which files with other scales are refused
        raw[:, cols // 2 : -4] %= 0x7F
    return raw


def test_formats_are_the_files_of_the_folder() -> None:
    assert tuple(formats()) == NAMES
    for name, fmt in formats().items():
        assert fmt.name == name
        assert fmt.cols(fmt.row_bytes(3 * fmt.block)) == 3 * fmt.block
        if fmt.ggml_type is None:
            continue
        assert fmt.ggml_type == gguf.GGMLQuantizationType[name].value
        assert (fmt.block, fmt.block_bytes) == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
        assert format_of_ggml(fmt.ggml_type) is fmt
    assert tuple(layouts()) == names(imp_codegen.layouts)
    for name, layout in layouts().items():
        assert layout.name == name
        assert layout.activation == ({"FP8": "f16", "F32": "bf16", "F16": "bf16", "BF16": "bf16"}.get(name, "q8"))


def test_a_plane_is_hardly_larger_than_the_file() -> None:
    """Speed is bytes."""
    for name, fmt in formats().items():
        layout = layout_for(fmt, 4096, 4096, ())
        assert layout.row_bytes(4096) <= 1.04 * fmt.row_bytes(4096), name


def test_unknown_formats_name_the_known() -> None:
    with pytest.raises(FormatError, match=f"unknown weight format 'Q9_9'; known: {', '.join(NAMES)}"):
        format_named("Q9_9")
    with pytest.raises(FormatError, match=f"unknown GGML tensor type 77; known: {NAMES[0]}"):
        format_of_ggml(77)


COLUMNS = (256, 512, 768, 2560, 4096, 4864, 5120, 9728, 11008, 12288, 14336, 17152, 17408, 18944, 22016, 256 * 97)


@pytest.mark.parametrize(("name", "layout"), PAIRS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_lossless(name: str, layout: str, data: st.DataObject) -> None:
    fmt, placed = format_named(name), layouts()[layout]
    small = st.integers(1, 40).map(lambda blocks: blocks * math.lcm(fmt.block, placed.block, 32))
    columns = [st.sampled_from(COLUMNS), small]
    if placed.ragged:
        columns += [st.sampled_from((704, 2880, 10944)), st.integers(1, 200).map(lambda count: count * 32)]
    cols = data.draw(st.one_of(columns), "cols")
    rows = data.draw(st.integers(1, 19), "rows")
    raw = random_rows(fmt, rows, cols, data.draw(st.integers(0, 2**32 - 1), "seed"))
    tile = choose_tile(placed, cols)
    expected = truth(fmt, raw)
    assert_same(fmt.dequantize(raw), expected)
    packed = placed.pack(fmt, raw, tile)
    assert packed.nbytes == plane_bytes(placed, rows, cols)
    assert_same(placed.unpack(fmt, packed, rows, cols, tile), expected)


@pytest.mark.parametrize("name", NAMES)
def test_many_rows_and_unaligned_read_only_input(name: str) -> None:
    fmt = format_named(name)
    cols, rows = 1024, 1501
    layout = layout_for(fmt, rows, cols, ())
    raw = random_rows(fmt, rows, cols, 5)
    shifted = np.frombuffer(b"\0" + raw.tobytes(), np.uint8, raw.size, 1).reshape(raw.shape)
    tile = choose_tile(layout, cols)
    packed = layout.pack(fmt, shifted, tile)
    assert np.array_equal(packed, layout.pack(fmt, raw, tile))
    assert_same(fmt.dequantize(shifted), truth(fmt, raw))
    assert_same(layout.unpack(fmt, packed, rows, cols, tile), truth(fmt, raw))


@pytest.mark.parametrize("name", HALFS)
@pytest.mark.parametrize("scale", [0.0, -0.0, 6e-8, 65504.0, -65504.0, np.inf, np.nan])
@pytest.mark.parametrize("byte", [None, 0, 128, 255])
def test_extreme_scales(name: str, scale: float, byte: int | None) -> None:
    """Also where all codes and all scales of scales are alike."""
    fmt = format_named(name)
    layout = layout_for(fmt, 5, 512, ())
    raw = random_rows(fmt, 5, 512, 9)
    blocks = raw.reshape(-1, fmt.block_bytes)
    if byte is not None:
        blocks[::2] = byte
    set_halfs(name, blocks, lambda: np.full(len(blocks), scale))
    expected = truth(fmt, raw)
    tile = choose_tile(layout, 512)
    with np.errstate(invalid="ignore"):
        assert_same(fmt.dequantize(raw), expected)
    assert_same(layout.unpack(fmt, layout.pack(fmt, raw, tile), 5, 512, tile), expected)


@pytest.mark.parametrize(
    ("layout", "cols", "tile"),
    [
        (Q8_0, 96, Tile(4, 96)),
        (Q8_0, 1024, Tile(4, 1024)),
        (Q8_0, 1056, Tile(2, 1056)),
        (Q4_K, 4096, Tile(2, 4096)),
        (Q6_K, 4864, Tile(1, 4864)),
        (Q4_K, 9728, Tile(1, 4864)),
        (Q4_K, 11008, Tile(1, 11008)),
        (Q4_K, 18944, Tile(1, 9472)),
        (Q4_K, 256 * 67, Tile(4, 256)),
        (Q4_K, 5120, Tile(2, 2560)),
        (Q8_0, 8224, Tile(1, 8224)),
        (Q8_0, 9728, Tile(1, 2432)),
        (Q8_0, 11008, Tile(1, 2752)),
        (Q8_0, 17408, Tile(4, 1024)),
        (Q8_0, 29568, Tile(1, 2688)),
        (Q8_0, 32 * 997, Tile(4, 32)),
        (Q4_K, 12288, Tile(2, 4096)),
        (Q4_K, 14336, Tile(2, 3584)),
        (Q6_K, 4096, Tile(1, 4096)),
        (Q8_0, 2240, Tile(2, 2240)),
        (F16, 64, Tile(4, 64)),
        (F16, 2560, Tile(1, 1280)),
        (F16, 11008, Tile(1, 1376)),
        (F16, 1024, Tile(2, 1024)),
        (F32, 1024, Tile(1, 1024)),
        (F32, 3584, Tile(2, 512)),
        (F32, 4096, Tile(1, 1024)),
        (F32, 11008, Tile(1, 688)),
    ],
)
def test_tile_of_shape(layout: Layout, cols: int, tile: Tile) -> None:
    assert choose_tile(layout, cols) == tile


def test_no_tile_has_rows_of_two_matrices_of_a_stack() -> None:
    assert choose_tile(Q4_K, 4096, 6) == Tile(2, 4096)
    assert choose_tile(Q4_K, 4096, 7) == Tile(1, 4096)


def test_rows_that_end_within_a_block() -> None:
    """Of 704 = 5.5 * 128 weights a row has six scales, of 10,944 it has 86; it is then one tile, up to some length."""
    fmt, fp8 = format_named("FP8_BLOCKS"), layouts()["FP8"]
    assert fmt.row_bytes(704) == 704 + 4 * 6
    assert [fmt.cols(cols + 4 * -(-cols // 128)) for cols in range(1, 300)] == [*range(1, 300)]
    for bad in (4, 133, 136):  # between 128 weights, which have one scale, and 129, which have two
        with pytest.raises(FormatError, match=f"FP8_BLOCKS: {bad} bytes are no row"):
            fmt.cols(bad)
    assert choose_tile(fp8, 704) == Tile(4, 704)
    assert choose_tile(fp8, 10944) == Tile(1, 10944)
    assert choose_tile(fp8, 12288) == Tile(1, 4096)
    assert layout_for(fmt, 8, 16384 - 64, ()) is fp8
    with pytest.raises(FormatError, match=r"a row of 48 weights is not a whole number of blocks of 32 \(FP8\)"):
        layout_for(fmt, 8, 48, ())


def test_plane_sizes() -> None:
    assert tile_bytes(Q8_0, Tile(8, 96)) == 8 * 96 + 8 * 6
    assert tile_bytes(Q8_0, Tile(1, 8224)) == 8224 + 528  # 514 bytes of scales, rounded up
    assert tile_bytes(Q4_K, Tile(2, 4096)) == 2 * (2048 + 256)
    assert tile_bytes(Q6_K, Tile(1, 4864)) == 2432 + 1216 + 304 + 48  # 38 bytes of d, rounded up
    assert plane_bytes(Q4_K, 5, 12288) == 6 * 3 * (2048 + 256)  # rows of pairs
    fmt = format_named("Q8_0")
    for bad in (0, 48, -32):
        with pytest.raises(FormatError, match=f"Q8_0: a row of {bad} weights"):
            fmt.row_bytes(bad)
    for bad in (0, 33, 69):
        with pytest.raises(FormatError, match=f"Q8_0: {bad} bytes are no row of blocks of 32 weights"):
            fmt.cols(bad)
    with pytest.raises(FormatError, match="cannot be cut into tiles"):
        Q8_0.pack(fmt, np.zeros((2, 68), np.uint8), Tile(8, 96))
    with pytest.raises(FormatError, match="has 816 bytes, not 800"):
        Q8_0.unpack(fmt, np.zeros(800, np.uint8), 3, 96, Tile(8, 96))


def codes_format(per: int, values: tuple[int, ...]) -> Format:
    """A byte a code, then the scales: a float16 for every `per` weights."""

    def split(raw: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        cols = raw.shape[1] * per // (per + 2)
        return raw[:, :cols], np.ascontiguousarray(raw[:, cols:])

    def dequantize(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
        codes, scales = split(raw)
        whole = np.array(values, np.float32)[codes] if values else codes.view(np.int8).astype(np.float32)
        return np.repeat(scales.view("<f2").astype(np.float32), per, axis=1) * whole

    return Format("toy", per, (Part(1, 1), Part(2, per)), dequantize, codes=Codes(per, split, values))


@pytest.mark.parametrize("per", [32, 64, 256])
@pytest.mark.parametrize("values", [(), (-1, 0, 1), (-127, -104, -83, -65, -49, 1, 13, 113)])
def test_whole_numbers_with_scales_lie_as_int8(per: int, values: tuple[int, ...]) -> None:
    fmt, rng = codes_format(per, values), np.random.default_rng(per)
    codes = rng.integers(0, len(values) or 256, (7, 512), np.uint8)
    scales = rng.standard_normal((7, 512 // per)).astype("<f2")
    raw = np.concatenate([codes, scales.view(np.uint8)], axis=1)
    taking = [layout for layout in layouts().values() if layout.arguments(fmt) is not None]
    layout = layout_for(fmt, 7, 512, ("sim", "sm_90a"))
    assert Q8_0 in taking
    assert (layout.name == "Q4_0") == (per == 32 and values == (-1, 0, 1))
    for layout in taking:
        tile = choose_tile(layout, 512)
        assert_same(layout.unpack(fmt, layout.pack(fmt, raw, tile), 7, 512, tile), fmt.dequantize(raw))


def test_what_no_layout_takes() -> None:
    for fmt in (codes_format(16, ()), Format("new", 1, (Part(1, 1),), lambda raw: raw.view(np.float32))):
        with pytest.raises(FormatError, match=f"no layout takes {fmt.name}; there are BF16, F16, "):
            layout_for(fmt, 7, 512, ("sim",))


def test_layouts_of_some_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest that every target has, or words about those that there are."""
    fmt = format_named("Q8_0")
    short = replace(Q8_0, name="SHORT", sections=(Part(16, 32),), targets=("sm_90a", "sm_120a"))
    monkeypatch.setattr(imp_codegen.layouts, "layouts", lambda: {"Q8_0": Q8_0, "SHORT": short})
    assert layout_for(fmt, 7, 512, ("sm_90a",)) is short
    assert layout_for(fmt, 7, 512, ("sm_90a", "sim")) is Q8_0
    other = replace(Q8_0, targets=("sim",))
    monkeypatch.setattr(imp_codegen.layouts, "layouts", lambda: {"Q8_0": other, "SHORT": short})
    words = "no layout that takes Q8_0 is for all of sm_90a, sim: Q8_0 is for sim; SHORT is for sm_90a, sm_120a"
    with pytest.raises(FormatError, match=words):
        layout_for(fmt, 7, 512, ("sm_90a", "sim"))


def round16(raw: bytes) -> bytes:
    return raw + bytes(-len(raw) % 16)


def sections_of_row(name: str, raw: bytes) -> list[bytes]:
    """The sections of one row, from the definitions of the formats, one weight at a time."""
    if name in ("F32", "F16", "BF16"):
        return [raw]
    if name == "Q8_0":
        blocks = [raw[at : at + 34] for at in range(0, len(raw), 34)]
        return [b"".join(block[2:] for block in blocks), b"".join(block[:2] for block in blocks)]
    if name == "Q4_K":
        codes, meta = b"", b""
        for at in range(0, len(raw), 144):
            scales, qs = raw[at + 4 : at + 16], raw[at + 16 : at + 144]
            weights = [(qs[i // 64 * 32 + i % 32] >> (i % 64 // 32 * 4)) & 15 for i in range(256)]
            sc = [scales[j] & 63 if j < 4 else scales[j + 4] & 15 | scales[j - 4] >> 6 << 4 for j in range(8)]
            m = [scales[j + 4] & 63 if j < 4 else scales[j + 4] >> 4 | scales[j] >> 6 << 4 for j in range(8)]
            codes += bytes(weights[32 * b + i] | weights[32 * b + 16 + i] << 4 for b in range(8) for i in range(16))
            word = sum((m[j] & 3 | sc[j] >> 4 << 2) << 4 * j for j in range(8))
            meta += raw[at : at + 4] + bytes((sc[j] & 15) | (m[j] >> 2) << 4 for j in range(8))
            meta += word.to_bytes(4, "little")
        return [codes, meta]
    first, rest, scale, d = b"", b"", b"", b""
    for at in range(0, len(raw), 210):
        ql, qh = raw[at : at + 128], raw[at + 128 : at + 192]
        weights = []
        for i in range(256):
            half, k, lane = i // 128, i % 128 // 32, i % 32
            nibble = ql[64 * half + 32 * (k % 2) + lane] >> (k // 2 * 4) & 15
            weights.append(nibble | (qh[32 * half + lane] >> 2 * k & 3) << 4)
        for at_half in range(0, 256, 16):
            w = weights[at_half : at_half + 16]
            words = [bytes(w[4 * j + i] | (w[12 + i] >> 2 * j & 3) << 6 for i in range(4)) for j in range(3)]
            first += words[0] + words[1]
            rest += words[2]
        scale += raw[at + 192 : at + 208]
        d += raw[at + 208 : at + 210]
    return [first, rest, scale, d]


@pytest.mark.parametrize(
    ("name", "rows", "cols", "tile"),
    [
        ("F32", 3, 96, Tile(2, 96)),
        ("F16", 3, 8192, Tile(1, 2048)),
        ("BF16", 5, 96, Tile(4, 96)),
        ("Q8_0", 3, 96, Tile(2, 96)),
        ("Q8_0", 3, 512, Tile(2, 256)),
        ("Q4_K", 3, 1024, Tile(2, 512)),
        ("Q6_K", 3, 1024, Tile(2, 512)),
        ("Q6_K", 5, 256, Tile(1, 256)),
    ],
)
def test_packed_bytes_are_those_of_the_layout(name: str, rows: int, cols: int, tile: Tile) -> None:
    fmt = format_named(name)
    raw = random_rows(fmt, rows, cols, 11)
    tiles = cols // tile.cols
    padded = -(-rows // tile.rows) * tile.rows
    empty = bytes(fmt.row_bytes(cols))
    cut = [
        [[part[t * len(part) // tiles : (t + 1) * len(part) // tiles] for t in range(tiles)] for part in sections]
        for sections in (sections_of_row(name, raw[r].tobytes() if r < rows else empty) for r in range(padded))
    ]
    expected = b"".join(
        b"".join(round16(b"".join(cut[unit + r][s][t] for r in range(tile.rows))) for s in range(len(cut[0])))
        for unit in range(0, padded, tile.rows)
        for t in range(tiles)
    )
    assert layouts()[name].pack(fmt, raw, tile).tobytes() == expected
