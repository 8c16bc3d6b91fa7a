"""The operations of a graph, one file each: what it reads, which shapes fit, and what comes out, in numpy."""

from imp_codegen.ops.add import Add
from imp_codegen.ops.attention import Attention
from imp_codegen.ops.combine import Combine
from imp_codegen.ops.embed import Embed
from imp_codegen.ops.expert_linear import ExpertLinear
from imp_codegen.ops.gated import Gated
from imp_codegen.ops.head_linear import HeadLinear
from imp_codegen.ops.head_norm import HeadNorm
from imp_codegen.ops.join import Join
from imp_codegen.ops.linear import Linear
from imp_codegen.ops.rms_norm import RmsNorm
from imp_codegen.ops.rope import Rope, ropes
from imp_codegen.ops.route import Route
from imp_codegen.ops.sample import Sample
from imp_codegen.ops.scale import Scale
from imp_codegen.ops.scale_by import ScaleBy
from imp_codegen.ops.softcap import Softcap
from imp_codegen.ops.weigh import Weigh

__all__ = [
    "Add",
    "Attention",
    "Combine",
    "Embed",
    "ExpertLinear",
    "Gated",
    "HeadLinear",
    "HeadNorm",
    "Join",
    "Linear",
    "RmsNorm",
    "Rope",
    "Route",
    "Sample",
    "Scale",
    "ScaleBy",
    "Softcap",
    "Weigh",
    "ropes",
]
