"""The codes that gate and up of one row make of their results for the experts' down product, once for all its CTAs."""

from __future__ import annotations

from imp_codegen.graph import Weight
from imp_codegen.kernels.kernel_spec import Param
from imp_codegen.kernels.lowering import Lowering, round_up

_BLOCK = 32  # values of one scale
# A CTA makes whole blocks, so that some have more than their share, for whom all wait: on an H200 a tenth more costs
# gate and up of gpt-oss 1.3 us of 13.3, and down gains 2.1 of 9.3.
_UNEVEN = 1.12


def makes_codes(low: Lowering, pair: tuple[Weight, Weight], down: Weight, used: int) -> bool:
    """Whether they are made where that pair, gate and up, is multiplied: each block by one CTA."""
    unit = max(low.tile(weight).rows for weight in pair)
    if low.several or not low.wants_q8(down) or down.cols % _BLOCK or _BLOCK % unit:
        return False
    blocks = used * down.cols // _BLOCK
    return _most(low, blocks) * low.target.sms <= _UNEVEN * blocks


def codes(low: Lowering, ctype: str, down: Weight, used: int) -> Param:
    """Where they lie, with their scales behind them (stage/q8_block.h)."""
    cols = used * down.cols
    return Param(ctype, low.buffer("experts.codes", round_up(cols, 128) + round_up(cols // 4, 16)))


def held_bytes(low: Lowering, down: Weight, used: int) -> int:
    """Shared memory of the results that a CTA has yet to encode."""
    return _most(low, used * down.cols // _BLOCK) * _BLOCK * 4


def _most(low: Lowering, blocks: int) -> int:
    return -(-blocks // low.target.sms)
