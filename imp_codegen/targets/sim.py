"""The CPU: the same source, compiled by g++ and run thread by thread. Few and small CTAs, since every thread costs."""

from imp_codegen.targets import Target

TARGET = Target(
    name="sim",
    compiler="g++",
    sms=2,
    max_shared=99 * 1024,
    gemv_warps=4,
    gemv_shared=32 * 1024,
    step_warps=4,
    in_flight=8 * 1024,
    attention_ctas=4,
    sample_threads=64,
    stream_slots=3,
    small_layer=256 << 10,
    small_layer_warps=8,
    early_ctas=32,
    early_cols=4096,
    lanes=4,
    short_tile=4200,
    unpacks={},
    gpus=(),
)
