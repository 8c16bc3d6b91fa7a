"""The operations around an attention that its kernels take with it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from imp_codegen.graph import Op, Value
from imp_codegen.kernels.attention.sizes import attention_warps
from imp_codegen.kernels.kernel_spec import Config, Param, Scalar
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.ops import Attention, HeadNorm, Rope
from imp_codegen.rope import RopeSpec
from imp_runtime.plan import BLOCK_TOKENS, Output


@dataclass(frozen=True, slots=True)
class Parts:
    """The norms of q and k, or none; that of v, or none; the rotations of q and k, alike, or none; the attention.

    Where the attention appends nothing, norm and rotation are those of q alone.
    """

    norms: tuple[HeadNorm, ...]
    value_norms: tuple[HeadNorm, ...]
    ropes: tuple[Rope, ...]
    op: Attention

    @property
    def ops(self) -> tuple[Op, ...]:
        """All, in order."""
        return (*self.norms, *self.value_norms, *self.ropes, self.op)

    @property
    def inputs(self) -> tuple[Value, ...]:
        """Q, k and v as the products leave them; those that there are, and once what is both k and v."""
        queries = tuple(op.x for op in self.norms or self.ropes) or (self.op.q, self.op.k)
        value = self.value_norms[0].x if self.value_norms else self.op.v
        found = tuple(read for read in queries if read)
        return (*found, value) if value and value != found[-1] else found

    @property
    def rope(self) -> RopeSpec | None:
        """How q and k turn, if they do."""
        return self.ropes[0].rope if self.ropes else None

    @property
    def width(self) -> int:
        """Floats of a token's q, k and v."""
        return sum(value.width for value in self.inputs)

    @property
    def whole(self) -> bool:
        """Whether all heads of q are normed together, and those of k."""
        return any(norm.head_dim != self.op.head_dim for norm in self.norms)

    @property
    def values(self) -> int:
        """The head of a token's row with which v begins; 0 where nothing is appended to the cache."""
        return self.width // self.op.head_dim - self.op.kv_heads if self.op.k else 0


def core_config(
    low: Lowering,
    parts: Parts,
    splits: int,
    window: int,
    warps: int = 0,
    *,
    prepared: bool = False,
    alone: int = 1,
    least: int = 1,
) -> Config:
    """The config of both forms of decode attention.

    `window`: the largest, where several layers share it. `warps`: of a CTA; 0: as many as attend to one token.
    `prepared`: q is turned and scaled, and k in the cache. `alone`: blocks for each warp that one CTA takes before
    others help; `least`: that each CTA has, however many help.
    """
    op = parts.op
    return Config(
        "AttentionConfig",
        (
            ("heads", op.heads),
            ("kv_heads", op.kv_heads),
            ("values", 0 if prepared else parts.values),
            ("head_dim", op.head_dim),
            ("latent", op.latent),
            ("block_tokens", BLOCK_TOKENS),
            *low.paging(),
            ("splits", splits),
            ("warps", warps or attention_warps(low, op)),
            ("window", window),
            *(_PREPARED if prepared else rotation(parts)),
            ("soft_cap", op.softcap * math.log2(math.e)),
            *with_sinks(op),
            *((("alone", alone),) if alone > 1 else ()),
            *((("least", least),) if least > 1 else ()),
        ),
    )


_PREPARED: tuple[tuple[str, Scalar], ...] = (
    ("rope_dim", 0),
    ("interleaved", False),
    ("magnitude", 1.0),
    ("qk_norm", False),
    ("whole_norm", False),
    ("v_norm", False),
    ("eps", 0.0),
    ("scale", 1.0),
)


def rotation(parts: Parts) -> tuple[tuple[str, Scalar], ...]:
    """Fields of what happens to q, k and v before q meets the cache: norms, rotation, the factor of the scores."""
    norms, rope = (*parts.norms, *parts.value_norms), parts.rope
    return (
        ("rope_dim", rope.dim if rope else 0),
        ("interleaved", rope.interleaved if rope else False),
        ("magnitude", rope.magnitude if rope else 1.0),
        ("qk_norm", bool(parts.norms)),
        ("whole_norm", parts.whole),
        ("v_norm", bool(parts.value_norms)),
        ("eps", norms[0].eps if norms else 0.0),
        ("scale", parts.op.scale * math.log2(math.e)),
    )


def with_sinks(op: Attention) -> tuple[tuple[str, Scalar], ...]:
    """The field of a config that says that heads have sinks, where they have."""
    return (("sinks", True),) if op.sinks else ()


def sinks(low: Lowering, op: Attention) -> Param | None:
    """The sinks of the heads, where they have any."""
    return low.plane(op.sinks) if op.sinks else None


def appended(low: Lowering, op: Attention) -> tuple[Output, ...]:
    """The layer's part of the cache as what a kernel leaves behind, if it appends to it."""
    part = low.cache.layers[op.layer]
    return (Output(op.out.name + ".cache", "kv", part.offset, "u8", (part.nbytes,), group=part.group),) if op.k else ()


def turns(low: Lowering, parts: Parts) -> Param | None:
    """The turns of the pairs that turn, if any do."""
    return low.turns(parts.rope) if parts.rope else None


def norm_weights(low: Lowering, parts: Parts) -> dict[str, Param | None]:
    """The weights of the norms of q and k, where there are any."""
    q, k, *_ = *(low.plane(norm.weight) for norm in parts.norms if norm.weight), None, None
    return {"q_norm": q, "k_norm": k}
