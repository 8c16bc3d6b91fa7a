"""NVIDIA GeForce RTX 5080: nothing was measured here. Data sheet, a read in an RTX 5090's proportion."""

from imp_codegen.cards import Card, Speed
from imp_codegen.cards.h200 import CARD as H200
from imp_codegen.cards.rtx_5090 import CARD as RTX_5090

CARD = Card(
    name="rtx-5080",
    title="NVIDIA GeForce RTX 5080",
    target="sm_120a",
    sms=84,
    shared=100 << 10,
    formulas=RTX_5090.formulas,
    speed=Speed(
        bandwidth=890,  # of 960 GB/s
        clock=2.62,
        rates={"int8": 450, "f16": 112.5, "half": 225, "fp8": 225, "mxfp8": 450, "fp4": 225, "nvfp4": 900},
        launch_us=2.0,
        phase_us=1.6,
    ),
    like=H200,
)
