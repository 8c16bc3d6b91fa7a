"""The CPU: the same source, compiled by g++ and run thread by thread. Few and small CTAs, since every thread costs."""

from imp_codegen.cards.sim import CARD
from imp_codegen.targets import Target

TARGET = Target(
    name="sim",
    compiler="g++",
    max_shared=99 * 1024,
    gemv_shared=32 * 1024,
    step_warps=4,
    small_layer=256 << 10,
    small_layer_warps=8,
    attention_per_sm=2,
    sample_threads=64,
    card=CARD,
    fp4=True,
)
