"""A matrix whose result is added to the residual stream: attention output, MLP down projection."""

from __future__ import annotations

from imp_codegen.graph import Add, Linear
from imp_codegen.kernels.draft import Cpp, Draft, Param
from imp_codegen.kernels.lowering import Lowering, bias_params, op_names, output, stream
from imp_codegen.kernels.prefill import encode_chunk, gemm_chunk
from imp_codegen.passes.fuse import Group

# Where the input lies in prefill, and what is to be encoded there, by where it lies in decode.
_CHUNK_SOURCES = {"attn": ("chunk.attn", "plain"), "gated": ("chunk.gate_up", "swiglu")}


def decode(low: Lowering, group: Group) -> tuple[Draft, ...]:
    """X += W input."""
    linear, add, source = _parts(group)
    weight = linear.weight
    streamed = stream(low, "project", linear.x.width, (weight,), norm=None)
    x = low.buffer("x", add.out.width * 4)
    biases = bias_params(low, (linear,))
    draft = Draft(
        name=group.name.rpartition(".")[0] + "." + linear.out.name.rpartition(".")[2],
        entry="project",
        headers=("stage/gemv", *low.headers(weight)),
        stage=Cpp("Gemv", (streamed.gemv, streamed.encode, Cpp("AddRows", (len(biases),)), low.matrix(weight))),
        call=(
            Param("const float*", "input", low.buffer(source, linear.x.width * 4)),
            Param("const float*", "norm", None),
            (Param("float*", "x", x), *biases),
            low.plane(weight, "w"),
        ),
        grid=(low.target.sms, 1, 1),
        threads=streamed.warps * 32,
        shared_bytes=streamed.shared,
        overlap=True,
        ops=op_names(group.ops),
        outputs=(output(add.out, "x"),),
        weight_bytes=low.weight_bytes(weight),
        other_bytes=linear.x.width * 4 + add.out.width * 8,
        flops=2 * weight.rows * weight.cols,
    )
    return (draft,)


def prefill(low: Lowering, group: Group) -> tuple[Draft, ...]:
    """Encode the input of the chunk, then a GEMM that adds to `chunk.x`."""
    linear, add, place = _parts(group)
    buffer, source = _CHUNK_SOURCES[place]
    return (
        encode_chunk(low, linear.x, source, buffer, (linear.weight,), None),
        gemm_chunk(low, linear, linear.x.width, "chunk.x", stride=add.out.width, add=add),
    )


def _parts(group: Group) -> tuple[Linear, Add, str]:
    """The matrix, the addition, and the place of what the matrix multiplies."""
    linear, add = group.ops
    assert isinstance(linear, Linear)
    assert isinstance(add, Add)
    (place,) = group.reads.keys() - {"x"}
    return linear, add, place
