"""Shapes of published models: every format plans on every target, with the reason where one kernel cannot decode."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.compiler import Compiled, CompileOptions, plan_model
from imp_codegen.formats import formats
from imp_codegen.kernels.form import Wanted
from imp_codegen.layouts import tile_bytes
from imp_codegen.targets import TargetError, targets

# hidden size, MLP, heads, kv heads, head size; config.json of the models
PUBLISHED = {
    "CodeLlama-34B": (8192, 22016, 64, 8, 128),
    "DeepSeek-Coder-33B": (7168, 19200, 56, 8, 128),
    "Llama-2-7B": (4096, 11008, 32, 32, 128),
    "Llama-2-13B": (5120, 13824, 40, 40, 128),
    "Llama-3-8B": (4096, 14336, 32, 8, 128),
    "Llama-3-70B": (8192, 28672, 64, 8, 128),
    "Llama-3.1-405B": (16384, 53248, 128, 8, 128),
    "Llama-3.2-1B": (2048, 8192, 32, 8, 64),
    "Llama-3.2-3B": (3072, 8192, 24, 8, 128),
    "Mistral-Nemo": (5120, 14336, 32, 8, 128),
    "Mistral-Small-24B": (5120, 32768, 32, 8, 128),
    "Qwen2.5-0.5B": (896, 4864, 14, 2, 64),
    "Qwen2.5-1.5B": (1536, 8960, 12, 2, 128),
    "Qwen2.5-3B": (2048, 11008, 16, 2, 128),
    "Qwen2.5-7B": (3584, 18944, 28, 4, 128),
    "Qwen2.5-14B": (5120, 13824, 40, 8, 128),
    "Qwen2.5-32B": (5120, 27648, 40, 8, 128),
    "Qwen2.5-72B": (8192, 29568, 64, 8, 128),
    "Qwen3-0.6B": (1024, 3072, 16, 8, 128),
    "Qwen3-1.7B": (2048, 6144, 16, 8, 128),
    "Qwen3-4B": (2560, 9728, 32, 8, 128),
    "Qwen3-8B": (4096, 12288, 32, 8, 128),
    "Qwen3-14B": (5120, 17408, 40, 8, 128),
    "Qwen3-32B": (5120, 25600, 64, 8, 128),
    "SmolLM2-135M": (576, 1536, 9, 3, 64),
    "SmolLM2-360M": (960, 2560, 15, 5, 64),
    "TinyLlama-1.1B": (2048, 5632, 32, 4, 64),
    "Yi-34B": (7168, 20480, 56, 8, 128),
}
QUANTS = ("F32", "BF16", "Q8_0", "Q4_K_M", "Q6_K")
FORMATS = {"Q4_K_M": "Q4_K"}


def planned(folder: Path, shape: tuple[int, ...], quant: str, form: Wanted = "auto") -> Compiled:
    """One layer and a small vocabulary for all targets, as the formulas say."""
    hidden, mlp, heads, kv_heads, size = shape
    fields = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": size,
        "num_hidden_layers": 1,
        "vocab_size": 300,
        "max_position_embeddings": 4096,
    }
    path = folder / "config.json"
    path.write_text(json.dumps(fields), "utf-8")
    with closing(random_checkpoint(path, quant)) as checkpoint:
        return plan_model(checkpoint, tuple(targets().values()), CompileOptions(tuning=(), form=form))


def check(compiled: Compiled) -> None:
    """All programs are there, in a form with a reason, and no tile is out of proportion."""
    assert {plan.target for plan in compiled.plan.targets} == targets().keys()
    for plan in compiled.plan.targets:
        resident = [kernel.resident for kernel in plan.program("step_r1").kernels]
        assert any(resident) == (plan.form == "persistent")
        assert plan.reason
        limit = targets()[plan.target].max_shared
        assert all(kernel.shared_bytes <= limit for program in plan.programs for kernel in program.kernels)
    for placed in compiled.placed.values():
        if placed.tile is not None and placed.layout is not None:
            assert placed.weight.cols % placed.tile.cols == 0
            assert tile_bytes(placed.layout, placed.tile) <= 20 << 10


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes(tmp_path: Path, name: str) -> None:
    hidden, mlp, heads, _, size = PUBLISHED[name]
    for quant in QUANTS:
        block = formats()[FORMATS.get(quant, quant)].block
        if not any(cols % block for cols in (hidden, mlp, heads * size)):
            check(planned(tmp_path, PUBLISHED[name], quant))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(quant=st.sampled_from(QUANTS), blocks=st.integers(1, 2000), hidden=st.integers(1, 100))
def test_any_multiple_of_the_block(tmp_path: Path, quant: str, blocks: int, hidden: int) -> None:
    block = max(formats()[FORMATS.get(quant, quant)].block, 16)
    check(planned(tmp_path, (hidden * block, min(blocks * block, 65536), 16, 2, 16), quant))


def test_rows_that_no_kernel_takes_are_refused_in_true_words(tmp_path: Path) -> None:
    with pytest.raises(TargetError) as error:
        planned(tmp_path, (256 * 400, 256, 16, 2, 16), "Q8_0")
    assert "its rows of 102400 weights need" in str(error.value)
    assert "quantised" not in str(error.value)


def test_warps_give_way_to_a_long_vector(tmp_path: Path) -> None:
    """Of 17408 floats beside eight tiles, one too many on a card with 99 KB."""
    compiled = planned(tmp_path, PUBLISHED["Qwen3-14B"], "BF16")
    (choice,) = (
        chosen.choice for name, chosen in compiled.streams["sm_120a"].items() if name.startswith("project 5120x17408")
    )
    assert (choice.warps, choice.slots) == (7, 1)


def test_warps_give_way_to_the_queries_of_a_group(tmp_path: Path) -> None:
    """Eight queries' parts and two tiles in flight of eight warps are more than 99 KB."""
    compiled = planned(tmp_path, PUBLISHED["Qwen3-32B"], "Q8_0", "graph")
    for name, warps in (("sm_120a", 7), ("sm_90a", 11)):
        (kernel,) = (k for k in compiled.plan.target(name).program("step_r1").kernels if k.name.endswith("attention"))
        assert kernel.block == warps * 32
