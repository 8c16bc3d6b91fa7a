"""NVIDIA GeForce RTX 5090 (GB202): nothing was measured here.

Tensor cores as others measured them, who had the card at 2.82 GHz (the data sheet says 2.41, and as many operations a
clock); what nobody measured at that clock, too. The read that others measured (1,670 to 1,698 GB/s), a phase as others
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
        whole_cols=16384,
        lanes=4,
        short_tile=4200,
        step_tile_us=0.12,  # an H200's, as the next
        step_row_us=0.066,
    ),
    speed=Speed(
        bandwidth=1670,
        clock=2.82,
        rates={"int8": 969, "f16": 246, "half": 491, "fp8": 491, "mxfp8": 982, "fp4": 491, "nvfp4": 1964},
        launch_us=2.0,
        phase_us=1.6,
    ),
    like=H200,
)
