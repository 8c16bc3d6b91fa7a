"""A model in which one token makes NaN, and what engines on any target must make of it."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.kernels.form import Wanted
from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from model_checks import FIXTURES, quiet

BAD = 77
KINDS: tuple[dict[str, object], ...] = (
    {},
    {"temperature": 1.0},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 0.7, "top_k": 20, "repetition_penalty": 1.1},
    {"top_logprobs": 5},
    {"temperature": 1.0, "dry_multiplier": 1.0},
)


def compile_nan_model(folder: Path, target: str, form: Wanted = "auto") -> Path:
    """The fixture llama with a NaN as the first scale of its embedding's row BAD."""
    source = FIXTURES / "llama" / "llama-Q8_0.gguf"
    content = bytearray(source.read_bytes())
    (embedding,) = (tensor for tensor in gguf.GGUFReader(source).tensors if tensor.name == "token_embd.weight")
    at = int(embedding.data_offset) + BAD * (embedding.n_bytes // int(embedding.shape[1]))
    content[at : at + 2] = np.float16(np.nan).tobytes()
    (folder / "nan.gguf").write_bytes(content)
    compile_model(folder / "nan.gguf", folder / "nan.impc", (target,), CompileOptions(form=form), quiet)
    return folder / "nan.impc"


def check_only_one_ends(engine: Engine, kind: dict[str, object]) -> None:
    """Of two sequences the one with the token ends with an error, and the other is as if it were alone."""
    params = SamplingParams(max_tokens=8, ignore_eos=True, seed=3, **kind)  # type: ignore[arg-type]
    alone = list(engine.generate([5, 6, 7], params))
    assert BAD not in alone
    good, bad = engine.add([5, 6, 7], params), engine.add([5, BAD, 7], params)
    outputs: dict[int, list[tuple[int, str | None]]] = {good.id: [], bad.id: []}
    while engine.has_work:
        for output in engine.step():
            outputs[output.sequence.id].append((output.token, output.finish))
    assert outputs[bad.id] == [(-1, "error")]
    assert [token for token, _ in outputs[good.id]] == alone
    assert len(alone) == 8
