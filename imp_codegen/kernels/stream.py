"""How a kernel streams weights for one vector (stage/gemv.h): its warps, their rings, the encoded vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from imp_codegen.graph import Weight
from imp_codegen.kernels.choice import Way, each_row
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec, Param, Scalar
from imp_codegen.kernels.lowering import Lowering, round_up
from imp_codegen.kernels.vector import Vector
from imp_codegen.ops import ExpertLinear, Gated, Linear
from imp_codegen.spec import Activation
from imp_codegen.targets import TargetError
from imp_codegen.tune.stage import Stage
from imp_codegen.tune.table import choose

_MOST_ROWS = 32  # with more, no card streams weights for each as fast as it multiplies all at once


@dataclass(frozen=True, slots=True)
class Streamed:
    """The configs that every kernel of streamed weights has, its warps, its shared memory: rings, then the vector."""

    gemv: Config
    encode: Config
    warps: int
    shared: int


def stream(
    low: Lowering,
    kind: str,
    vector: Vector,
    matrices: tuple[Weight, ...],
    *,
    paired: bool = False,
    used: int = 1,
    made: bool = False,
    held: int = 0,
) -> Streamed:
    """For a kernel that multiplies one vector with `matrices`: as the tables say, or else the formula.

    `paired`: a warp takes the same rows of both matrices, instead of the rows of one after those of the other. `used`:
    of stacks, so many matrices; where they are not paired, a warp takes the same rows of all of them. `made`: the
    kernel before has encoded the vector. `held`: bytes of shared memory that the epilogue needs.
    """
    cols = vector.value.width
    stage = _stage(low, kind, matrices, encoded_bytes(low, vector, matrices, made=made) + held, paired, used)
    # Floats that would leave too little room for tiles are read where they lie.
    few_warps = 2 * stage.formula(low.target).warps < low.target.card.formulas.gemv_warps
    only_floats = not low.wants_q8(*matrices) and not low.wants_halfs(*matrices)
    in_place = not vector.norm and not vector.sum and only_floats and few_warps
    if in_place:
        stage = replace(stage, vector_bytes=0)
    chosen = choose(low.tables, stage.name, stage.formula(low.target))
    low.streams[stage] = chosen
    warps, slots = chosen.choice.warps, chosen.choice.slots
    shared = stage.shared_bytes(chosen.choice)
    if shared > low.target.max_shared:
        advice = "such long rows are unsupported" if chosen.origin == "formula" else "measure it again"
        raise TargetError(
            f"{matrices[0].name}: its rows of {cols} weights need {shared:,} bytes of shared memory in {warps} warps "
            f"with {slots} tiles each, {low.target.name} has {low.target.max_shared:,}; {advice} ({chosen.origin})"
        )
    gemv = Config("GemvConfig", (("warps", warps), ("grid", low.target.sms), ("slots", slots)))
    encode = encode_config(low, vector, matrices, warps, in_place=in_place, made=made)
    return Streamed(gemv, encode, warps, shared)


def ways_of_rows(
    low: Lowering, name: str, vector: Vector, streamed: Callable[[Lowering], KernelSpec]
) -> tuple[Way, ...]:
    """That of streaming the weights for each row by itself, where that is possible and rows are few.

    Not in a step of several sequences, of which no result may depend on how many there are.
    """
    return (each_row(name, streamed),) if low.rows <= _MOST_ROWS and vector.plain and not low.batch else ()


def encode_config(
    low: Lowering,
    vector: Vector,
    matrices: tuple[Weight, ...],
    warps: int,
    *,
    in_place: bool = False,
    made: bool = False,
) -> Config:
    """How the vector that `matrices` multiply is encoded; not at all if it is read `in_place` or `made` before."""
    return Config(
        "EncodeConfig",
        (
            ("cols", vector.value.width),
            ("warps", warps),
            ("q8", low.wants_q8(*matrices)),
            ("halfs", low.wants_halfs(*matrices)),
            ("dense", low.wants_dense(*matrices) and not in_place),
            *norm_fields(vector),
            *((("made", True),) if made else ()),
        ),
    )


def norm_fields(vector: Vector) -> tuple[tuple[str, Scalar], ...]:
    """The fields about norms in an encoder's config."""
    norm, branch = vector.norm, vector.sum.norm if vector.sum else None
    return (
        ("norm", norm is not None),
        ("eps", norm.eps if norm else 0.0),
        ("weighted", norm is not None and norm.weight is not None),
        ("post", branch is not None),
        ("post_eps", branch.eps if branch else 0.0),
        ("scaled", vector.sum is not None and vector.sum.scale is not None),
    )


