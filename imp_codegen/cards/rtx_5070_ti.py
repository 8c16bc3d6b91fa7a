"""NVIDIA GeForce RTX 5070 Ti: nothing was measured here. Data sheet, and the read that others measured."""

from imp_codegen.cards import Card, Speed
from imp_codegen.cards.h200 import CARD as H200
from imp_codegen.cards.rtx_5090 import CARD as RTX_5090

CARD = Card(
    name="rtx-5070-ti",
    title="NVIDIA GeForce RTX 5070 Ti",
    target="sm_120a",
    sms=70,
    shared=100 << 10,
    formulas=RTX_5090.formulas,
    speed=Speed(
        bandwidth=880,  # of 896 GB/s, as others measured
        clock=2.45,
        rates={"int8": 351, "f16": 87.8, "half": 175.6, "fp8": 175.6, "mxfp8": 351, "fp4": 175.6, "nvfp4": 702},
        launch_us=2.0,
        phase_us=1.6,
    ),
    like=H200,
)
