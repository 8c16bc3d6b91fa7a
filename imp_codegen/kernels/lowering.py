"""What every kernel family needs to draft kernels: the spec, the target, where weights lie, and the buffers so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from imp_codegen.graph import Attention, Graph, Linear, Op, RmsNorm, Value, Weight, label
from imp_codegen.kernels.draft import Config, Cpp, Param
from imp_codegen.passes.fuse import FusionError
from imp_codegen.passes.place_weights import Placed
from imp_codegen.quant import Tile, tile_bytes
from imp_codegen.spec import AttentionSpec, ModelSpec, RopeSpec
from imp_codegen.targets import Target, TargetError
from imp_codegen.tuning.stage import Stage
from imp_codegen.tuning.step import Step, StepChoice
from imp_codegen.tuning.table import Chosen, Table, choose, choose_step
from imp_runtime.plan import BLOCK_TOKENS, Binding, Buffer, KvSpec, Output

SLOTS = 16  # sequences that have state on the GPU at once
LEAST_SLOTS = 2  # of attention, a warp: a block's keys and values


def round_up(value: int, multiple: int) -> int:
    """The next multiple."""
    return -(-value // multiple) * multiple


def cache_of(graph: Graph) -> KvSpec:
    """The KV cache of a model; FusionError at an attention that needs another layer's part of it, or a larger one."""
    found = [op for op in graph.ops if isinstance(op, Attention)]
    kv = KvSpec(len(found), found[0].kv_heads, found[0].head_dim)
    for index, op in enumerate(found):
        if (op.layer, op.kv_heads, op.head_dim) != (index, kv.kv_heads, kv.head_dim):
            raise FusionError(
                f"{label(op)}: keeps {op.kv_heads} heads of {op.head_dim} as layer {op.layer} of the cache, which has "
                f"{kv.kv_heads} heads of {kv.head_dim} and layer {index} free"
            )
    return kv


def turns_plane(index: int) -> str:
    """The name of the plane with the turns of a graph's rotary embedding of that index."""
    return f"rope.turns.{index}"


