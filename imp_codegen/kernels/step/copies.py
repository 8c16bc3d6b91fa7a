"""What the phases of the step kernel make, kept for `imp verify`: vectors are written again in the next layer."""

from __future__ import annotations

from dataclasses import dataclass, field

from imp_codegen.kernels.attention.parts import Parts, appended
from imp_codegen.kernels.family import Block
from imp_codegen.kernels.kernel_spec import Argument, Param
from imp_codegen.kernels.lowering import Lowering
from imp_runtime.plan import Binding, Output

_BUFFER = "step.copies"


@dataclass(slots=True)
class Copies:
    """Copies of a check build, of no other. `outputs`: all so far, in the order of the graph."""

    low: Lowering
    outputs: list[Output] = field(default_factory=list)
    floats: int = 0

    def of(self, name: str, block: Block) -> dict[str, Argument]:
        """The argument `name`, where a copy of the block is to lie."""
        if self.low.check:
            offset = self.floats
            for value in block:
                self.outputs.append(Output(value.name, _BUFFER, offset * 4, "f32", (value.width,)))
                offset += value.width
        return self.unread(name, sum(value.width for value in block))

    def unread(self, name: str, width: int) -> dict[str, Argument]:
        """The argument `name`, room for a vector that the graph has no value of."""
        if not self.low.check:
            return {}
        binding = Binding(_BUFFER, self.floats * 4)
        self.floats += width
        self.low.buffer(_BUFFER, self.floats * 4)
        return {name: Param("float*", binding)}

    def cache(self, parts: Parts) -> None:
        """What a layer has appended needs no copy."""
        if self.low.check:
            self.outputs += appended(self.low, parts.op)
