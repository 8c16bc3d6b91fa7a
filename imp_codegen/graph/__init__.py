"""A model as operations and the values between them. The operations themselves are in `imp_codegen.ops`."""

from imp_codegen.graph.graph import Edges, Graph, GraphError, Pairs, verify
from imp_codegen.graph.op import Evaluation, Floats, Op, Value, Weight, floats, inputs, label, weights

__all__ = [
    "Edges",
    "Evaluation",
    "Floats",
    "Graph",
    "GraphError",
    "Op",
    "Pairs",
    "Value",
    "Weight",
    "floats",
    "inputs",
    "label",
    "verify",
    "weights",
]
