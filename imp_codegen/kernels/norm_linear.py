"""RMS norm and the matrices that read its result: q, k and v, in one kernel even if their formats differ."""

from __future__ import annotations

from imp_codegen.graph import Linear, RmsNorm, Weight
from imp_codegen.kernels.draft import Cpp, Draft, Param
from imp_codegen.kernels.lowering import Lowering, bias_params, op_names, output, stream
from imp_codegen.kernels.prefill import encode_chunk, gemm_chunk
from imp_codegen.passes.fuse import Group


def parts(group: Group) -> tuple[RmsNorm, tuple[Linear, ...]]:
    """The norm and its matrices."""
    norm, *linears = group.ops
    assert isinstance(norm, RmsNorm)
    matrices = tuple(op for op in linears if isinstance(op, Linear))
    assert len(matrices) == len(linears)
    return norm, matrices


def decode(low: Lowering, group: Group) -> tuple[Draft, ...]:
    """Qkv = the rows of all matrices, one after the other."""
    norm, linears = parts(group)
    weights: tuple[Weight, ...] = tuple(op.weight for op in linears)
    width = sum(op.out.width for op in linears)
    streamed = stream(low, "qkv", norm.x.width, weights, norm=norm)
    qkv = low.buffer("qkv", width * 4)
    outputs = []
    at = 0
    for op in linears:
        outputs.append(output(op.out, "qkv", at * 4))
        at += op.out.width
    biases = bias_params(low, linears)
    nbytes = low.weight_bytes(*weights)
    draft = Draft(
        name=group.name.rpartition(".")[0] + ".qkv",
        entry="qkv",
        headers=("stage/gemv", *low.headers(*weights)),
        stage=Cpp(
            "Gemv",
            (streamed.gemv, streamed.encode, Cpp("StoreRows", (len(biases),)), *(low.matrix(w) for w in weights)),
        ),
        call=(
            Param("const float*", "x", low.buffer("x", norm.x.width * 4)),
            low.plane(norm.weight, "norm"),
            (Param("float*", "y", qkv), *biases),
            *(low.plane(w, f"w{i}") for i, w in enumerate(weights)),
        ),
        grid=(low.target.sms, 1, 1),
        threads=streamed.warps * 32,
        shared_bytes=streamed.shared,
        overlap=True,
        ops=op_names(group.ops),
        outputs=tuple(outputs),
        weight_bytes=nbytes,
        other_bytes=norm.x.width * 8 + width * 4,
        flops=2 * sum(w.rows * w.cols for w in weights),
    )
    return (draft,)


def prefill(low: Lowering, group: Group) -> tuple[Draft, ...]:
    """Encode the normed chunk, then one GEMM for each matrix into its columns of `chunk.qkv`."""
    norm, linears = parts(group)
    width = sum(op.out.width for op in linears)
    drafts = [encode_chunk(low, norm.out, "norm", "chunk.x", tuple(op.weight for op in linears), norm)]
    at = 0
    for op in linears:
        drafts.append(gemm_chunk(low, op, norm.x.width, "chunk.qkv", stride=width, offset=at))
        at += op.out.width
    return tuple(drafts)
