"""Blackwell GB202: RTX 5090 (170 SMs) and RTX PRO 6000 (188). 99 KB of shared memory a CTA.

Grids are sized for 170 SMs unless told otherwise: a CTA too many on the smaller card would cost a second wave. What the
formulas go by was measured on an H200; nobody has measured it here.
"""

from imp_codegen.targets import Gpu, Target

TARGET = Target(
    name="sm_120a",
    compiler="nvcc",
    sms=170,
    max_shared=99 * 1024,
    gemv_warps=8,
    gemv_shared=97 * 1024,
    step_warps=8,
    in_flight=16 * 1024,
    attention_ctas=170,
    sample_threads=256,
    stream_slots=3,
    small_layer=256 << 10,
    small_layer_warps=8,
    early_ctas=32,
    early_cols=4096,
    lanes=4,
    short_tile=4200,
    unpacks={"Q4_K": 21, "Q6_K": 21},
    gpus=(
        Gpu("rtx5090", "NVIDIA GeForce RTX 5090", sms=170, bandwidth=1670, int8_tops=838, launch_us=2.0, phase_us=1.6),
        Gpu(
            "rtxpro6000",
            "NVIDIA RTX PRO 6000 Blackwell",
            sms=188,
            bandwidth=1670,
            int8_tops=1000,
            launch_us=2.0,
            phase_us=1.6,
        ),
    ),
)
