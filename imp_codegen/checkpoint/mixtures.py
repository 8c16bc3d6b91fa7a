"""What llama-quantize's names mean: a format, and which matrices get another one.

https://github.com/ggml-org/llama.cpp, src/llama-quant.cpp, without an importance matrix where it asks for none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from imp_codegen.checkpoint.random_blocks import can_be_random
from imp_codegen.formats import format_named, formats


@dataclass(frozen=True, slots=True)
class _Place:
    """A matrix of a layer, or if `stacked` experts': `shared`, how many heads of queries share one of values.

    `experts`: how many the layer has.
    """

    part: str
    layer: int
    layers: int
    shared: int
    experts: int
    stacked: bool

    @property
    def first_eighth(self) -> bool:
        return self.layer < self.layers // 8

    @property
    def more_bits(self) -> bool:
        """In the first and last eighth, and every third between."""
        eighth = self.layers // 8
        return self.first_eighth or self.layer >= 7 * self.layers // 8 or (self.layer - eighth) % 3 == 2


def _usual(place: _Place, base: str) -> str:
    return base


def _medium(place: _Place, base: str) -> str:
    return "Q6_K" if place.part in ("attn_v", "ffn_down") and place.more_bits else base


def _q4_k_s(place: _Place, base: str) -> str:
    more = {"attn_v": place.layer < 4, "ffn_down": place.first_eighth}
    return "Q5_K" if more.get(place.part) else base


def _q3_k_m(place: _Place, base: str) -> str:
    down = "Q5_K" if place.layer < place.layers // 16 else "Q4_K"
    more = {"attn_v": "Q5_K" if place.layer < 2 else "Q4_K", "attn_output": "Q4_K", "ffn_down": down}
    return more.get(place.part, base)


def _q2_k(place: _Place, base: str) -> str:
    more = {"attn_v": "Q4_K" if place.shared >= 4 else "Q3_K", "attn_output": "Q3_K", "ffn_down": "Q3_K"}
    return more.get(place.part, base)


def _iq4(place: _Place, base: str) -> str:
    more = {"attn_v": place.shared >= 4, "ffn_down": place.first_eighth}
    return "Q5_K" if more.get(place.part) else base


def _iq3_xs(place: _Place, base: str) -> str:
    between = not place.first_eighth and place.layer < 7 * place.layers // 8
    if place.part in ("attn_q", "attn_k") or (place.part in ("ffn_gate", "ffn_up") and between):
        return "IQ3_XXS"
    return _iq3_s(place, base)


def _iq3_s(place: _Place, base: str) -> str:
    return "Q4_K" if place.part == "attn_v" and place.shared >= 4 else base


def _iq3_m(place: _Place, base: str) -> str:
    more = place.first_eighth or (place.experts == 8 and place.more_bits)
    return "Q4_K" if place.part in ("attn_v", "attn_output") or (place.part == "ffn_down" and more) else base


def _iq3_xxs(place: _Place, base: str) -> str:
    other = {"attn_q": "IQ2_S", "attn_k": "IQ2_S", "attn_output": "IQ3_S"}
    return other.get(place.part, _iq3_s(place, base))


def _few_bits(place: _Place, base: str, more: str, output: str) -> str:
    """What matrices of two bits and less are mixed with, in most places `more`."""
    other = {"attn_v": "Q4_K" if place.shared >= 4 or place.experts >= 4 else more, "attn_output": output}
    if place.first_eighth:
        other["ffn_down"] = more
    if place.experts == 8:
        other |= {"attn_k": "Q4_K", "attn_output": "Q5_K"}
    return other.get(place.part, base)


def _iq1(place: _Place, base: str) -> str:
    return _few_bits(place, base, "Q2_K", "IQ2_XXS")


def _iq2(place: _Place, base: str) -> str:
    return _few_bits(place, base, "Q2_K", base)


def _iq2_more(place: _Place, base: str) -> str:
    return _few_bits(place, base, "IQ3_S", "IQ3_S")


def _mxfp4_moe(place: _Place, base: str) -> str:
    return "MXFP4" if place.stacked else base


# A name, its format, and what a layer's matrices get.
_MIXTURES: Mapping[str, tuple[str, Callable[[_Place, str], str]]] = {
    "Q5_K_M": ("Q5_K", _medium),
    "Q5_K_S": ("Q5_K", _usual),
    "Q4_K_M": ("Q4_K", _medium),
    "Q4_K_S": ("Q4_K", _q4_k_s),
    "Q3_K_M": ("Q3_K", _q3_k_m),
    "Q2_K": ("Q2_K", _q2_k),
    "IQ4_XS": ("IQ4_XS", _iq4),
    "IQ4_NL": ("IQ4_NL", _iq4),
    "IQ3_M": ("IQ3_S", _iq3_m),
    "IQ3_S": ("IQ3_S", _iq3_s),
    "IQ3_XS": ("IQ3_S", _iq3_xs),
    "IQ3_XXS": ("IQ3_XXS", _iq3_xxs),
    "IQ2_M": ("IQ2_S", _iq2_more),
    "IQ2_S": ("IQ2_XS", _iq2_more),
    "IQ2_XS": ("IQ2_XS", _iq2),
    "IQ2_XXS": ("IQ2_XXS", _iq2),
    "IQ1_M": ("IQ1_M", _iq1),
    "IQ1_S": ("IQ1_S", _iq1),
    "FP8": ("FP8_BLOCKS", _usual),
    "MXFP4_MOE": ("Q8_0", _mxfp4_moe),
    **{name: (name, _usual) for name in ("Q5_1", "Q5_0", "Q4_1", "Q4_0", "TQ2_0", "TQ1_0")},
}
_FEW_BITS = ("IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S")
# Of the logits, in all others Q6_K; FP8 as published.
_LOGITS = {"FP8": "BF16", "MXFP4_MOE": "Q8_0", **dict.fromkeys(("IQ3_XXS", *_FEW_BITS), "Q5_K")}
# Of embeddings that are not those of the logits, in all others the mixture's.
_EMBEDDINGS = {
    **dict.fromkeys(("IQ3_XXS", "IQ2_M", "IQ2_S"), "IQ3_S"),
    **dict.fromkeys(("IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"), "Q2_K"),
    **dict.fromkeys(("TQ2_0", "TQ1_0"), "Q4_K"),
}
# Where a row is no whole number of blocks.
_FALLBACKS: Mapping[str, str] = {
    **{"Q6_K": "Q8_0", "Q5_K": "Q5_1", "Q4_K": "Q5_0"},
    **dict.fromkeys(("Q3_K", "Q2_K", "IQ4_XS", "IQ3_S", "IQ3_XXS"), "IQ4_NL"),
    **dict.fromkeys(("IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"), "IQ4_NL"),
    **dict.fromkeys(("TQ2_0", "TQ1_0"), "Q4_0"),
}


def _of_eight(part: str, fmt: str) -> str:
    """What the few matrices get that all of eight experts share, as they are a small part of the whole."""
    if part in ("attn_k", "attn_v"):
        return "Q8_0"
    few = ("Q2_K", "Q3_K", "Q4_K", "IQ4_NL", "IQ4_XS", "IQ3_S", "IQ3_XXS")
    return "Q5_K" if part == "attn_output" and fmt in few else fmt


def quantisations() -> tuple[str, ...]:
    """Every name: formats, of which all matrices then are, and mixtures."""
    mixed = [name for name, (base, _) in _MIXTURES.items() if base in formats()]
    pure = [name for name, fmt in formats().items() if can_be_random(fmt) and name not in mixed]
    return (*pure, *mixed)


def format_in_mixture(name: str, quant: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Format of a matrix, out of those of a model by their shapes."""
    if "ffn_gate_inp" in name:
        return "F32"  # a router, which no file quantises
    if quant not in _MIXTURES:
        return quant
    base, chosen = _MIXTURES[quant]
    fmt = base
    if name == ("output.weight" if "output.weight" in shapes else "token_embd.weight"):
        fmt = _LOGITS.get(quant, "Q6_K")
    elif name == "token_embd.weight":
        fmt = _EMBEDDINGS.get(quant, base)
    elif part := re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name):
        layers = 1 + max(int(each[1]) for other in shapes if (each := re.match(r"blk\.(\d+)\.", other)))
        queries, values = (shapes.get(f"blk.{part[1]}.{each}.weight", (1,)) for each in ("attn_q", "attn_v"))
        which = part[2].removesuffix("_exps")
        experts = shapes.get(f"blk.{part[1]}.ffn_gate_exps.weight", (0,))[0]
        place = _Place(which, int(part[1]), layers, queries[0] // values[0], experts, stacked=which != part[2])
        fmt = chosen(place, base)
        if experts == 8 and quant not in ("FP8", *_FEW_BITS):
            fmt = _of_eight(place.part, fmt)
    return _FALLBACKS.get(fmt, fmt) if shapes[name][-1] % format_named(fmt).block else fmt
