"""Hopper: H100, H200. 132 SMs, 227 KB of shared memory a CTA. Measured on an H200."""

from imp_codegen.targets import Gpu, Target

TARGET = Target(
    name="sm_90a",
    compiler="nvcc",
    sms=132,
    max_shared=227 * 1024,
    gemv_warps=12,
    gemv_shared=200 * 1024,
    step_warps=11,
    in_flight=64 * 1024,
    attention_ctas=132,
    sample_threads=256,
    # 8B Q8_0: 12 warps with three 421 tok/s; 16 with two 421, with three 403.
    stream_slots=3,
    # 8 warps beat 11 at 0.6B, 2662 tok/s against 2540 (167 KB); even at 1.7B (483 KB).
    small_layer=256 << 10,
    small_layer_warps=8,
    early_ctas=32,  # 3 % at 0.6B
    early_cols=4096,  # polling a longer vector in vain costs more
    lanes=4,
    short_tile=4200,  # below, twice the lanes gain 13 % (8B Q4_K_M) or 2 % (1B BF16), above they cost (0.6B Q8_0)
    unpacks={"Q4_K": 21, "Q6_K": 21},  # 590 tok/s of 4.68 GB (8B Q4_K_M), where memory gives each SM 33 GB/s
    gpus=(Gpu("h200", "NVIDIA H200", sms=132, bandwidth=4400, int8_tops=1281, launch_us=2.4, phase_us=1.3),),
)
