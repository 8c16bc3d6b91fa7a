"""The vector that matrices multiply, and what it is made of while kernels encode it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from imp_codegen.graph import Edges, Op, Value, label
from imp_codegen.kernels.family import Block, FusionError
from imp_codegen.kernels.kernel_spec import Argument, Arguments, Param
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.ops import Add, Gated, Linear, RmsNorm, ScaleBy
from imp_runtime.plan import Binding


@dataclass(frozen=True, slots=True)
class Sum:
    """A residual stream and the norm of what a branch has made, both times `scale`. `kept`: others read it too."""

    norm: RmsNorm
    add: Add
    scale: ScaleBy | None
    kept: bool

    @property
    def out(self) -> Value:
        """The result."""
        return self.scale.out if self.scale else self.add.out

    @property
    def ops(self) -> tuple[Op, ...]:
        """In order."""
        return (self.norm, self.add, *((self.scale,) if self.scale else ()))

    @property
    def stream(self) -> Value:
        """What the branch is added to."""
        return self.add.x if self.add.y == self.norm.out else self.add.y


@dataclass(frozen=True, slots=True)
class Vector:
    """`value`, made of what lies in memory: by `gated`, or as a `sum`, by a `norm` or both, or it lies there itself."""

    value: Value
    gated: Gated | None = None
    sum: Sum | None = None
    norm: RmsNorm | None = None

    @property
    def ops(self) -> tuple[Op, ...]:
        """What is computed, in order."""
        made = (self.gated, *(self.sum.ops if self.sum else ()), self.norm)
        return tuple(op for op in made if op)

    @property
    def reads(self) -> tuple[Block, ...]:
        """What must lie in memory."""
        if self.gated:
            gate, up = self.gated.gate, self.gated.up
            return ((gate, up),) if gate.width == up.width else ((gate,), (up,))
        if self.sum:
            return ((self.sum.stream,), (self.sum.norm.x,))
        return ((self.norm.x if self.norm else self.value,),)

    @property
    def writes(self) -> tuple[Block, ...]:
        """What is left there beside the products."""
        return ((self.sum.out,),) if self.sum and self.sum.kept else ()

    @property
    def plain(self) -> bool:
        """Whether kernels of one row make it as those of several do: normed or as it lies in memory."""
        return not self.gated and not self.sum

    def over(self, rows: int) -> Mapping[Value, Value]:
        """A chunk's sum takes its stream's place; of one row, many CTAs read the stream while one stores the sum."""
        return {self.sum.out: self.sum.stream} if rows > 1 and self.sum and self.sum.kept else {}

    def args(self, low: Lowering) -> Arguments:
        """What encoders take: `x`, where it lies or what it is made of, and the `norm`.

        That is PostSource or PostChunk for a sum, GatedChunk for what is gated.
        """
        norm = norm_weight(low, self.norm)
        if self.gated:
            return {
                "x": {"gate": low.value("const float*", self.gated.gate), "up": up_of(low, self.gated)},
                "norm": norm,
            }
        if not self.sum:
            return {"x": low.value("const float*", self.reads[0][0]), "norm": norm}
        in_place = low.rows > 1
        x: dict[str, Argument] = {
            "stream": low.value("float*" if in_place else "const float*", self.sum.stream),
            "branch": low.value("const float*", self.sum.norm.x),
            "norm": norm_weight(low, self.sum.norm),
        }
        if not in_place:
            x["sum"] = low.value("float*", self.sum.out) if self.sum.kept else None
        x["scale"] = low.plane(self.sum.scale.weight) if self.sum.scale else None
        return {"x": x, "norm": norm}


def up_of(low: Lowering, gated: Gated) -> Param:
    """What a gate multiplies."""
    place = low.places[gated.up]
    return Param("const float*", Binding(place.buffer, (place.column + gated.begin) * 4))


def norm_weight(low: Lowering, norm: RmsNorm | None) -> Param | None:
    """A norm's weight, if there is one."""
    return low.plane(norm.weight) if norm and norm.weight else None


def vector_from(edges: Edges, op: Op, rows: int) -> Vector | None:
    """The vector that `op` is the first operation to make, or that a matrix reads as it lies in memory."""
    match op:
        case Linear():
            return Vector(op.x)
        case Gated() if rows > 1:
            if op.begin % 4:
                raise FusionError(
                    f"{label(op)}: begins with element {op.begin} of {op.up.name}, not with a multiple of 4"
                )
            return Vector(op.out, gated=op)
        case RmsNorm():
            add = edges.only_reader(op.out)
            return _of_sum(edges, op, add) if isinstance(add, Add) else Vector(op.out, norm=op)
    return None


def _of_sum(edges: Edges, norm: RmsNorm, add: Add) -> Vector | None:
    """The sum itself if matrices read it, or the first norm of it."""
    if add.x == add.y or add.scale != 1 or norm.weight is None:
        return None
    scale = edges.only_reader(add.out)
    scale = scale if isinstance(scale, ScaleBy) else None
    out = scale.out if scale else add.out
    readers = edges.readers(out)
    norms = [reader for reader in readers if isinstance(reader, RmsNorm)]
    if norms:  # of several the first; the others read the sum where it lies
        return Vector(norms[0].out, sum=Sum(norm, add, scale, kept=len(readers) > 1), norm=norms[0])
    matrices = [reader for reader in readers if isinstance(reader, Linear)]
    return Vector(out, sum=Sum(norm, add, scale, kept=len(matrices) < len(readers)))
