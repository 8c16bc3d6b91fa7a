"""Prefill with weights and activations of four bits on sm_120a: FP4 tensor cores, wide loads, no spills."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from test_prefill_compile import (
    ENCODE,
    GEMM_PANELS,
    NARROW,
    ONE_PANELS,
    TWO_PANELS,
    compiled,
    down_experts,
    encode,
    gated_experts,
    mma,
    spilled,
)
from test_sass import instructions

FP4_WARPS = NARROW.replace("half_sums = true", "half_sums = false")


def product(cols: int, row_tiles: int, tokens: int) -> str:
    """C++ type of the product of two with FP4 on both sides."""
    warps = FP4_WARPS.replace("row_tiles = 2", f"row_tiles = {row_tiles}")
    return mma("NVFP4", 4096, cols, warps, tokens).replace("GemmMma", "GemmFp4")


FP4: dict[str, tuple[str, tuple[str, ...]]] = {
    "fp4_256x128": (product(12288, 2, 128), GEMM_PANELS),
    "fp4_128x128": (product(4096, 1, 128), GEMM_PANELS),
    "fp4_256x64": (product(4096, 2, 64), GEMM_PANELS),
    "fp4_128x64": (product(4096, 1, 64), GEMM_PANELS),
    "fp4_gated_experts": (gated_experts("GemmFp4", "NVFP4", FP4_WARPS), TWO_PANELS),
    "fp4_down_experts": (down_experts("GemmFp4", "NVFP4", FP4_WARPS), ONE_PANELS),
    "fp4_encode": (
        f"{encode(4096, '.norm = true, .gated = false, .dense = false')[:-2]}, .panels = true, .fp4 = true}}>",
        ENCODE,
    ),
}


def test_products_are_those_of_fp4_tensor_cores(tmp_path: Path) -> None:
    log = compiled("sm_120a", FP4, tmp_path / "fp4.cubin")
    assert set(spilled(log, FP4).values()) == {0}
    sass = instructions((tmp_path / "fp4.cubin").read_bytes(), tmp_path)
    for entry, found in sass.items():
        count = Counter(found)
        if entry == "fp4_encode_0":
            assert [name for name in count if name.startswith("F2FP.SATFINITE.E2M1")], count
            continue
        wide, tall = "x128" in entry, not entry.startswith("fp4_128")
        assert count["OMMA.SF.16864.F32.E2M1.E2M1.UE4M3.4X"] == (1 + tall) * (16 if wide else 8) * 2, entry
        assert not [name for name in count if "MMA" in name and not name.startswith("OMMA")], entry
        assert count["LDS.128"] >= (16 if wide else 8), entry
        assert sum(n for name, n in count.items() if name.startswith("LDG") and ".128" in name) >= 4, entry
