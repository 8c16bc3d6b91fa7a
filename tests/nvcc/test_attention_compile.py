"""Attention compiles for both GPUs at the heads of well-known models, in decode and prefill, without spills."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from attention_cases import Heads
from imp_codegen.build import Unit, build
from imp_codegen.kernels.attention.sizes import LEAST_SLOTS, attention_bytes, chunk_tiles, latent_bytes
from imp_codegen.targets import find_target

FRAME = r"properties for (\w+)\n +(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
# What attention of prompts keeps from one tile of queries to the next: beside the loop over keys, not in it.
TILE_BYTES = 24
CASES = {
    "qwen3_8b": Heads(32, 8, 128, qk_norm=True),
    "demo": Heads(8, 2, 32, interleaved=True),
    "heads_of_64": Heads(16, 8, 64),
    "gpt_oss": Heads(64, 8, 64, magnitude=1.3466, window=128, sinks=True),
    "gpt_oss_far": Heads(64, 8, 64, magnitude=1.3466, sinks=True),
    "phi3_mini": Heads(32, 32, 96, window=2047, magnitude=1.19),
    "phi4_mini": Heads(24, 8, 128, rope_dim=96, magnitude=1.19),
    "gemma3_12b": Heads(16, 8, 256, qk_norm=True, window=1024),
    "gemma2_9b": Heads(16, 8, 256, window=4096, soft_cap=50.0),
    "gemma3_1b": Heads(4, 1, 256, qk_norm=True, window=512),
    "groups_of_8": Heads(8, 1, 256),
    "odd_size": Heads(8, 2, 144),
    "smollm3": Heads(16, 4, 128, rope_dim=0),
    "gemma4_12b": Heads(16, 8, 512, qk_norm=True, v_norm=True),
    "olmo2_13b": Heads(40, 40, 128, qk_norm=True, whole_norm=True),
    "gemma4_31b": Heads(32, 4, 512, qk_norm=True, v_norm=True, tied=True),
    "gemma4_e2b": Heads(8, 1, 512, qk_norm=True, shared=True),
}


def entry(name: str, stage: str, parameters: str, arguments: str, most: int, per_sm: int = 1) -> str:
    """A kernel of one stage, as the compiler emits it."""
    return (
        f"using {name}_t = {stage};\n"
        f'static_assert({name}_t::kSharedBytes <= {most}, "more shared memory than a CTA may have");\n'
        f'extern "C" __global__ void __launch_bounds__({name}_t::kThreads, {per_sm}) {name}({parameters}) {{\n'
        f"  {name}_t::run({arguments});\n}}\n"
    )


def source(target: str) -> str:
    """Three entries for each case, with as many warps as the target has room for."""
    facts = find_target(target)
    chunk = facts.chunks[-1]
    lines = [f'#include "imp/stage/{name}.h"\n' for name in ("attention_decode", "attention_prefill", "rope_append")]
    lines.append('#include "imp/layout/cache_f16.h"\n')
    header, rows, sequences = (f"const imp::Step{kind}*" for kind in ("Header", "Row", "Sequence"))
    floats, ints, bytes_, most = "const float*", "const std::int32_t*", "std::uint8_t*", facts.max_shared
    for name, case in CASES.items():
        warps = next(
            n
            for n in range(facts.step_warps, 0, -1)
            if attention_bytes(case, 2 * case.head_dim, n, LEAST_SLOTS) <= most
        )
        tiles = chunk_tiles(case, chunk, facts)
        prompts = replace(case, tokens=chunk, groups=tiles.groups, wgmma=tiles.wgmma, folds=tiles.folds)
        splits = max(facts.attention_ctas // (case.heads // case.group), 1)
        config = case.config("AttentionConfig", splits=splits, warps=warps)
        stage = f"imp::AttentionDecode<{config}, {case.row}, {LEAST_SLOTS}>"
        lines.append(entry(f"decode_{name}", stage, f"const __grid_constant__ decode_{name}_t::Args a", "a", most))
        for kind, stage, types in (
            (
                "append",
                f"imp::RopeAppend<{case.config('RopeAppendConfig')}, {case.row}>",
                ("float*", floats, floats, "const std::uint64_t*", bytes_, ints, ints, header, rows),
            ),
            (
                "attend",
                f"imp::AttentionPrefill<{prompts.config('AttentionPrefillConfig')}, {case.row}>",
                (
                    floats,
                    f"const {bytes_}",
                    ints,
                    ints,
                    "float*",
                    "std::uint32_t*",
                    "float*",
                    header,
                    sequences,
                    floats,
                ),
            ),
        ):
            parameters = ", ".join(f"{each} a{i}" for i, each in enumerate(types))
            arguments = "{" + ", ".join(f"a{i}" for i in range(len(types))) + "}"
            per_sm = tiles.per_sm if kind == "attend" else 1
            lines.append(entry(f"{kind}_{name}", stage, parameters, arguments, most, per_sm))
    return "".join(lines)


# V2-Lite's heads and V3's.
LATENTS = {
    f"latents_of_{heads}": Heads(heads, 1, 576, rope_dim=64, interleaved=True, latent=512) for heads in (16, 128)
}


def latent_source(target: str) -> str:
    """Of each the kernels of a step of one row and of several, of the sum, and of prompts."""
    facts = find_target(target)
    names = ("latent_decode", "latent_merge", "latent_prefill")
    lines = [f'#include "imp/stage/{name}.h"\n' for name in names] + ['#include "imp/layout/cache_f16.h"\n']
    for name, case in LATENTS.items():
        prepared = replace(case, shared=True, rope_dim=0)
        teams = next(n for n in (2, 1) if latent_bytes(case, 1152, n, 3) <= facts.max_shared)
        alone = case.config("AttentionConfig", splits=16, warps=4 * teams)
        several = case.config("AttentionConfig", splits=16, warps=4)
        prompts = prepared.config("AttentionConfig", splits=1, warps=8)
        for kind, stage in (
            ("alone", f"imp::LatentDecode<{alone}, {case.row}, 3>"),
            ("several", f"imp::LatentDecode<{several}, {case.row}, 3, 64, {case.width}>"),
            ("merge", f"imp::LatentMerge<{several}, 64>"),
            ("prompts", f"imp::LatentPrefill<{prompts}, {case.row}, 4, {case.width}>"),
        ):
            each = f"{kind}_{name}"
            lines.append(entry(each, stage, f"const __grid_constant__ {each}_t::Args a", "a", facts.max_shared))
    return "".join(lines)


@pytest.mark.parametrize("target", ["sm_90a", "sm_120a"])
def test_latents_compile_without_spills(target: str) -> None:
    (built,) = build((Unit(target, "nvcc", latent_source(target)),))
    frames = {entry: tuple(map(int, sizes)) for entry, *sizes in re.findall(FRAME, built.log)}
    assert len(frames) == 4 * len(LATENTS), built.log
    assert {entry for entry, sizes in frames.items() if max(sizes)} == set()


@pytest.mark.parametrize("target", ["sm_90a", "sm_120a"])
def test_compiles_without_spills(target: str) -> None:
    (built,) = build((Unit(target, "nvcc", source(target)),))
    frames = {entry: tuple(map(int, sizes)) for entry, *sizes in re.findall(FRAME, built.log)}
    assert len(frames) == 3 * len(CASES), built.log
    for entry, sizes in frames.items():
        assert max(sizes) <= (TILE_BYTES if entry.startswith("attend_") else 0), entry
