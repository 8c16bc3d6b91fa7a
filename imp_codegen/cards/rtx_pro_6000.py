"""NVIDIA RTX PRO 6000 Blackwell: nothing was measured here. Data sheet, and an RTX 5090's read."""

from imp_codegen.cards import Card, Speed
from imp_codegen.cards.h200 import CARD as H200
from imp_codegen.cards.rtx_5090 import CARD as RTX_5090

CARD = Card(
    name="rtx-pro-6000",
    title="NVIDIA RTX PRO 6000 Blackwell",
    target="sm_120a",
    sms=188,
    shared=100 << 10,
    formulas=RTX_5090.formulas,
    speed=Speed(
        bandwidth=1670,
        clock=2.6,
        # Unlike GeForce cards, float32 sums at full rate.
        rates={"int8": 1001, "f16": 501, "half": 501, "fp8": 1001, "mxfp8": 1001, "fp4": 1001, "nvfp4": 2002},
        launch_us=2.0,
        phase_us=1.6,
    ),
    like=H200,
)
