"""What every kernel family needs: the target, where weights and values lie, and which buffers were asked for so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from imp_codegen.graph import Value, Weight
from imp_codegen.kernels.kernel_spec import Config, Cpp, Param
from imp_codegen.kernels.placed import Placed
from imp_codegen.kernels.state import CachePlan
from imp_codegen.layouts import Layout, Tile, tile_bytes
from imp_codegen.rope import RopeSpec, turns_plane
from imp_codegen.targets import Target, TargetError
from imp_codegen.tune.stage import Stage
from imp_codegen.tune.step import Step, StepChoice
from imp_codegen.tune.table import Chosen, Table, choose_step
from imp_runtime.plan import BLOCK_TOKENS, SEQUENCES_HEADER, STEP_LINE, Binding, Buffer, Output, Prefill

SLOTS = 64  # sequences that have state on the GPU at once
LEDGERS = 16  # of these have rows of the vocabulary at once: 43 MB in all with 152k tokens and a context of 40k


def round_up(value: int, multiple: int) -> int:
    """The next multiple."""
    return -(-value // multiple) * multiple


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value lies: from `column` on in each of the rows of `stride` floats that a buffer holds."""

    buffer: str
    column: int
    stride: int


@dataclass(slots=True)
class Lowering:
    """What one target's kernels for programs of `rows` tokens need to know, and what they asked for so far.

    `ropes`: the graph's rotary embeddings, each with a plane. `context`: the longest sequence. `batch`: each row is the
    next token of another sequence. `places`: where the values between kernels lie. `tables`: tuning tables for the
    target, the first that knows a stage or the step decides. `check`: kernels keep what `imp verify` would not see
    otherwise. `counted`: the state buffer whose header says how many rows there are. `buffers`: the buffers' bytes.
    `streams`: the streamed stages and how each was configured.
    """

    target: Target
    placed: Mapping[str, Placed]
    cache: CachePlan
    ropes: tuple[RopeSpec, ...]
    context: int
    rows: int = 1
    batch: bool = False
    places: Mapping[Value, Place] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()
    prefill: Prefill = "f16"
    check: bool = False
    counted: str = "step.rows"
    buffers: dict[str, int] = field(default_factory=dict)
    streams: dict[Stage, Chosen] = field(default_factory=dict)

    @property
    def table_blocks(self) -> int:
        """Entries of a sequence's block table."""
        return -(-self.context // BLOCK_TOKENS)

    def buffer(self, name: str, nbytes: int) -> Binding:
        """A scratch buffer of at least `nbytes` bytes; kernels that name the same one share it."""
        self.buffers[name] = max(self.buffers.get(name, 0), round_up(nbytes, 256))
        return Binding(name)

    def value(self, ctype: str, value: Value) -> Param:
        """A parameter for a value of the first row; the others lie `places[value].stride` floats further each."""
        place = self.places[value]
        return Param(ctype, Binding(place.buffer, place.column * 4))

    def row(self, index: int) -> Lowering:
        """The same for a program of one row that lies where this one's row `index` does."""
        moved = {v: replace(place, column=place.column + index * place.stride) for v, place in self.places.items()}
        return replace(self, rows=1, places=moved)

    def output(self, value: Value) -> tuple[Output, ...]:
        """A value as what a kernel leaves behind; rows past those of the step mean nothing."""
        place = self.places[value]
        shape = (value.width,) if self.rows == 1 else (self.rows, value.width)
        stride = place.stride * 4 if self.rows > 1 and place.stride != value.width else 0
        return (Output(value.name, place.buffer, place.column * 4, "f32", shape, stride),)

    def state(self, ctype: str, name: str) -> Param:
        """A parameter for one of the runtime's state buffers."""
        return Param(ctype, Binding(name))

    def step(self) -> Param:
        """A parameter for what the program works on."""
        return Param("const imp::StepHeader*", Binding(self.counted))

    @property
    def several(self) -> bool:
        """Whether its programs are of several rows."""
        return self.rows > 1

    def ended(self) -> Lowering:
        """The same for programs whose rows are those that have logits, of which tokens are chosen."""
        return replace(self, counted="step.sequences") if self.several else self

    def step_rows(self) -> Param:
        """A parameter for its rows."""
        return Param("const imp::StepRow*", Binding("step.rows", STEP_LINE))

    def step_sequences(self) -> Param:
        """A parameter for its sequences, which only programs of several rows are told."""
        return Param("const imp::StepSequence*", Binding("step.sequences", SEQUENCES_HEADER))

    def ends(self) -> dict[str, Param]:
        """What stages of a token's choice take last; those of one row do not look at it."""
        return {"sequences": self.step_sequences()}

    def plane(self, weight: Weight) -> Param:
        """A parameter for a weight's plane; a vector is floats."""
        ctype = "const float*" if self.placed[weight.name].tile is None else "const std::uint8_t*"
        return Param(ctype, Binding(f"weights/{weight.name}"))

    def turns(self, rope: RopeSpec) -> Param:
        """A parameter for the turns of a rotary embedding's pairs."""
        return Param("const std::uint64_t*", Binding(f"weights/{turns_plane(self.ropes.index(rope))}"))

    def tile(self, weight: Weight) -> Tile:
        """The tile of a matrix."""
        tile = self.placed[weight.name].tile
        assert tile is not None, f"{weight.name} is a vector"
        return tile

    def layout(self, weight: Weight) -> Layout:
        """The layout of a matrix."""
        layout = self.placed[weight.name].layout
        assert layout is not None, f"{weight.name} is a vector"
        return layout

    def matrix(self, weight: Weight) -> Cpp:
        """The C++ type of a weight matrix, of a stack that of each."""
        tile, layout = self.tile(weight), self.layout(weight)
        shape = Config("TileShape", (("rows", tile.rows), ("cols", tile.cols)))
        arguments = layout.arguments(self.placed[weight.name].format)
        assert arguments is not None
        return Cpp("Matrix", (Cpp(layout.name, (shape, *arguments)), weight.each, weight.cols))

    def shape(self, weight: Weight) -> str:
        """A matrix as tuning tables write it."""
        plane = self.placed[weight.name].plane
        stack = f"{weight.experts} of " if weight.experts else ""
        return f"{stack}{weight.each}x{plane.cols} {plane.layout}"

    def weight_bytes(self, *weights: Weight, used: int = 1) -> int:
        """Bytes of the weights without padding: what a kernel must read once; of a stack `used` of the matrices."""
        return sum(
            self.layout(w).row_bytes(w.cols) * w.each * (used if w.experts else 1) for w in weights if w.rows > 1
        )

    def tile_bytes(self, weight: Weight) -> int:
        """Bytes of one tile of a matrix's plane."""
        return tile_bytes(self.layout(weight), self.tile(weight))

    def wants_q8(self, *weights: Weight) -> bool:
        """Whether one of the matrices is read with int8 activations."""
        return any(self.layout(w).activation == "q8" for w in weights)

    def wants_halfs(self, *weights: Weight) -> bool:
        """Whether one of the matrices is read with activations that are halfs."""
        return any(self.layout(w).activation == "f16" for w in weights)

    def wants_dense(self, *weights: Weight) -> bool:
        """Whether one of the matrices is read with float activations."""
        return any(self.layout(w).activation == "bf16" for w in weights)

    def headers(self, *weights: Weight) -> tuple[str, ...]:
        """Headers of the matrices' layouts."""
        return tuple(sorted({f"layout/{self.layout(w).name.lower()}" for w in weights}))

    def layer_cache(self, layer: int) -> Param:
        """A parameter for one layer's part of the KV cache."""
        return Param("std::uint8_t*", Binding("kv", self.cache.layers[layer].offset))

    def layer_table(self, layer: int) -> Param:
        """A parameter for the block tables of one layer's group."""
        return Param("const std::int32_t*", Binding("seq.table", 4 * self.cache.layers[layer].group))

    def paging(self) -> tuple[tuple[str, int], ...]:
        """Config fields: how block tables and blocks lie."""
        groups = ("block_groups", len(self.cache.groups))
        return (("table_blocks", self.table_blocks), groups, ("block_bytes", self.cache.block_bytes))

    def cache_row(self, layer: int) -> Cpp:
        """The C++ type of a row of one layer's cache."""
        part = self.cache.layers[layer]
        return Cpp(part.format.layout, (part.head_dim,))

    def cache_header(self, layer: int) -> str:
        """The header of that type."""
        return f"layout/cache_{self.cache.layers[layer].format.name}"

    def choose_step(self, step: Step) -> StepChoice:
        """The step kernel's numbers: as the tables say, or else the formula."""
        entry, origin = choose_step(self.tables, step.name) or (None, "formula")
        choice = entry.choice if entry and entry.choice else step.formula(self.target)
        if not step.takes(choice):
            raise TargetError(
                f"the step kernel cannot have {choice.in_flight} tiles in flight with {choice.lanes} lanes, its ring "
                f"takes {step.ring_tiles}; measure it again ({origin})"
            )
        return choice

    def all_buffers(self) -> tuple[Buffer, ...]:
        """Every scratch buffer, sorted by name."""
        return tuple(Buffer(name, nbytes) for name, nbytes in sorted(self.buffers.items()))
