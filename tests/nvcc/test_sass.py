"""What ptxas made of the decode kernels: weights asked for before the wait, read 16 bytes at a time, no spills."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from imp_codegen.build import Unit, build
from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.compiler import CompileOptions, plan_model
from pieces import build_pieces, with_one_chunk

SHAPES = Path(__file__).resolve().parents[2] / "models" / "shapes"
STREAMED = ("qkv", "project", "gate_up", "head")
TARGETS = ("sm_90a", "sm_120a")


def _nvdisasm() -> Path:
    spec = importlib.util.find_spec("nvidia")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(location).glob("cu*/bin/nvdisasm")):
            return path
    pytest.fail("nvdisasm is not installed; make setup installs it")


def instructions(code: bytes, folder: Path) -> dict[str, list[str]]:
    """The instructions' names of every kernel of a cubin, in their order."""
    cubin = folder / "code.cubin"
    cubin.write_bytes(code)
    done = subprocess.run([_nvdisasm(), "-c", cubin], capture_output=True, text=True, check=True)
    _, *parts = re.split(r"^\.text\.(\w+):\n", done.stdout, flags=re.MULTILINE)
    found = {}
    for entry, text in zip(parts[::2], parts[1::2], strict=True):
        found[entry] = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ +)?([A-Z][\w.]*)", text, flags=re.MULTILINE)
    return found


def _compiled(shape: str, quant: str, target: str, form: str, folder: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Every kernel's instructions, and the entries of a decode step."""
    with closing(random_checkpoint(SHAPES / f"{shape}.json", quant)) as checkpoint:
        emitted = plan_model(checkpoint, (with_one_chunk(target, 0),), CompileOptions(form=form)).emitted[target]
    ((pieces, _),) = build_pieces({target: emitted}).values()
    (decode,) = (program for program in emitted.programs if program.name == "step_r1")
    sass = {entry: found for code in pieces for entry, found in instructions(code, folder).items()}
    return sass, list(dict.fromkeys(kernel.entry for kernel in decode.kernels))


@pytest.mark.thorough
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("shape", "quant"),
    [("qwen3-8b", "Q8_0"), ("qwen3-8b", "Q4_K_M"), ("llama-3.2-1b", "BF16")],
)
def test_kernels_of_the_graph(tmp_path: Path, shape: str, quant: str, target: str) -> None:
    sass, entries = _compiled(shape, quant, target, "graph", tmp_path)
    streamed = [entry for entry in entries if entry.startswith(STREAMED)]
    assert {entry.rsplit("_", 1)[0] for entry in streamed} == set(STREAMED)
    for entry in entries:
        count = Counter(sass[entry])
        assert not [name for name in count if name.startswith(("STL", "LDL"))], f"{entry} spills"
        if entry not in streamed and not entry.startswith("attention"):
            continue
        # The first tiles are asked for before the kernel waits for the one before it.
        (wait,) = (i for i, name in enumerate(sass[entry]) if name == "ACQBULK")
        copies = [i for i, name in enumerate(sass[entry]) if name.startswith("UBLKCP")]
        assert copies, entry
        assert copies[0] < wait, f"{entry}: waits before it asks for weights"
        if entry in streamed:
            wide = 16 * count["LDS.128"] + 8 * count["LDS.64"]  # 8 bytes: a third of Q6_K's codes
            narrow = 2 * count["LDS.U16"] + 2 * count["LDS.S16"]
            assert count["LDS.128"] >= 8, f"{entry}: {count}"
            assert wide >= 6 * narrow, f"{entry}: {count}"
            assert not [name for name in count if re.fullmatch(r"LDS\.[US]8.*", name)], f"{entry}: reads bytes"


@pytest.mark.parametrize("target", TARGETS)
def test_the_step_kernel(tmp_path: Path, target: str) -> None:
    sass, entries = _compiled("qwen3-0.6b", "Q8_0", target, "persistent", tmp_path)
    assert "step_0" in entries
    count = Counter(sass["step_0"])
    assert count["LDS.128"] >= 32, count
    assert sum(n for name, n in count.items() if name.startswith("UBLKCP")) >= 6, count  # five products and the cache
    assert sum(n for name, n in count.items() if name.startswith("LDSM")) >= 16, count
    assert not [name for name in count if re.fullmatch(r"LDS\.[US]8.*", name)], count


@pytest.mark.parametrize("target", TARGETS)
def test_products_and_sums_are_fused_only_where_the_source_says_so(tmp_path: Path, target: str) -> None:
    """The same expression in two kernels would else be rounded once in one and twice in the other."""
    source = 'extern "C" __global__ void k(float* x) { x[0] = x[1] * x[2] + x[3]; }\n'
    (built,) = build((Unit(target, "nvcc", source),))
    found = Counter(instructions(built.code, tmp_path)["k"])
    assert (found["FMUL"], found["FADD"], found["FFMA"]) == (1, 1, 0)
