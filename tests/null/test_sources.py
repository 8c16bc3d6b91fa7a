"""Reading weights through sources against numpy, and what does not fit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from e4m3 import e4m3
from imp_codegen.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from imp_codegen.formats import Format, Part, format_named
from imp_codegen.sources import (
    Below,
    EverySecond,
    Flat,
    Float32,
    Group,
    HalfOfEach,
    HeadColumns,
    HeadRows,
    Mxfp4,
    Permute,
    Plus,
    Rows,
    Source,
    Tensor,
    Times,
    Transposed,
    Unstacked,
    spans_of,
)
from imp_codegen.stored import _several, open_source

HEADS, DIM, COLS = 3, 8, 5
RNG = np.random.default_rng(1)
MATRIX = RNG.standard_normal((HEADS * DIM, COLS)).astype(np.float32)
VECTOR = RNG.standard_normal(HEADS * DIM).astype(np.float16)
STACK = RNG.standard_normal((3, 5, 4)).astype(np.float16)
SCALES = {
    name: RNG.standard_normal((rows, COLS)).astype(np.float16)
    for name, rows in (("t", 6), ("u", 5), ("n", 3), ("w", 1), ("odd", 7))
}
BLOCKS = {"b": (2, 3, 2, 16), "e": (2, 3, 2), "f": (2, 3, 1)}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path = tmp_path_factory.mktemp("model")
    tensors = {"m": MATRIX, "v": VECTOR, "k": STACK, "i": np.arange(4), "s": np.array(1, np.float32), **SCALES}
    for name, shape in BLOCKS.items():
        tensors[name] = RNG.integers(0, 255, shape).astype(np.uint8)
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text("{}", "utf-8")
    return open_checkpoint(path)


def interleaved(x: np.ndarray, heads: int) -> np.ndarray:
    """As llama.cpp's converter permutes the rows of q and k."""
    return x.reshape(heads, 2, len(x) // heads // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


CASES: dict[str, tuple[Source, Callable[[], np.ndarray]]] = {
    "a matrix": (Tensor("m"), lambda: MATRIX),
    "some rows": (Rows(Tensor("m"), 5, 17), lambda: MATRIX[5:17]),
    "rows of rows": (Rows(Rows(Tensor("m"), 5, 17), 2, 9), lambda: MATRIX[7:14]),
    "heads": (Permute(Tensor("m"), HEADS), lambda: interleaved(MATRIX, HEADS)),
    "one head": (Permute(Tensor("m"), 1), lambda: interleaved(MATRIX, 1)),
    "heads among rows": (Permute(Rows(Tensor("m"), DIM, 3 * DIM), 2), lambda: interleaved(MATRIX[DIM:], 2)),
    "rows of permuted heads": (Rows(Permute(Tensor("m"), HEADS), 3, 20), lambda: interleaved(MATRIX, HEADS)[3:20]),
    "a vector": (Tensor("v"), lambda: VECTOR),
    "elements": (Rows(Tensor("v"), 2, 7), lambda: VECTOR[2:7]),
    "heads of a vector": (Permute(Tensor("v"), HEADS), lambda: interleaved(VECTOR, HEADS)),
    "rows end to end": (Flat(Tensor("m")), lambda: MATRIX.reshape(-1)),
    "every second row": (EverySecond(Tensor("m"), 1), lambda: MATRIX[1::2]),
    "every second element": (EverySecond(Flat(Tensor("t")), 0), lambda: SCALES["t"].reshape(-1)[::2]),
    "matrices of one tensor": (Unstacked(Tensor("k")), lambda: STACK.reshape(15, 4)),
    "half of each matrix": (HalfOfEach(Transposed(Tensor("k")), 1), lambda: STACK.swapaxes(1, 2)[:, 2:]),
    "some rows of every head": (
        HeadRows(Tensor("m"), HEADS, 3, 7),
        lambda: MATRIX.reshape(HEADS, DIM, COLS)[:, 3:7].reshape(-1, COLS),
    ),
    "columns of heads": (
        HeadColumns(Tensor("m"), HEADS),
        lambda: MATRIX.reshape(HEADS, DIM, COLS).swapaxes(1, 2).reshape(-1, DIM),
    ),
    "columns of some rows of every head": (
        HeadColumns(HeadRows(Tensor("m"), HEADS, 0, 5), HEADS),
        lambda: MATRIX.reshape(HEADS, DIM, COLS)[:, :5].swapaxes(1, 2).reshape(-1, 5),
    ),
    "a stack turned over": (Transposed(Tensor("k")), lambda: STACK.swapaxes(1, 2)),
    "every second of its rows": (EverySecond(Transposed(Tensor("k")), 1), lambda: STACK.swapaxes(1, 2)[:, 1::2]),
    "a row below others": (Below((Tensor("t"), Tensor("w"))), lambda: np.concatenate([SCALES["t"], SCALES["w"]])),
    "three below one another": (
        Below((Tensor("n"), Rows(Tensor("t"), 1, 3), Tensor("u"))),
        lambda: np.concatenate([SCALES["n"], SCALES["t"][1:3], SCALES["u"]]),
    ),
    "a vector below a matrix": (
        Below((Tensor("u"), Rows(Flat(Tensor("t")), 3, 3 + COLS))),
        lambda: np.concatenate([SCALES["u"], SCALES["t"].reshape(1, -1)[:, 3 : 3 + COLS]]),
    ),
    "one more": (Plus(Tensor("v"), 1.0), lambda: VECTOR.astype(np.float32) + np.float32(1)),
    "a half": (Times(Tensor("v"), 0.5), lambda: VECTOR.astype(np.float32) * np.float32(0.5)),
    "as float32": (Float32(Tensor("t")), lambda: SCALES["t"].astype(np.float32)),
    "one more of some": (Plus(Rows(Tensor("v"), 2, 7), 1.0), lambda: VECTOR[2:7].astype(np.float32) + np.float32(1)),
}


@pytest.mark.parametrize("name", CASES)
@given(at=st.tuples(st.integers(0, HEADS * DIM), st.integers(0, HEADS * DIM)))
def test_rows_are_those_of_numpy(checkpoint: Checkpoint, name: str, at: tuple[int, int]) -> None:
    source, truth = CASES[name]
    stored, expected = open_source(source, checkpoint), truth()
    assert stored.shape == expected.shape
    assert stored.format.name == {"float32": "F32", "float16": "F16"}[expected.dtype.name]
    rows = np.ascontiguousarray(expected).reshape(-1, expected.shape[-1])
    start, stop = sorted(min(each, len(rows)) for each in at)
    found = stored.rows(start, stop)
    assert found.dtype == np.uint8
    assert found.shape == (stop - start, rows[0].nbytes)
    assert found.tobytes() == rows[start:stop].tobytes()


BAD: dict[str, tuple[Source, str]] = {
    "no such tensor": (Rows(Tensor("x"), 0, 1), "tensor 'x' is missing; the checkpoint is incomplete"),
    "a type that nobody computes with": (Tensor("i"), "tensor 'i' is I64, which imp does not support; supported: BF16"),
    "too few rows": (Rows(Tensor("m"), 20, 25), "tensor 'm' is F32 [24, 5], expected at least 25 rows"),
    "heads that do not divide": (Permute(Tensor("m"), 5), "'m' is F32 [24, 5], expected 5 heads, and so a multiple"),
    "one more of a matrix": (Plus(Tensor("m"), 1), "tensor 'm' is F32 [24, 5], expected a vector"),
    "a matrix of one tensor": (Unstacked(Tensor("m")), "'m' is F32 [24, 5], expected matrices, three dimensions"),
    "rows that heads lack": (HeadRows(Tensor("m"), 3, 6, 9), "'m' is F32 [24, 5], expected a matrix of 3 heads with 9"),
    "half of one matrix": (HalfOfEach(Tensor("m"), 0), "'m' is F32 [24, 5], expected a stack of matrices"),
    "half of an odd number of rows": (HalfOfEach(Tensor("k"), 0), "expected a stack of matrices of an even number"),
    "a matrix times a value": (Times(Tensor("m"), 2), "tensor 'm' is F32 [24, 5], expected a vector"),
    "columns of heads that do not divide": (HeadColumns(Tensor("m"), 5), "expected a matrix of 5 heads"),
    "an odd number of rows": (EverySecond(Tensor("u"), 0), "tensor 'u' is F16 [5, 5], expected an even number of rows"),
    "a matrix turned over": (Transposed(Tensor("m")), "tensor 'm' is F32 [24, 5], expected a stack of matrices of F32"),
    "a vector end to end": (Flat(Tensor("v")), "tensor 'v' is F16 [24], expected a matrix of F32, F16 or BF16"),
    "rows of another type": (Below((Tensor("t"), Tensor("m"))), "'m' is F32 [24, 5], expected F16 with rows of 5"),
    "rows of another length": (Below((Tensor("t"), Tensor("v"))), "'v' is F16 [24], expected F16 with rows of 5"),
    "blocks without scales": (Mxfp4(Tensor("b"), Tensor("x")), "tensor 'x' is missing"),
    "blocks of floats": (Mxfp4(Tensor("m"), Tensor("e")), "tensor 'm' is F32, expected U8"),
    "scales of other blocks": (Mxfp4(Tensor("b"), Tensor("f")), "'b' is U8 [2, 3, 2, 16] and 'f' [2, 3, 1], expected"),
    "rows of a number": (Rows(Tensor("s"), 0, 1), "tensor 's' is F32 [], expected at least 1 rows"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_named(checkpoint: Checkpoint, name: str) -> None:
    source, expected = BAD[name]
    with pytest.raises(CheckpointError) as caught:
        open_source(source, checkpoint)
    assert f"{checkpoint.path}: " in str(caught.value)
    assert expected in str(caught.value)


def test_vectors_of_blocks_have_no_elements() -> None:
    path = Path(__file__).parents[1] / "fixtures" / "llama" / "llama-Q8_0.gguf"
    checkpoint = open_checkpoint(path)
    stored = open_source(Permute(Tensor("blk.0.attn_q.weight"), 4), checkpoint)  # rows of blocks stay whole
    raw = checkpoint.rows("blk.0.attn_q.weight", 0, 256)
    assert stored.rows(0, 256).tobytes() == interleaved(raw, 4).tobytes()


def test_a_scale_that_is_no_number(tmp_path: Path) -> None:
    """What the blocks become is compared with a converter in test_both_dialects.py."""
    tensors = {name: np.zeros(shape, np.uint8) for name, shape in BLOCKS.items()}
    tensors["e"][1, 1, 0] = 255
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}", "utf-8")
    stored = open_source(Mxfp4(Tensor("b"), Tensor("e")), open_checkpoint(tmp_path))
    assert stored.rows(0, 4).shape == (4, 34)
    with pytest.raises(CheckpointError, match=r"tensor 'e' has the scale 255 in row 4, which is no number"):
        stored.rows(3, 6)


@pytest.mark.parametrize(
    ("source", "span"),
    [
        (Tensor("m"), None),
        (Plus(Permute(Tensor("m"), 3), 1), None),
        (Rows(Tensor("m"), 5, 17), (5, 17)),
        (Permute(Rows(Rows(Tensor("m"), 5, 17), 2, 9), 1), (7, 14)),
    ],
)
def test_which_rows_a_source_reads(source: Source, span: tuple[int, int] | None) -> None:
    assert spans_of(source) == {"m": span}
    assert spans_of(Group("three", (source, Tensor("t")))) == {"m": span, "t": None}


# Floats, a scale for so many rows and columns, and one for all.
@pytest.fixture
def three(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """`each`: rows that share a scale, if the test says so."""
    parts = (Part(4, 1), Part(2, 1, rows=request.node.callspec.params.get("each", 4)), Part(4, 0))
    three = Format("three", 1, parts, lambda raw: raw.view(np.float32), of=("F32", "F16", "F32"))
    monkeypatch.setattr(_several, "format_named", lambda name: {"three": three}.get(name) or format_named(name))


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(("scales", "each"), [("t", 4), ("u", 5), ("n", 9), ("w", 24), ("w", 5)])
@given(at=st.tuples(st.integers(0, 24), st.integers(0, 24)))
def test_a_group_is_its_tensors_side_by_side(
    checkpoint: Checkpoint, scales: str, each: int, at: tuple[int, int]
) -> None:
    three = _several.format_named("three")
    stored = open_source(Group("three", (Tensor("m"), Tensor(scales), Tensor("s"))), checkpoint)
    assert (stored.shape, stored.format) == (MATRIX.shape, three)
    each = each if len(SCALES[scales]) > 1 else len(MATRIX)
    start, stop = sorted(at)
    found = stored.rows(start, stop)
    assert found.shape == (stop - start, three.row_bytes(COLS))
    for row, taken in zip(range(start, stop), found, strict=True):
        assert (
            taken.tobytes() == MATRIX[row].tobytes() + SCALES[scales][row // each].tobytes() + np.float32(1).tobytes()
        )


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("m", "v", "s"), "tensor 'v' is F16 [24], expected F16 with 10 bytes a row, for 24 rows in three"),
        (("m", "m", "s"), "tensor 'm' is F32 [24, 5], expected F16 with 10 bytes a row, for 24 rows in three"),
        (("m", "odd", "s"), "tensor 'odd' is F16 [7, 5], expected F16 with 10 bytes a row, for 24 rows in three"),
        (("m", "t", "m"), "tensor 'm' is F32 [24, 5], expected F32 with 4 bytes a row, for 24 rows in three"),
    ],
)
def test_a_group_that_does_not_fit_together(checkpoint: Checkpoint, names: tuple[str, ...], words: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(words)):
        open_source(Group("three", tuple(map(Tensor, names))), checkpoint)


@pytest.mark.parametrize("shared", [False, True])
def test_columns_of_heads_of_codes_with_scales(shared: bool, tmp_path: Path) -> None:
    """A row's scale is none of its weights: columns of such heads are floats."""
    codes = RNG.integers(0, 0x7F, (6, 32), np.uint8)
    scales = RNG.uniform(0.5, 2, 1 if shared else (6, 1)).astype(np.float32)
    header = {
        "c": {"dtype": "F8_E4M3", "shape": [6, 32], "data_offsets": [0, codes.size]},
        "s": {"dtype": "F32", "shape": [*scales.shape], "data_offsets": [codes.size, codes.size + scales.nbytes]},
    }
    text = json.dumps(header).encode()
    whole = len(text).to_bytes(8, "little") + text + codes.tobytes() + scales.tobytes()
    (tmp_path / "model.safetensors").write_bytes(whole)
    (tmp_path / "config.json").write_text("{}", "utf-8")
    stored = open_source(HeadColumns(Group("FP8_ROWS", (Tensor("c"), Tensor("s"))), 2), open_checkpoint(tmp_path))
    values = np.array([e4m3(code) for code in range(0x7F)], np.float32)[codes] * scales
    assert (stored.shape, stored.format.name) == ((64, 3), "F32")
    found = stored.format.dequantize(stored.rows(5, 60))
    np.testing.assert_array_equal(found, values.reshape(2, 3, 32).swapaxes(1, 2).reshape(64, 3)[5:60])
