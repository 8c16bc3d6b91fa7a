"""The vector of every row on its way into matrix products: encoded once, for all matrices that read it."""

from __future__ import annotations

from imp_codegen.kernels.expert_places import Places
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import Lowering, round_up
from imp_codegen.kernels.stream import activation, norm_fields
from imp_codegen.kernels.vector import Vector
from imp_runtime.plan import Binding

PEAK = 14  # a row's largest value in panels is then below 2^15: it fits a half, whose precision reaches far down
FP4_LINE = 72  # bytes of a row's 128 columns as codes of four bits with scales
_WARPS = 8
_BATCH_WARPS = 32  # at most, of a CTA that is alone on its multiprocessor
_BATCH_COLS = 256  # of a warp: with 16 warps 4,096 columns take 1.6 us on an H100, with 32 2.2


def encode(
    low: Lowering,
    vector: Vector,
    *,
    dense: bool = False,
    peak: int | None = None,
    fragments: bool = False,
    fp4: bool = False,
    places: Places | None = None,
    each: bool = False,
) -> KernelSpec:
    """The vector of every row as bfloat16 planes, or as halfs and factors, or both; or as codes of four bits (`fp4`).

    `peak`: of the halfs, the exponent of each row's largest value. They lie in panels, or as `fragments`.
    `places`: for every pair there, its row's vector, or if `each` has one that of the pair itself.
    """
    halfs = peak is not None
    panels = halfs or fp4
    rows, value, gated = places.count if places else low.rows, vector.value, vector.gated
    cols = value.width // places.route.used if places and each else value.width
    warps = min(-(-cols // _BATCH_COLS), _BATCH_WARPS) if low.batch else _WARPS
    width = cols * (2 if gated else len(vector.reads))
    norms = dict(norm_fields(vector))
    config = Config(
        "ActivationsConfig",
        (
            ("cols", cols),
            ("tokens", rows),
            ("norm", norms.pop("norm")),
            ("gated", gated is not None),
            ("dense", dense),
            *norms.items(),
            ("keep", bool(vector.writes)),
            ("gate_stride", low.places[gated.gate].stride if gated else 0),
            ("up_stride", low.places[gated.up].stride if gated else 0),
            ("panels", panels),
            ("fragments", fragments),
            ("fp4", fp4),
            ("peak", peak or 0),
            ("warps", warps),
            ("used", places.route.used if places else 0),
            ("each", each),
        ),
    )
    return KernelSpec(
        name=value.name + (".places.encode" if places else ".encode"),
        entry="encode",
        headers=("stage/encode_activations",),
        stage=Cpp("EncodeActivations", (config, activation(gated)) if gated else (config,)),
        args={
            **vector.args(low),
            "planes": Param("std::uint16_t*", planes(low, cols)) if dense else None,
            "panels": Param("std::uint8_t*", panel_buffer(low, rows, cols)) if panels else None,
            "factors": Param("float*", factors(low, rows)) if panels else None,
            "pairs": places.args(low)["pairs"] if places else None,
            "step": low.step(),
        },
        grid=(rows, 1, 1),
        threads=warps * 32,
        overlap=True,
        shared_bytes=warps * 4 * (bool(vector.norm) + bool(vector.sum) + panels),
        ops=(f"Encode {value.name}",),
        outputs=tuple(output for block in vector.writes for each in block for output in low.output(each)),
        other_bytes=rows * (width * 4 + cols * (4 * dense + 2 * halfs) + fp4 * cols * FP4_LINE // 128),
    )


def planes(low: Lowering, cols: int) -> Binding:
    """Where bfloat16 planes lie."""
    return low.buffer("chunk.planes", 2 * low.rows * cols * 2)


def panel_buffer(low: Lowering, rows: int, cols: int) -> Binding:
    """Where halfs lie, in panels or as fragments (stage/panel.h, fragments.h), or codes, fewer bytes (fp4.h)."""
    return low.buffer("chunk.panels", round_up(cols, 128) * round_up(rows, 8) * 2)


def factors(low: Lowering, rows: int) -> Binding:
    """Where lies what the panels' values are to be multiplied with, for each row."""
    return low.buffer("chunk.factors", rows * 4)
