"""Weights as a checkpoint stores them, read by what their sources say.

Reading loses nothing: rows are handed out as they are stored, but for matrices that are to be rounded
(`passes/round_weights.py`), which are as they are read.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.checkpoint import Checkpoint
from imp_codegen.sources import (
    Below,
    Codes,
    EverySecond,
    Flat,
    Float32,
    Group,
    HalfOfEach,
    HeadColumns,
    HeadRows,
    Mxfp4,
    Permute,
    Plus,
    Reciprocal,
    Rounded,
    Rows,
    Source,
    Stack,
    Tensor,
    Times,
    Transposed,
    Unstacked,
)
from imp_codegen.stored._rounded import StoredRounded
from imp_codegen.stored._rows import (
    StoredEverySecond,
    StoredHalfOfEach,
    StoredHeadRows,
    StoredPermuted,
    StoredRows,
    StoredUnstacked,
)
from imp_codegen.stored._several import StoredBelow, StoredGroup, StoredMxfp4, StoredStack
from imp_codegen.stored._stored import Stored
from imp_codegen.stored._tensors import StoredCodes, StoredTensor
from imp_codegen.stored._values import (
    StoredChanged,
    StoredFlat,
    StoredFloat32,
    StoredHeadColumns,
    StoredReciprocal,
    StoredTransposed,
)

__all__ = ["Stored", "open_source"]


def open_source(source: Source, checkpoint: Checkpoint) -> Stored:
    """A source in a checkpoint. CheckpointError where a tensor is missing, or is not such that it can be read so."""
    match source:
        case Tensor(name):
            return StoredTensor(checkpoint, name)
        case Rows(inner, begin, end):
            return StoredRows(open_source(inner, checkpoint), source, checkpoint, begin, end)
        case Permute(inner, heads):
            return StoredPermuted(open_source(inner, checkpoint), source, checkpoint, heads)
        case Unstacked(inner):
            return StoredUnstacked(open_source(inner, checkpoint), source, checkpoint)
        case HeadRows(inner, heads, begin, end):
            return StoredHeadRows(open_source(inner, checkpoint), source, checkpoint, heads, begin, end)
        case HeadColumns(inner, heads):
            return StoredHeadColumns(open_source(inner, checkpoint), source, checkpoint, heads)
        case HalfOfEach(inner, half):
            return StoredHalfOfEach(open_source(inner, checkpoint), source, checkpoint, half)
        case Plus(inner, value):
            return StoredChanged(open_source(inner, checkpoint), source, checkpoint, np.add, value)
        case Times(inner, value):
            return StoredChanged(open_source(inner, checkpoint), source, checkpoint, np.multiply, value)
        case Float32(inner):
            return StoredFloat32(open_source(inner, checkpoint), source, checkpoint)
        case Codes(name, most):
            return StoredCodes(checkpoint, name, most)
        case Reciprocal(inner):
            return StoredReciprocal(open_source(Float32(inner), checkpoint), source, checkpoint)
        case Group(_, sources):
            return StoredGroup([open_source(each, checkpoint) for each in sources], source, checkpoint)
        case Stack(sources):
            return StoredStack([open_source(each, checkpoint) for each in sources], source, checkpoint)
        case Below(sources):
            return StoredBelow([open_source(each, checkpoint) for each in sources], source, checkpoint)
        case Flat(inner):
            return StoredFlat(open_source(inner, checkpoint), source, checkpoint)
        case EverySecond(inner, first):
            return StoredEverySecond(open_source(inner, checkpoint), source, checkpoint, first)
        case Transposed(inner):
            return StoredTransposed(open_source(inner, checkpoint), source, checkpoint)
        case Mxfp4():
            return StoredMxfp4(source, checkpoint)
        case Rounded(inner):
            return StoredRounded(open_source(inner, checkpoint), source, checkpoint)
