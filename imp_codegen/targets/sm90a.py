"""Hopper: H100, H200. 227 KB of shared memory a CTA; 12 warps leave each thread 168 registers."""

from imp_codegen.cards.h200 import CARD
from imp_codegen.targets import Target

TARGET = Target(
    name="sm_90a",
    compiler="nvcc",
    max_shared=227 * 1024,
    gemv_shared=200 * 1024,
    step_warps=11,
    # 8 warps beat 11 at 0.6B, 2662 tok/s against 2540 (167 KB); even at 1.7B (483 KB). On an H200.
    small_layer=256 << 10,
    small_layer_warps=8,
    attention_per_sm=1,
    sample_threads=256,
    card=CARD,
    wgmma=True,
    # 8B Q8_0, pp4096 on an H100: chunks of 128 rows 9.5k tok/s, 512 23.3k, 1024 25.3k; streams beside it wait for one.
    chunks=(64, 128, 512, 2048),
    batches=(8, 16, 32, 64),
)
