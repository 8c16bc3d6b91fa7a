"""Blackwell, GeForce and RTX PRO. 99 KB of shared memory a CTA.

Grids are sized for an RTX 5090's 170 multiprocessors unless told otherwise: a CTA too many on the smaller of two cards
would cost a second wave.
"""

from imp_codegen.cards.rtx_5090 import CARD
from imp_codegen.targets import Target

TARGET = Target(
    name="sm_120a",
    compiler="nvcc",
    max_shared=99 * 1024,
    gemv_shared=97 * 1024,
    step_warps=8,
    small_layer=256 << 10,
    small_layer_warps=8,
    attention_per_sm=1,
    sample_threads=256,
    card=CARD,
    fp4=True,
    chunks=(64, 128, 512),
    batches=(8, 16, 32, 64),
)
