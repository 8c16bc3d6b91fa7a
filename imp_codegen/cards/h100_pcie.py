"""NVIDIA H100 PCIe: nothing was measured here. Data sheet; reads and overheads in an H100 SXM's proportion."""

from imp_codegen.cards import Card, Speed
from imp_codegen.cards.h200 import CARD as H200

CARD = Card(
    name="h100-pcie",
    title="NVIDIA H100 PCIe",
    target="sm_90a",
    sms=114,
    shared=228 << 10,
    formulas=H200.formulas,
    speed=Speed(
        bandwidth=1880,  # of 2,039 GB/s
        clock=1.755,
        rates={"int8": 980, "f16": 487, "half": 487, "fp8": 1379},
        launch_us=2.4,
        phase_us=1.1,
    ),
    like=H200,
)
