"""The kernels that the simulator runs, compiled by nvcc: no warnings, no spills, the right instructions."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
INCLUDE = TESTS.parent / "templates" / "include"
KERNELS = ("isa.cu", "bugs.cu", "resident.cu", "wgmma.cu", "fp4.cu")
FEW = {"wgmma.cu": 3, "fp4.cu": 2}  # kernels, where there are fewer than 13
ONLY_90A = {"wgmma.cu"}
INSTRUCTIONS = {
    "isa.cu": [
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
        "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16",
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16",
        "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16",
        "movmatrix.sync.aligned.m8n8.trans.b16",
        "cp.async.cg.shared.global",
        "ld.global.nc.L1::no_allocate.L2::cache_hint.v4.b32",
        "ld.relaxed.gpu.global.b32",
        "st.release.sys.global.b64",
        "redux.sync.add.s32",
        "ex2.approx.f32",
        "fma.rn.f16x2",
        "cvt.rn.f16x2.e4m3x2",
    ],
    "wgmma.cu": [
        *(f"wgmma.mma_async.sync.aligned.m64n{n}k16.f32.f16.f16" for n in (64, 128, 256)),
        "wgmma.fence.sync.aligned",
        "wgmma.commit_group.sync.aligned",
        "wgmma.wait_group.sync.aligned",
    ],
    "fp4.cu": ["cvt.rn.satfinite.e4m3x2.f32"],
    "resident.cu": [
        "mbarrier.init.shared::cta.b64",
        "fence.mbarrier_init.release.cluster",
        "mbarrier.arrive.expect_tx.shared::cta.b64 _",
        "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes.L2::cache_hint",
        "mbarrier.arrive.shared::cta.b64 _",
        "mbarrier.test_wait.parity.shared::cta.b64",
        "mbarrier.try_wait.parity.shared::cta.b64",
        "ld.relaxed.gpu.global.v4.b32",
        "st.relaxed.gpu.global.b32",
        "red.relaxed.gpu.global.add.u32",
    ],
}

ONLY_120A = {
    "fp4.cu": [
        "mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X.f32.e2m1.e2m1.f32.ue4m3",
        "cvt.rn.satfinite.e2m1x2.f32",
    ]
}


def _nvcc() -> Path:
    spec = importlib.util.find_spec("nvidia")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(location).glob("cu*/bin/nvcc")):
            return path
    pytest.fail("nvcc is not installed; make setup installs it")


def _compile(source: str, architecture: str, kind: str, output: Path) -> str:
    command = [_nvcc(), "-std=c++20", "--Werror", "all-warnings", "-Xptxas", "-v", kind, f"-I{INCLUDE}"]
    command += [f"-I{INCLUDE / 'imp' / 'ptx'}", f"-gencode=arch=compute_{architecture},code=sm_{architecture}"]
    done = subprocess.run(
        [*map(str, command), str(TESTS / "sim" / "kernels" / source), "-o", str(output)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


BUILDS = [(source, arch) for source in KERNELS for arch in ("90a", "120a") if arch == "90a" or source not in ONLY_90A]


@pytest.mark.parametrize(("source", "architecture"), BUILDS)
def test_compiles_without_spills(source: str, architecture: str, tmp_path: Path) -> None:
    log = _compile(source, architecture, "-cubin", tmp_path / "isa.cubin")
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    assert len(spills) >= FEW.get(source, 13)
    assert set(spills) == {("0", "0", "0")}


@pytest.mark.parametrize(("source", "architecture"), [build for build in BUILDS if build[0] in INSTRUCTIONS])
def test_emits_the_instructions(source: str, architecture: str, tmp_path: Path) -> None:
    ptx = tmp_path / "isa.ptx"
    target = f"-arch=compute_{architecture}"
    command = [_nvcc(), "-std=c++20", "-ptx", target, f"-I{INCLUDE}", f"-I{INCLUDE / 'imp' / 'ptx'}"]
    subprocess.run([*map(str, command), str(TESTS / "sim" / "kernels" / source), "-o", str(ptx)], check=True)
    text = ptx.read_text("utf-8")
    wanted = INSTRUCTIONS[source] + (ONLY_120A.get(source, []) if architecture == "120a" else [])
    assert [name for name in wanted if name not in text] == []
