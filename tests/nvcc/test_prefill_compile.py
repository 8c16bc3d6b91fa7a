"""The prefill stages but attention compile for both GPU targets, at the shapes of an 8B model, without spills."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from imp_codegen.formats import format_named, formats
from imp_codegen.layouts import layouts
from random_rows import place

INCLUDE = Path(__file__).resolve().parents[2] / "templates" / "include"
# With 128 registers, sums of many rows leave no room for where several matrices lie (100 bytes by nvcc 13.5).
BATCH_BYTES = 128
# Products of whole models' prompts, by nvcc 13.5: sums in halves on sm_90a (12 bytes: 10,944 columns of Q5_0), biases
# on sm_120a (8).
PRODUCT_BYTES = 16
SHARED = {"sm_90a": 227 << 10, "sm_120a": 99 << 10}  # bytes that a block may have

BYTES = "const std::uint8_t*"
FLOATS = "const float*"
STEP = "const imp::StepHeader*"
GEMM_BF16 = (BYTES, "const std::uint16_t*", FLOATS, "float*", STEP)
GEMM_BATCH = (BYTES, FLOATS, BYTES, BYTES, FLOATS, "float*", STEP, "float4*", "std::uint32_t*")
PAIRS = "const std::int32_t*"
GEMM_ENDS = ("const imp::ExpertTile*", PAIRS, "float4*", "std::uint32_t*", "float*", STEP)
GEMM_PANELS = (BYTES, FLOATS, BYTES, BYTES, FLOATS, *GEMM_ENDS)
ENCODE = (FLOATS, FLOATS, "std::uint16_t*", "std::uint8_t*", "float*", PAIRS, STEP)
ENCODE_GATED = ("imp::GatedChunk", *ENCODE[1:])
ADVANCE = ("std::int32_t*", STEP, "const imp::StepSequence*")


def gemm(kind: str, layout: str, tile_rows: int, tile_cols: int, rows: int, cols: int, tokens: int, extra: str) -> str:
    """C++ type of a matrix product that writes columns 0 .. rows - 1 of y [tokens, rows]."""
    return (
        f"{kind}<imp::GemmConfig{{.rows = {rows}, .cols = {cols}, .tokens = {tokens}, .stride = {rows}, .offset = 0, "
        f"{extra}}}, imp::Matrix<imp::{layout}<imp::TileShape{{{tile_rows}, {tile_cols}}}>, {rows}, {cols}>>"
    )


def panels(stage: str, config: str, matrices: tuple[str, ...], cols: int, tokens: int, fields: str) -> str:
    """C++ type of the product of matrices of 24,576 rows in all, with chunks of 512 tokens."""
    return (
        f"imp::{stage}<imp::{config}{{.cols = {cols}, .tokens = 512, .block_tokens = {tokens}, .stride = 24576, "
        f".offset = 0, {fields}}}, {', '.join(matrices)}>"
    )


def pair(layout: str, tile_cols: int, cols: int) -> tuple[str, str]:
    """Two matrices of 12,288 rows each."""
    return (f"imp::Matrix<imp::{layout}<imp::TileShape{{1, {tile_cols}}}>, 12288, {cols}>",) * 2


def wgmma(
    layout: str, tile_cols: int, cols: int, tokens: int, extra: str = "", gate: str = "NoGate", rows: int = 128
) -> str:
    """C++ type of the product of two by warpgroups."""
    fields = f".accumulate = {str(bool(extra)).lower()}, .biased = 2, .halves = {str(extra == 'halves').lower()}"
    fields += f", .rows = {rows}, .paired = {str(gate != 'NoGate').lower()}"
    matrices = (f"imp::{gate}", *pair(layout, tile_cols, cols))
    return panels("GemmWgmma", "WgmmaConfig", matrices, cols, tokens, fields)


def warps(token_warps: int, row_tiles: int, *, half_sums: bool = True) -> str:
    """Fields of the configuration: eight warps, so many of which share rows, each with so many times 16 rows."""
    shared = f".token_warps = {token_warps}, .row_tiles = {row_tiles}, .stages = 6"
    return f".scale = 1.0f, .cap = 0.0f, .warps = 8, {shared}, .half_sums = {str(half_sums).lower()}"


WARPS = warps(1, 1)  # of a tile of 128 rows and as many tokens
NARROW = warps(1, 2)  # 256 rows and 64 tokens


def mma(layout: str, tile_cols: int, cols: int, shared: str = WARPS, tokens: int = 128) -> str:
    """C++ type of the product of two by warps."""
    fields = f".accumulate = true, .biased = 2, {shared}"
    return panels("GemmMma", "MmaConfig", ("imp::NoGate", *pair(layout, tile_cols, cols)), cols, tokens, fields)


def experts(stage: str, matrices: tuple[str, ...], cols: int, fields: str, tokens: int = 64) -> str:
    """C++ type of the product of what 128 experts make, eight of a row."""
    config = "WgmmaConfig" if stage == "GemmWgmma" else "MmaConfig"
    fields = f".accumulate = false, .biased = 0, {fields}, .experts = 128, .used = 8"
    fields += ", .per_sm = 2" if stage == "GemmWgmma" else ""
    return panels(stage, config, matrices, cols, tokens, fields)


def few(kind: str, layouts: tuple[str, ...], tile_cols: int, cols: int, rows: int, stretches: int, fields: str) -> str:
    """C++ type of the product of matrices of 12,288 rows each with a few rows."""
    matrices = (f"imp::Matrix<imp::{layout}<imp::TileShape{{1, {tile_cols}}}>, 12288, {cols}>" for layout in layouts)
    product = f".cols = {cols}, .rows = {rows}, .stretches = {stretches}, .stride = 24576, .offset = 0"
    product = f"imp::BatchProduct{{{product}, .accumulate = false, .biased = 2}}"
    return f"imp::Gemm{kind}<{product}, imp::{kind}Config{{{fields}}}, {', '.join(matrices)}>"


def batch(layouts: tuple[str, ...], tile_cols: int, cols: int, rows: int, slots: int) -> str:
    """That whose activations pass by."""
    return few("Batch", layouts, tile_cols, cols, rows, 4, f".warps = 16, .slots = {slots}, .stages = 5")


def held(layouts: tuple[str, ...], tile_cols: int, cols: int, rows: int) -> str:
    """That whose activations stay in registers, at most those of four groups of columns."""
    fields = ".warps = 8, .slots = 2, .buffers = 1, .fold = 4"
    return few("Held", layouts, tile_cols, cols, rows, cols // 4096, fields)


def batch_wgmma(layouts: tuple[str, ...], tile_cols: int, cols: int, rows: int) -> str:
    """That by warpgroups."""
    stays = rows == 32  # those of 2,048 columns
    fields = f".warps = 12, .stages = {4 if stays else 3}, .stays = {str(stays).lower()}, .chain = 4, .fold = 2"
    return few("BatchWgmma", layouts, tile_cols, cols, rows, cols // 2048, fields)


def encode(cols: int, flags: str) -> str:
    """C++ type of the encoder of chunks of 128 tokens."""
    return f"imp::EncodeActivations<imp::ActivationsConfig{{.cols = {cols}, .tokens = 128, {flags}, .eps = 1e-6f}}>"


PLAIN = ".accumulate = false, .bias = false"
ADD = ".accumulate = true, .bias = false"
STAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "f32": (gemm("imp::GemmBf16", "F32", 1, 2048, 1024, 2048, 128, PLAIN), GEMM_BF16),
    "f16": (gemm("imp::GemmBf16", "F16", 1, 4096, 1024, 4096, 128, ADD), GEMM_BF16),
    "bf16": (gemm("imp::GemmBf16", "BF16", 1, 4096, 6144, 4096, 32, PLAIN), GEMM_BF16),
    "encode_norm": (encode(4096, ".norm = true, .gated = false, .dense = true"), ENCODE),
    "encode_swiglu": (encode(12288, ".norm = false, .gated = true, .dense = true"), ENCODE_GATED),
    "advance": ("imp::Advance<32>", ADVANCE),
    "places": (
        "imp::ExpertPlaces<imp::PlacesConfig{512, 128, 8, 4992, 64}>",
        (FLOATS, "imp::ExpertTile*", "std::int32_t*", STEP),
    ),
    "combine": ("imp::CombineRows<imp::CombineConfig{2048, 8, 128}>", (FLOATS, FLOATS, "float*", STEP)),
}


def gated_experts(stage: str, layout: str, fields: str) -> str:
    """Gates, and what they multiply, of Qwen3-30B-A3B."""
    matrices = (f"imp::Matrix<imp::{layout}<imp::TileShape{{2, 2048}}>, 768, 2048>",) * 2
    return experts(stage, ("imp::Silu", *matrices), 2048, f"{fields}, .paired = true")


def down_experts(stage: str, layout: str, fields: str) -> str:
    """And the matrices behind them."""
    matrix = f"imp::Matrix<imp::{layout}<imp::TileShape{{4, 768}}>, 2048, 768>"
    return experts(stage, ("imp::NoGate", matrix), 768, fields)


ONE_PANELS = (BYTES, FLOATS, BYTES, "imp::Biases<0>", *GEMM_ENDS)
TWO_PANELS = (BYTES, FLOATS, BYTES, BYTES, "imp::Biases<0>", *GEMM_ENDS)
MMA: dict[str, tuple[str, tuple[str, ...]]] = {
    "mma_q8_0": (mma("Q8_0", 4096, 4096), GEMM_PANELS),
    "mma_q4_k": (mma("Q4_K", 4096, 12288), GEMM_PANELS),
    "mma_q6_k": (mma("Q6_K", 4096, 4096), GEMM_PANELS),
    "mma_bf16": (mma("BF16", 2048, 4096, warps(2, 2, half_sums=False)), GEMM_PANELS),
    "mma_q8_0_64": (mma("Q8_0", 4096, 4096, NARROW, 64), GEMM_PANELS),
    "mma_q4_k_64": (mma("Q4_K", 4096, 4096, WARPS, 64), GEMM_PANELS),
}
MMA |= {
    "mma_gated_experts": (gated_experts("GemmMma", "Q4_K", NARROW), TWO_PANELS),
    "mma_down_experts": (down_experts("GemmMma", "Q6_K", NARROW), ONE_PANELS),
}
BATCH: dict[str, tuple[str, tuple[str, ...]]] = {
    "q8_0_8": (batch(("Q8_0", "Q8_0"), 4096, 4096, 8, 2), GEMM_BATCH),
    "q8_0_64": (batch(("Q8_0", "Q8_0"), 4096, 12288, 64, 1), GEMM_BATCH),
    "mixed_32": (batch(("Q4_K", "Q6_K"), 4096, 4096, 32, 1), GEMM_BATCH),
    "q4_k_64": (batch(("Q4_K", "Q4_K"), 4096, 12288, 64, 1), GEMM_BATCH),
    "bf16_16": (batch(("BF16", "BF16"), 2048, 4096, 16, 1), GEMM_BATCH),
    "bf16_64": (batch(("BF16", "BF16"), 2048, 4096, 64, 1), GEMM_BATCH),
    "f16_64": (batch(("F16", "F16"), 2048, 4096, 64, 1), GEMM_BATCH),
}
KEPT: dict[str, tuple[str, tuple[str, ...]]] = {
    "held_q8_0_8": (held(("Q8_0", "Q8_0"), 4096, 4096, 8), GEMM_BATCH),
    "held_mixed_8": (held(("Q4_K", "Q6_K"), 4096, 12288, 8), GEMM_BATCH),
    "held_q8_0_16": (held(("Q8_0", "Q8_0"), 4096, 4096, 16), GEMM_BATCH),
    "held_mixed_16": (held(("Q4_K", "Q6_K"), 4096, 4096, 16), GEMM_BATCH),
    "batch_q8_0_32": (batch_wgmma(("Q8_0", "Q8_0"), 4096, 12288, 32), GEMM_BATCH),
    "batch_mixed_64": (batch_wgmma(("Q4_K", "Q6_K"), 4096, 4096, 64), GEMM_BATCH),
    "batch_bf16_64": (batch_wgmma(("BF16", "BF16"), 2048, 4096, 64), GEMM_BATCH),
}
WGMMA: dict[str, tuple[str, tuple[str, ...]]] = {
    "q8_0_256": (wgmma("Q8_0", 4096, 4096, 256), GEMM_PANELS),
    "q8_0_halves": (wgmma("Q8_0", 4096, 4096, 256, "halves"), GEMM_PANELS),
    "q4_k_halves": (wgmma("Q4_K", 4096, 4096, 128, "halves"), GEMM_PANELS),
    "q8_0_gated": (wgmma("Q8_0", 4096, 4096, 256, gate="Silu"), GEMM_PANELS),
    "q4_k_gated": (wgmma("Q4_K", 4096, 4096, 256, gate="GeluTanh"), GEMM_PANELS),
    "q6_k_gated": (wgmma("Q6_K", 4096, 4096, 128, gate="Gelu"), GEMM_PANELS),
    "bf16_gated": (wgmma("BF16", 2048, 4096, 256, gate="Silu"), GEMM_PANELS),
    "q8_0_64": (wgmma("Q8_0", 4096, 12288, 64), GEMM_PANELS),
    "q4_k_64_of_64": (wgmma("Q4_K", 4096, 12288, 64, "halves", rows=64), GEMM_PANELS),
    "q8_0_gated_of_192": (wgmma("Q8_0", 4096, 4096, 64, gate="Silu", rows=192), GEMM_PANELS),
    "bf16_gated_of_192": (wgmma("BF16", 2048, 4096, 64, gate="Silu", rows=192), GEMM_PANELS),
    "q4_k_256": (wgmma("Q4_K", 4096, 4096, 256, "add"), GEMM_PANELS),
    "q6_k_256": (wgmma("Q6_K", 4096, 12288, 256), GEMM_PANELS),
    "q6_k_128": (wgmma("Q6_K", 4096, 4096, 128), GEMM_PANELS),
    "bf16_256": (wgmma("BF16", 2048, 4096, 256, "add"), GEMM_PANELS),
    "f16_256": (wgmma("F16", 2048, 12288, 256), GEMM_PANELS),
}
WGMMA |= {
    "gated_experts": (gated_experts("GemmWgmma", "Q4_K", ".halves = false"), TWO_PANELS),
    "down_experts": (down_experts("GemmWgmma", "Q6_K", ".halves = false"), ONE_PANELS),
}
# The formats that those above leave out, at each target's way of multiplying; float formats are all there.
REST = sorted(set(formats()) - {"F32", "F16", "BF16", "Q8_0", "Q4_K", "Q6_K"})


def rest(arch: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    found = {}
    for name in REST:
        matrix = place(format_named(name), 4096, 4096)[2]
        if arch == "sm_90a":
            fields = ".accumulate = true, .biased = 0"
            stage = panels("GemmWgmma", "WgmmaConfig", ("imp::NoGate", matrix), 4096, 256, fields)
        else:
            fields = f".accumulate = true, .biased = 0, {WARPS}"
            stage = panels("GemmMma", "MmaConfig", ("imp::NoGate", matrix), 4096, 128, fields)
        found[name.lower()] = (stage, (BYTES, FLOATS, BYTES, "imp::Biases<0>", *GEMM_ENDS))
    return found


HEADERS = (
    "advance",
    "combine",
    "encode_activations",
    "expert_places",
    "gemm_batch",
    "gemm_batch_wgmma",
    "gemm_bf16",
    "gemm_fp4",
    "gemm_held",
    "gemm_mma",
    "gemm_wgmma",
)


def source(stages: Mapping[str, tuple[str, tuple[str, ...]]], arch: str) -> str:
    """One entry for each stage, as the compiler emits it."""
    lines = [f'#include "imp/stage/{name}.h"' for name in HEADERS]
    lines += [f'#include "imp/layout/{name.lower()}.h"' for name in layouts()]
    for name, (stage, types) in stages.items():
        parameters = ", ".join(f"{kind} a{i}" for i, kind in enumerate(types))
        arguments = ", ".join(f"a{i}" for i in range(len(types)))
        per_sm = 2 if ".per_sm = 2" in stage else 1
        lines += [
            f"using {name} = {stage};",
            f'static_assert({name}::kSharedBytes <= {SHARED[arch]}, "more shared memory than a block may have");',
            f'extern "C" __global__ void __launch_bounds__({name}::kThreads, {per_sm}) {name}_0({parameters}) {{',
            f"  {name}::run({{{arguments}}});",  # arrays' braces are left out
            "}",
        ]
    return "\n".join(lines) + "\n"


def nvcc() -> Path:
    """The nvcc of the pip wheels."""
    spec = importlib.util.find_spec("nvidia.cu13")
    if spec is None or not spec.submodule_search_locations:
        pytest.fail("nvcc is not installed; make setup installs it")
    return Path(spec.submodule_search_locations[0]) / "bin" / "nvcc"


def compiled(arch: str, stages: Mapping[str, tuple[str, tuple[str, ...]]], cubin: Path) -> str:
    """Make a cubin; what ptxas said."""
    cu = cubin.with_suffix(".cu")
    cu.write_text(source(stages, arch), "utf-8")
    command = [
        str(nvcc()),
        "-std=c++20",
        "--expt-relaxed-constexpr",
        f"-arch={arch}",
        "--Werror",
        "all-warnings",
        "-Xptxas",
        "-v",
        "-cubin",
    ]
    command += ["-I", str(INCLUDE), "-I", str(INCLUDE / "imp" / "ptx"), str(cu), "-o", str(cubin)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stderr


def spilled(log: str, stages: Mapping[str, tuple[str, tuple[str, ...]]]) -> dict[str, int]:
    """Bytes of stack or of spills, whichever is more, of every stage."""
    sizes = r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    frames = re.findall(rf"Function properties for (\w+)_0\s+{sizes}", log)
    assert {entry for entry, *_ in frames} == set(stages), log
    return {entry: max(map(int, nbytes)) for entry, *nbytes in frames}


MOST = dict.fromkeys(BATCH, BATCH_BYTES) | {"batch_mixed_64": 8}  # that outside its loops


@pytest.mark.parametrize(
    ("arch", "stages"),
    [
        ("sm_90a", STAGES | BATCH),
        ("sm_120a", STAGES | MMA | BATCH),
        ("sm_90a", WGMMA | KEPT),
        pytest.param("sm_90a", rest("sm_90a"), marks=pytest.mark.thorough),
        pytest.param("sm_120a", rest("sm_120a"), marks=pytest.mark.thorough),
    ],
    ids=["sm_90a", "sm_120a", "wgmma", "sm_90a-rest", "sm_120a-rest"],
)
def test_compiles_without_spills(arch: str, stages: Mapping[str, tuple[str, tuple[str, ...]]], tmp_path: Path) -> None:
    log = compiled(arch, stages, tmp_path / "prefill.cubin")
    for entry, nbytes in spilled(log, stages).items():
        assert nbytes <= MOST.get(entry, 0), log
    assert "serialized" not in log  # products of warpgroups that wait for one another
