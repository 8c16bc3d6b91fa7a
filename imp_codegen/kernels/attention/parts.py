"""The operations around an attention that its kernels take with it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from imp_codegen.graph import Op, Value
from imp_codegen.kernels.attention.sizes import attention_warps
from imp_codegen.kernels.kernel_spec import Config, Param
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.ops import Attention, HeadNorm, Rope
from imp_runtime.plan import BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class Parts:
    """The norms of q and k, or none; their rotations, which are alike; the attention."""

    norms: tuple[HeadNorm, ...]
    ropes: tuple[Rope, ...]
    op: Attention

    @property
    def ops(self) -> tuple[Op, ...]:
        """All, in order."""
        return (*self.norms, *self.ropes, self.op)

    @property
    def inputs(self) -> tuple[Value, ...]:
        """Q and k as the products leave them."""
        return tuple(op.x for op in self.norms or self.ropes)

    @property
    def width(self) -> int:
        """Floats of a token's q, k and v."""
        return (self.op.heads + 2 * self.op.kv_heads) * self.op.head_dim


def core_config(low: Lowering, parts: Parts, splits: int) -> Config:
    """The config of both forms of decode attention."""
    op, norms = parts.op, parts.norms
    return Config(
        "AttentionConfig",
        (
            ("heads", op.heads),
            ("kv_heads", op.kv_heads),
            ("head_dim", op.head_dim),
            ("block_tokens", BLOCK_TOKENS),
            ("block_bytes", low.kv.block_bytes),
            ("table_blocks", low.table_blocks),
            ("splits", splits),
            ("warps", attention_warps(low, op)),
            ("interleaved", parts.ropes[0].rope.interleaved),
            ("qk_norm", bool(norms)),
            ("eps", norms[0].eps if norms else 0.0),
            ("scale", op.scale * math.log2(math.e)),
        ),
    )


def norm_params(low: Lowering, norms: tuple[HeadNorm, ...]) -> tuple[Param, Param]:
    """The weights of the norms of q and k, or null pointers."""
    weights = [norm.weight for norm in norms if norm.weight]
    q, k = weights or (None, None)
    null = (Param("const float*", "q_norm", None), Param("const float*", "k_norm", None))
    return (low.plane(q, "q_norm"), low.plane(k, "k_norm")) if q and k else null
