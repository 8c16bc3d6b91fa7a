"""A Hugging Face folder and a GGUF file of the same weights become the same program with the same planes."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path

import pytest

from converted import convert
from imp_codegen.checkpoint import open_checkpoint
from imp_codegen.compiler import CompileOptions, plan_model
from imp_codegen.pack import computed, pack
from imp_codegen.spec import LayerSpec, ModelSpec
from imp_codegen.targets import targets

FIXTURES = Path(__file__).parents[1] / "fixtures"
FOLDERS = sorted(folder for folder in FIXTURES.glob("*/hf") if any(folder.parent.glob("*.gguf")))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parent.name)
def test_same_program_and_same_planes(folder: Path, tmp_path: Path) -> None:
    like = next(folder.parent.glob("*.gguf"))
    converted = convert(folder, like, tmp_path / "hf.gguf")
    found = []
    for path in (folder, converted):
        with closing(open_checkpoint(path)) as checkpoint:
            compiled = plan_model(checkpoint, tuple(targets().values()), CompileOptions())
            planes = pack(compiled.plan.planes, compiled.weights.__getitem__, computed(compiled.ropes))
            found.append((compiled, {name: b"".join(map(bytes, chunks)) for name, chunks in planes}))
    (one, planes), (two, other_planes) = found
    assert planes.keys() == other_planes.keys()
    for name, plane in planes.items():
        assert plane == other_planes[name], name
    assert {name: item.source for name, item in one.emitted.items()} == {
        name: item.source for name, item in two.emitted.items()
    }
    # A GGUF file has its epsilon in float32, and is called as it likes.
    assert dataclasses.replace(as_meant(one.spec), name=two.spec.name, norm_eps=two.spec.norm_eps) == as_meant(two.spec)
    assert one.spec.norm_eps == pytest.approx(two.spec.norm_eps, rel=1e-7)


def as_meant(spec: ModelSpec) -> ModelSpec:
    """Without how matrices of keys and values are stored, and what float32 leaves of the scores' scale beside them."""

    def layer(old: LayerSpec) -> LayerSpec:
        latent = old.mixer.latent
        if latent is None:
            return old
        mixer = dataclasses.replace(
            old.mixer, latent=dataclasses.replace(latent, joined=False), scale=round(old.mixer.scale, 6)
        )
        return dataclasses.replace(old, mixer=mixer)

    return dataclasses.replace(spec, layers=tuple(map(layer, spec.layers)))
