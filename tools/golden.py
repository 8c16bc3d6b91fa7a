"""Writes generated/demo: the source that imp emits for the demo model, a specimen to read and a golden test."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from imp_codegen.checkpoint import open_checkpoint
from imp_codegen.compiler import CompileOptions, plan_model
from imp_codegen.targets import find_target

ROOT = Path(__file__).parent.parent
TARGETS = ("sm_120a", "sm_90a", "sim")


def emitted() -> dict[Path, str]:
    """The golden files and what the compiler of this checkout emits for them."""
    with closing(open_checkpoint(ROOT / "models" / "demo.gguf")) as checkpoint:
        compiled = plan_model(checkpoint, tuple(find_target(name) for name in TARGETS), CompileOptions())
    return {ROOT / "generated" / "demo" / f"{name}.cu": item.source for name, item in compiled.emitted.items()}


if __name__ == "__main__":
    for path, source in emitted().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, "utf-8")
        print(path.relative_to(ROOT))