def encoded_bytes(low: Lowering, vector: Vector, matrices: tuple[Weight, ...], *, made: bool = False) -> int:
    """Shared memory of the encoded vector: codes and scales, floats, sums of squares of each norm, a copy's barrier."""
    cols = vector.value.width
    codes = round_up(cols, 128) + round_up(cols // 4, 16) if low.wants_q8(*matrices) else 0
    spans = round_up(-(-cols // 128) * 4, 16)
    halfs = round_up(cols, 128) * 2 + spans if low.wants_halfs(*matrices) else 0
    floats = round_up(cols, 32) * 4 if low.wants_dense(*matrices) else 0
    sums = bool(vector.norm) + bool(vector.sum)
    return codes + halfs + floats + sums * spans + (16 if made else 0)


def _stage(low: Lowering, kind: str, matrices: tuple[Weight, ...], vector_bytes: int, paired: bool, used: int) -> Stage:
    tiles = []
    for weight in matrices:
        tile = low.placed[weight.name].tile
        assert tile is not None, f"{weight.name} is a vector"
        tiles.append(tile)
    rows = max(tile.rows for tile in tiles)
    if paired:
        units = used * -(-matrices[0].each // rows)
        unit_tiles = sum(
            rows // tile.rows * weight.cols // tile.cols for weight, tile in zip(matrices, tiles, strict=True)
        )
    else:
        units = sum(-(-weight.each // tile.rows) for weight, tile in zip(matrices, tiles, strict=True))
        unit_tiles = used * max(weight.cols // tile.cols for weight, tile in zip(matrices, tiles, strict=True))
    return Stage(
        kind,
        tuple(low.shape(weight) for weight in matrices),
        units,
        unit_tiles,
        slot_bytes=max(low.tile_bytes(weight) for weight in matrices),
        plane_bytes=sum(low.placed[w.name].plane.nbytes * used // max(w.experts, 1) for w in matrices),
        vector_bytes=vector_bytes,
    )


def bias_mask(linears: Sequence[Linear | ExpertLinear]) -> int:
    """The bits of the matrices that have a bias, as the stages count them (Biases of stage/epilogue.h)."""
    return sum(1 << i for i, op in enumerate(linears) if op.bias)


def name_of_all(linears: Sequence[Linear | ExpertLinear]) -> str:
    """Of one result itself, of several what they have in common and what each has not."""
    first = linears[0].out.name
    layer, _, _ = first.rpartition(".")
    return first if len(linears) == 1 else f"{layer}.{'_'.join(op.out.name.rpartition('.')[2] for op in linears)}"


def biases(low: Lowering, linears: Sequence[Linear | ExpertLinear]) -> tuple[Param | None, ...]:
    """The biases that there are, in the order of their matrices, or one null pointer (Biases of stage/epilogue.h)."""
    return tuple(low.plane(op.bias) for op in linears if op.bias) or (None,)


def activation(gated: Gated) -> Cpp:
    """What a gate goes through (stage/elementwise.h)."""
    return Cpp(_ACTIVATIONS[gated.activation])


_ACTIVATIONS: Mapping[Activation, str] = {
    "silu": "Silu",
    "gelu": "Gelu",
    "gelu_tanh": "GeluTanh",
    "clamped_silu": "ClampedSilu",
}
