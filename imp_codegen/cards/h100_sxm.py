"""NVIDIA H100 SXM. Its read, its decode and the prompts of Q8_0 were measured on 2026-11-26; the rest is an H200's.

The tile of Q8_0 follows from pp512 of 0.6B and 1.7B (39,600 and 22,800 tok/s), `phase_us` from their decode.
"""

from imp_codegen.cards import Card, Speed
from imp_codegen.cards.h200 import CARD as H200

CARD = Card(
    name="h100-sxm",
    title="NVIDIA H100 80GB HBM3",
    target="sm_90a",
    sms=132,
    shared=228 << 10,
    formulas=H200.formulas,
    speed=Speed(
        bandwidth=3095,
        clock=1.98,  # data sheet
        rates={"int8": 1281, "f16": 636, "half": 636, "fp8": 1801},  # the same chip as an H200's
        launch_us=2.4,  # an H200's
        phase_us=1.1,
        tiles={"Q8_0": 0.88, "half 256": 1.57, "half 128": 1.16, "half 64": 0.94},
    ),
    like=H200,
)
