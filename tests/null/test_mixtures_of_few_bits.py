"""Which matrices get more bits in files of three bits and less, as llama.cpp's src/llama-quant.cpp has it."""

from __future__ import annotations

import pytest

from imp_codegen.checkpoint.mixtures import format_in_mixture

LAYERS = 16
ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_output")


def formats_of(quant: str, *, shared: int, experts: int = 0) -> dict[str, str]:
    """Of the ends, and of each kind of matrix in the first layer, the third, the eighth and the last."""
    queries, width = 1024, 2048
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (4096, 1024), "output.weight": (4096, 1024)}
    stack, suffix = ((experts,), "_exps") if experts else ((), "")
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        for part in ATTENTION:
            shapes[f"{block}.{part}.weight"] = (queries // shared if part in ("attn_k", "attn_v") else queries, 1024)
        for part in ("ffn_gate", "ffn_up"):
            shapes[f"{block}.{part}{suffix}.weight"] = (*stack, width, 1024)
        shapes[f"{block}.ffn_down{suffix}.weight"] = (*stack, 1024, width)
    found = {name: format_in_mixture(f"{name}.weight", quant, shapes) for name in ("token_embd", "output")}
    for part in (*ATTENTION, *(f"{each}{suffix}" for each in ("ffn_gate", "ffn_up", "ffn_down"))):
        kinds = [format_in_mixture(f"blk.{layer}.{part}.weight", quant, shapes) for layer in (0, 2, 7, 15)]
        found[part.removesuffix("_exps")] = kinds[0] if len(set(kinds)) == 1 else " ".join(kinds)
    return found


def all_but(base: str, **other: str) -> dict[str, str]:
    parts = ("token_embd", "output", *ATTENTION, "ffn_gate", "ffn_up", "ffn_down")
    return dict.fromkeys(parts, base) | other


FIRST_TWO = {"IQ1": "Q2_K IQ1_S IQ1_S IQ1_S", "XXS": "Q2_K IQ2_XXS IQ2_XXS IQ2_XXS", "M": "IQ3_S IQ2_S IQ2_S IQ2_S"}
MIDDLE = "IQ3_S IQ3_XXS IQ3_XXS IQ3_S"


@pytest.mark.parametrize(
    ("quant", "shared", "experts", "expected"),
    [
        ("IQ3_S", 4, 0, all_but("IQ3_S", output="Q6_K", attn_v="Q4_K")),
        ("IQ3_S", 1, 0, all_but("IQ3_S", output="Q6_K")),
        (
            "IQ3_M",
            1,
            0,
            all_but("IQ3_S", output="Q6_K", attn_v="Q4_K", attn_output="Q4_K", ffn_down="Q4_K IQ3_S IQ3_S IQ3_S"),
        ),
        (
            "IQ3_M",
            4,
            8,
            all_but(
                "IQ3_S",
                **{"output": "Q6_K", "attn_k": "Q8_0", "attn_v": "Q8_0", "attn_output": "Q5_K"},
                ffn_down="Q4_K IQ3_S Q4_K Q4_K",
            ),
        ),
        (
            "IQ3_XS",
            4,
            0,
            all_but(
                "IQ3_S",
                **{"output": "Q6_K", "attn_q": "IQ3_XXS", "attn_k": "IQ3_XXS", "attn_v": "Q4_K"},
                **{"ffn_gate": MIDDLE, "ffn_up": MIDDLE},
            ),
        ),
        (
            "IQ3_XXS",
            4,
            0,
            all_but(
                "IQ3_XXS",
                **{"token_embd": "IQ3_S", "output": "Q5_K", "attn_q": "IQ2_S", "attn_k": "IQ2_S", "attn_v": "Q4_K"},
                attn_output="IQ3_S",
            ),
        ),
        (
            "IQ2_M",
            1,
            0,
            all_but(
                "IQ2_S",
                **{"token_embd": "IQ3_S", "output": "Q5_K", "attn_v": "IQ3_S", "attn_output": "IQ3_S"},
                ffn_down=FIRST_TWO["M"],
            ),
        ),
        (
            "IQ2_XXS",
            4,
            0,
            all_but("IQ2_XXS", token_embd="Q2_K", output="Q5_K", attn_v="Q4_K", ffn_down=FIRST_TWO["XXS"]),
        ),
        (
            "IQ2_XXS",
            1,
            8,
            all_but(
                "IQ2_XXS",
                **{"token_embd": "Q2_K", "output": "Q5_K", "attn_k": "Q4_K", "attn_v": "Q4_K", "attn_output": "Q5_K"},
                ffn_down=FIRST_TWO["XXS"],
            ),
        ),
        (
            "IQ1_S",
            1,
            0,
            all_but(
                "IQ1_S",
                **{"token_embd": "Q2_K", "output": "Q5_K", "attn_v": "Q2_K", "attn_output": "IQ2_XXS"},
                ffn_down=FIRST_TWO["IQ1"],
            ),
        ),
        ("TQ2_0", 4, 0, all_but("TQ2_0", token_embd="Q4_K", output="Q6_K")),
    ],
)
def test_mixture(quant: str, shared: int, experts: int, expected: dict[str, str]) -> None:
    assert formats_of(quant, shared=shared, experts=experts) == expected


def test_the_name_of_a_mixture_and_its_format_may_differ() -> None:
    found = formats_of("IQ2_S", shared=4)
    assert (found["ffn_up"], found["attn_output"]) == ("IQ2_XS", "IQ3_S")
