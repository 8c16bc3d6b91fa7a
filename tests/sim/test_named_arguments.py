"""Arguments of kernels have names: one that is missing, misspelt, out of place or of another type is no program."""

import re
from dataclasses import replace

import pytest

from imp_codegen.build import BuildError, Unit, build
from imp_codegen.emit import emit
from imp_codegen.kernels.bandwidth import read_memory
from imp_codegen.kernels.kernel_spec import Arguments, ProgramSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.state import CachePlan
from imp_codegen.targets import find_target


def compile_read(change):
    """The kernel that only reads, with other arguments than its own."""
    kernel = read_memory(Lowering(find_target("sim"), {}, CachePlan((), (), 0), (), context=16))
    args: Arguments = change(dict(kernel.args))
    made = emit((ProgramSpec("read", 1, (replace(kernel, args=args),)),), "llama", "Q8_0", "sim")
    build((Unit("sim", "g++", made.source),))


def renamed(args):
    return {"begin": args["begin"], "stop": args["end"], "sink": args["sink"]}


CHANGES = {
    "missing": (lambda args: {name: args[name] for name in ("begin", "end")}, "sink"),
    "misspelt": (renamed, "stop"),
    "one too many": (lambda args: {**args, "more": args["sink"]}, "more"),
    "out of place": (lambda args: {name: args[name] for name in ("end", "begin", "sink")}, "begin"),
    "another's": (lambda args: {**args, "sink": args["begin"]}, "const uint8_t*"),
}


def test_as_it_is():
    compile_read(lambda args: args)


@pytest.mark.parametrize("case", CHANGES)
def test_changed(case):
    change, named = CHANGES[case]
    with pytest.raises(BuildError, match=re.escape(named)):
        compile_read(change)
