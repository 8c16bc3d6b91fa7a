"""Hopper: H100, H200. 132 SMs, 227 KB of shared memory a CTA."""

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
    sample_threads=1024,
    gpus=(Gpu("h200", "NVIDIA H200", bandwidth=4400, int8_tops=1281, launch_us=2.4, phase_us=1.3),),
)
