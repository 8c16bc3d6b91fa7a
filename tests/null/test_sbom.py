"""The bill of materials beside an index, by what CycloneDX 1.6 demands of a document, and against what is installed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import uuid
from typing import Any

import pytest

from imp_codegen.build import toolchain
from imp_server.commands.build_sbom import sbom


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    made = json.loads(sbom(["nvcc", "g++"]))
    assert isinstance(made, dict)
    return made


def test_it_is_a_document_of_the_specification(document: dict[str, Any]) -> None:
    """bomFormat and specVersion are fixed, components need type and name, refs are unique and exist."""
    assert (document["bomFormat"], document["specVersion"], document["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", document["serialNumber"])
    assert uuid.UUID(document["serialNumber"]).version == 5
    assert set(document) == {
        *("$schema", "bomFormat", "specVersion", "serialNumber", "version", "metadata", "components", "dependencies"),
    }
    components = [document["metadata"]["component"], *document["components"]]
    for each in components:
        assert each["type"] in ("application", "library")
        assert set(each) <= {"type", "bom-ref", "name", "version", "purl", "description", "hashes"}
        assert each["name"]
        assert each["version"]
    refs = [each["bom-ref"] for each in components]
    assert len(set(refs)) == len(refs)
    told = [each["ref"] for each in document["dependencies"]]
    assert len(set(told)) == len(told)
    needed = [ref for each in document["dependencies"] for ref in each["dependsOn"]]
    assert {*told, *needed} <= set(refs)


def test_it_names_what_is_installed(document: dict[str, Any]) -> None:
    found = {each["name"]: each for each in document["components"]}
    for name in ("numpy", "nvidia-cuda-nvcc", "tokenizers", "pydantic-core"):
        version = importlib.metadata.version(name)
        assert (found[name]["version"], found[name]["purl"]) == (version, f"pkg:pypi/{name}@{version}")
    assert "pytest" not in found, "what only those who work on imp need builds no artifact"
    nvcc = toolchain.find("nvcc")
    assert found["nvcc"]["version"] == nvcc.version
    assert found["nvcc"]["hashes"][0]["content"] == hashlib.sha256(nvcc.path.read_bytes()).hexdigest()
    assert found["g++"]["version"] in subprocess.run(["g++", "--version"], capture_output=True, text=True).stdout
    (root,) = (each for each in document["dependencies"] if each["ref"] == "imp")
    assert {"nvcc", "g++", found["numpy"]["bom-ref"]} <= set(root["dependsOn"])


def test_the_same_tools_give_the_same_bytes() -> None:
    program = "from imp_server.commands.build_sbom import sbom; print(sbom(['g++', 'nvcc']), end='')"
    made = set()
    for seed, locale in (("1", "C"), ("2", "tr_TR.UTF-8")):
        env = os.environ | {"PYTHONHASHSEED": seed, "LC_ALL": locale}
        made.add(subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, check=True).stdout)
    assert len(made) == 1
    assert made == {sbom(["nvcc", "g++"]).encode()}