@dataclass(slots=True)
class Lowering:
    """What drafting one target's kernels needs to know, and what they asked for so far.

    `ropes`: the graph's rotary embeddings, each with a plane. `tables`: tuning tables for the target, the first that
    knows a stage or the step decides. `buffers`: the scratch buffers' bytes. `streams`: the streamed stages and how
    each was configured.
    """

    spec: ModelSpec
    target: Target
    placed: Mapping[str, Placed]
    kv: KvSpec
    ropes: tuple[RopeSpec, ...]
    chunk_tokens: int
    tables: tuple[Table, ...] = ()
    buffers: dict[str, int] = field(default_factory=dict)
    streams: dict[Stage, Chosen] = field(default_factory=dict)

    @property
    def table_blocks(self) -> int:
        """Entries of a sequence's block table."""
        return -(-self.spec.context // BLOCK_TOKENS)

    @property
    def step_warps(self) -> int:
        """Warps that compute in the step kernel, and attend in either form.

        Fewer where a layer has little to do, or where the queries of a CTA leave no room for the tiles of more.
        """
        matrices = sum(p.plane.nbytes for p in self.placed.values() if p.tile is not None)
        target = self.target
        small = matrices / len(self.spec.layers) / target.sms < target.small_layer
        most = min(target.step_warps, target.small_layer_warps) if small else target.step_warps
        heads, room = self.spec.layers[0].attention, target.max_shared
        return next(n for n in range(most, 0, -1) if n == 1 or attention_bytes(heads, n, LEAST_SLOTS) <= room)

    def buffer(self, name: str, nbytes: int) -> Binding:
        """A scratch buffer of at least `nbytes` bytes; kernels that name the same one share it."""
        self.buffers[name] = max(self.buffers.get(name, 0), round_up(nbytes, 256))
        return Binding(name)

    def state(self, ctype: str, name: str) -> Param:
        """A parameter for one of the runtime's state buffers: `seq.token` becomes `seq_token`."""
        return Param(ctype, name.replace(".", "_"), Binding(name))

    def plane(self, weight: Weight, name: str) -> Param:
        """A parameter for a weight's plane; a vector is floats."""
        ctype = "const float*" if self.placed[weight.name].tile is None else "const std::uint8_t*"
        return Param(ctype, name, Binding(f"weights/{weight.name}"))

    def turns(self, rope: RopeSpec) -> Param:
        """A parameter for the turns of a rotary embedding's pairs."""
        return Param("const std::uint64_t*", "turns", Binding(f"weights/{turns_plane(self.ropes.index(rope))}"))

    def tile(self, weight: Weight) -> Tile:
        """The tile of a matrix."""
        tile = self.placed[weight.name].tile
        assert tile is not None, f"{weight.name} is a vector"
        return tile

    def matrix(self, weight: Weight) -> Cpp:
        """The C++ type of a weight matrix."""
        tile = self.tile(weight)
        shape = Config("TileShape", (("rows", tile.rows), ("cols", tile.cols)))
        return Cpp("Matrix", (Cpp(self.placed[weight.name].format.layout, (shape,)), weight.rows, weight.cols))

    def shape(self, weight: Weight) -> str:
        """A matrix as tuning tables write it."""
        plane = self.placed[weight.name].plane
        return f"{plane.rows}x{plane.cols} {plane.layout}"

    def weight_bytes(self, *weights: Weight) -> int:
        """Bytes of the weights in the file's format: what a kernel must read once."""
        return sum(self.placed[w.name].format.row_bytes(w.cols) * w.rows for w in weights if w.rows > 1)

    def tile_bytes(self, weight: Weight) -> int:
        """Bytes of one tile of a matrix's plane."""
        return tile_bytes(self.placed[weight.name].format, self.tile(weight))

    def wants_q8(self, *weights: Weight) -> bool:
        """Whether one of the matrices is read with int8 activations."""
        return any(self.placed[w.name].format.activation == "q8" for w in weights)

    def wants_dense(self, *weights: Weight) -> bool:
        """Whether one of the matrices is read with float activations."""
        return any(self.placed[w.name].format.activation == "bf16" for w in weights)

    def headers(self, *weights: Weight) -> tuple[str, ...]:
        """Layout headers of the matrices' formats."""
        return tuple(sorted({f"layout/{self.placed[w.name].format.layout.lower()}" for w in weights}))

    def layer_cache(self, layer: int) -> Param:
        """A parameter for one layer's part of the KV cache."""
        offset = layer * (self.kv.block_bytes // self.kv.layers)
        return Param("std::uint8_t*", "cache", Binding("kv", offset))

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


def queries_of_cta(shape: Attention | AttentionSpec) -> int:
    """Query heads of one kv head that one CTA takes: a share of them, eight at most."""
    group = shape.heads // shape.kv_heads
    return next(group // n for n in range(1, group + 1) if group % n == 0 and group // n <= 8)


def core_bytes(shape: Attention | AttentionSpec, warps: int) -> int:
    """Shared memory of decode attention in either form: the CTA's queries, the new key and value, each warp's part."""
    queries = queries_of_cta(shape)
    parts = warps * queries * (shape.head_dim + 2) * 4
    return round_up(queries * shape.head_dim * 4 + 2 * shape.head_dim * 2 + parts, 16)


def attention_bytes(shape: Attention | AttentionSpec, warps: int, slots: int) -> int:
    """Shared memory of decode attention as a kernel: the same, the warps' rings of cache tiles, and a flag."""
    tiles = warps * slots * BLOCK_TOKENS * shape.head_dim * 2 + round_up(warps * slots * 8, 16)
    return tiles + core_bytes(shape, warps) + 16


def op_names(ops: tuple[Op, ...]) -> tuple[str, ...]:
    """How a kernel's operations are listed: kind and result."""
    return tuple(label(op) for op in ops)


def output(value: Value, buffer: str, offset: int = 0) -> Output:
    """One token's float32 vector in a buffer."""
    return Output(value.name, buffer, offset, "f32", (value.width,))


def chunk_output(low: Lowering, value: Value, buffer: str) -> Output:
    """A chunk's float32 vectors in a buffer; the rows past the chunk's tokens mean nothing."""
    return Output(value.name, buffer, 0, "f32", (low.chunk_tokens, value.width))


@dataclass(frozen=True, slots=True)
class Streamed:
    """The configs that every kernel of streamed weights has, its warps, its shared memory: rings, then the vector."""

    gemv: Config
    encode: Config
    warps: int
    shared: int


def stream(
    low: Lowering, kind: str, cols: int, matrices: tuple[Weight, ...], *, norm: RmsNorm | None, paired: bool = False
) -> Streamed:
    """For a kernel that multiplies one vector with `matrices`: as the tables say, or else the formula.

    `norm`: what the vector goes through before that. `paired`: a warp takes the same rows of both matrices, instead of
    the rows of one after those of the other.
    """
    stage = _stage(low, kind, matrices, encoded_bytes(low, cols, matrices, norm=norm is not None), paired)
    # Floats that would leave too little room for tiles are read where they lie.
    few_warps = 2 * stage.formula(low.target).warps < low.target.gemv_warps
    in_place = norm is None and not low.wants_q8(*matrices) and few_warps
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
    encode = encode_config(low, cols, matrices, warps, norm=norm, in_place=in_place)
    return Streamed(gemv, encode, warps, shared)


def encode_config(
    low: Lowering, cols: int, matrices: tuple[Weight, ...], warps: int, *, norm: RmsNorm | None, in_place: bool = False
) -> Config:
    """How the vector that `matrices` multiply is encoded; not at all if it is read `in_place`."""
    return Config(
        "EncodeConfig",
        (
            ("cols", cols),
            ("warps", warps),
            ("q8", low.wants_q8(*matrices)),
            ("dense", low.wants_dense(*matrices) and not in_place),
            ("norm", norm is not None),
            ("eps", norm.eps if norm else 0.0),
        ),
    )


def encoded_bytes(low: Lowering, cols: int, matrices: tuple[Weight, ...], *, norm: bool) -> int:
    """Shared memory of the encoded vector: codes and scales, floats, and the sums of squares."""
    codes = round_up(cols, 128) + round_up(cols // 4, 16) if low.wants_q8(*matrices) else 0
    floats = round_up(cols, 32) * 4 if low.wants_dense(*matrices) else 0
    return codes + floats + (round_up(-(-cols // 128) * 4, 16) if norm else 0)


def _stage(low: Lowering, kind: str, matrices: tuple[Weight, ...], vector_bytes: int, paired: bool) -> Stage:
    tiles = []
    for weight in matrices:
        tile = low.placed[weight.name].tile
        assert tile is not None, f"{weight.name} is a vector"
        tiles.append(tile)
    rows = max(tile.rows for tile in tiles)
    if paired:
        units = -(-matrices[0].rows // rows)
        unit_tiles = sum(
            rows // tile.rows * weight.cols // tile.cols for weight, tile in zip(matrices, tiles, strict=True)
        )
    else:
        units = sum(-(-weight.rows // tile.rows) for weight, tile in zip(matrices, tiles, strict=True))
        unit_tiles = max(weight.cols // tile.cols for weight, tile in zip(matrices, tiles, strict=True))
    return Stage(
        kind,
        tuple(low.shape(weight) for weight in matrices),
        units,
        unit_tiles,
        slot_bytes=max(low.tile_bytes(weight) for weight in matrices),
        plane_bytes=sum(low.placed[weight.name].plane.nbytes for weight in matrices),
        vector_bytes=vector_bytes,
    )


def bias_params(low: Lowering, linears: tuple[Linear, ...]) -> tuple[Param, ...]:
    """A bias parameter for each matrix, or none if the matrices have none."""
    return tuple(low.plane(op.bias, f"bias{i}") for i, op in enumerate(linears) if op.bias)
