"""NVIDIA GeForce RTX 5090 (GB202): nothing was measured here.

Tensor cores at 2.41 GHz by the data sheet, the read that others measured (1,670 to 1,698 GB/s), a phase as others
report it. 8 warps, since 99 KB hold the rings of no more; 16 KB in flight, since Little's law asks for 8.4 of them at
1,792 GB/s and 0.8 us.
"""

from imp_codegen.cards import Card, Formulas, Speed
from imp_codegen.cards.h200 import CARD as H200

CARD = Card(
    name="rtx-5090",
    title="NVIDIA GeForce RTX 5090",
    target="sm_120a",
    sms=170,
    shared=100 << 10,
    formulas=Formulas(
        gemv_warps=8,
        stream_slots=3,
        in_flight=16 << 10,
        early_ctas=32,
        early_cols=4096,
        lanes=4,
        short_tile=4200,
        unpacks={"Q4_K": 21, "Q6_K": 21},  # an H200's
    ),
    speed=Speed(
        bandwidth=1670,
        clock=2.41,
        rates={"int8": 838, "f16": 209.5, "half": 419, "fp8": 419, "mxfp8": 838, "fp4": 419, "nvfp4": 1676},
        launch_us=2.0,
        phase_us=1.6,
    ),
    like=H200,
)
