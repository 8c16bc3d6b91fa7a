"""RMS norm, the gate and up matrices, and silu(gate) * up."""

from __future__ import annotations

from imp_codegen.graph import Gated, Linear, RmsNorm
from imp_codegen.kernels.draft import Cpp, Draft, Param
from imp_codegen.kernels.lowering import Lowering, op_names, output, stream
from imp_codegen.kernels.prefill import encode_chunk, gemm_chunk
from imp_codegen.passes.fuse import Group


def decode(low: Lowering, group: Group) -> tuple[Draft, ...]:
    """Gated = silu(gate) * up, a warp taking the same rows of both matrices."""
    norm, gate, up, gated = _parts(group)
    streamed = stream(low, "gate_up", norm.x.width, (gate.weight, up.weight), norm=norm, paired=True)
    draft = Draft(
        name=group.name.rpartition(".")[0] + ".gate_up",
        entry="gate_up",
        headers=("stage/gemv", *low.headers(gate.weight, up.weight)),
        stage=Cpp(
            "GatedGemv",
            (streamed.gemv, streamed.encode, Cpp("StoreRows", (0,)), low.matrix(gate.weight), low.matrix(up.weight)),
        ),
        call=(
            Param("const float*", "x", low.buffer("x", norm.x.width * 4)),
            low.plane(norm.weight, "norm"),
            (Param("float*", "gated", low.buffer("gated", gated.out.width * 4)),),
            low.plane(gate.weight, "gate"),
            low.plane(up.weight, "up"),
        ),
        grid=(low.target.sms, 1, 1),
        threads=streamed.warps * 32,
        shared_bytes=streamed.shared,
        overlap=True,
        ops=op_names(group.ops),
        outputs=(output(gated.out, "gated"),),
        weight_bytes=low.weight_bytes(gate.weight, up.weight),
        other_bytes=norm.x.width * 8 + gated.out.width * 4,
        flops=4 * gate.weight.rows * gate.weight.cols,
    )
    return (draft,)


def prefill(low: Lowering, group: Group) -> tuple[Draft, ...]:
    """Encode the normed chunk, then gate and up side by side in `chunk.gate_up`; silu waits for the next encoding."""
    norm, gate, up, _ = _parts(group)
    width = gate.out.width
    weights = (gate.weight, up.weight)
    return (
        encode_chunk(low, norm.out, "norm", "chunk.x", weights, norm),
        gemm_chunk(low, gate, norm.x.width, "chunk.gate_up", stride=2 * width),
        gemm_chunk(low, up, norm.x.width, "chunk.gate_up", stride=2 * width, offset=width),
    )


def _parts(group: Group) -> tuple[RmsNorm, Linear, Linear, Gated]:
    norm, gate, up, gated = group.ops
    assert isinstance(norm, RmsNorm)
    assert isinstance(gate, Linear)
    assert isinstance(up, Linear)
    assert isinstance(gated, Gated)
    return norm, gate, up, gated
