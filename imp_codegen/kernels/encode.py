"""The vector of every row on its way into matrix products: encoded once, for all matrices that read it."""

from __future__ import annotations

from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import Lowering, round_up
from imp_codegen.kernels.stream import activation, norm_fields
from imp_codegen.kernels.vector import Vector
from imp_runtime.plan import Binding


def encode(
    low: Lowering,
    vector: Vector,
    *,
    q8: bool = False,
    dense: bool = False,
    panels: bool = False,
    fragments: bool = False,
) -> KernelSpec:
    """The vector of every row as codes and scales, as bfloat16 planes, or as halfs and factors.

    Halfs lie in panels, or as `fragments` (stage/fragments.h).
    """
    halfs = panels or fragments
    rows, value, gated = low.rows, vector.value, vector.gated
    cols = value.width
    width = cols * (2 if gated else len(vector.reads))
    norms = dict(norm_fields(vector))
    config = Config(
        "ActivationsConfig",
        (
            ("cols", cols),
            ("tokens", rows),
            ("norm", norms.pop("norm")),
            ("gated", gated is not None),
            ("q8", q8),
            ("dense", dense),
            *norms.items(),
            ("keep", bool(vector.writes)),
            ("gate_stride", low.places[gated.gate].stride if gated else 0),
            ("up_stride", low.places[gated.up].stride if gated else 0),
            ("panels", halfs),
            ("fragments", fragments),
        ),
    )
    return KernelSpec(
        name=value.name + ".encode",
        entry="encode",
        headers=("stage/encode_activations",),
        stage=Cpp("EncodeActivations", (config, activation(gated)) if gated else (config,)),
        args={
            **vector.args(low),
            "codes": Param("std::uint8_t*", codes(low, cols)) if q8 else None,
            "scales": Param("uint2*", scales(low, cols)) if q8 else None,
            "planes": Param("std::uint16_t*", planes(low, cols)) if dense else None,
            "panels": Param("std::uint8_t*", panel_buffer(low, cols)) if halfs else None,
            "factors": Param("float*", factors(low)) if halfs else None,
            "step": low.step(),
        },
        grid=(rows, 1, 1),
        threads=256,
        shared_bytes=32 * (bool(vector.norm) + bool(vector.sum) + halfs),
        ops=(f"Encode {value.name}",),
        outputs=tuple(output for block in vector.writes for each in block for output in low.output(each)),
        other_bytes=rows * (width * 4 + cols * (q8 + 4 * dense + 2 * halfs)),
    )


def codes(low: Lowering, cols: int) -> Binding:
    """Where int8 codes lie between an encoder and its products."""
    return low.buffer("chunk.codes", low.rows * cols)


def scales(low: Lowering, cols: int) -> Binding:
    """Where the codes' scales lie."""
    return low.buffer("chunk.scales", low.rows * round_up(cols // 32, 2) * 8)


def planes(low: Lowering, cols: int) -> Binding:
    """Where bfloat16 planes lie."""
    return low.buffer("chunk.planes", 2 * low.rows * cols * 2)


def panel_buffer(low: Lowering, cols: int) -> Binding:
    """Where halfs lie, in panels or as fragments (stage/panel.h, fragments.h)."""
    return low.buffer("chunk.panels", round_up(cols, 128) * low.rows * 2)


def factors(low: Lowering) -> Binding:
    """Where lies what the panels' values are to be multiplied with, for each row."""
    return low.buffer("chunk.factors", low.rows * 4)
