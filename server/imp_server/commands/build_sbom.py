"""The bill of materials of what built a folder of artifacts: imp, the packages that it needs, the compilers.

CycloneDX 1.6, JSON (https://cyclonedx.org/docs/1.6/json/). The same tools give the same bytes: there is no time in it,
and its serial number is made of its content.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import uuid
from collections.abc import Iterable
from typing import Any

from imp_codegen.build import toolchain
from imp_codegen.build.toolchain import Compiler
from imp_runtime.version import VERSION

SBOM = "sbom.cdx.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)


def sbom(compilers: Iterable[Compiler]) -> str:
    """The document, with those packages of imp's requirements, and theirs, that are installed."""
    packages = _packages("imp")
    refs = {name: f"pkg:pypi/{name}@{version}" for name, (version, _) in packages.items()}
    tools = [_tool(name) for name in sorted(set(compilers))]
    root = {"type": "application", "bom-ref": "imp", "name": "imp", "version": VERSION}
    components = [
        {"type": "library", "bom-ref": ref, "name": name, "version": packages[name][0], "purl": ref}
        for name, ref in sorted(refs.items())
        if name != "imp"
    ]
    refs["imp"] = "imp"
    needs = {refs[name]: sorted(refs[each] for each in needed) for name, (_, needed) in packages.items()}
    needs["imp"] += [tool["bom-ref"] for tool in tools]
    document: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": root},
        "components": [*components, *tools],
        "dependencies": [{"ref": ref, "dependsOn": needed} for ref, needed in sorted(needs.items())],
    }
    document["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(document)).urn
    return json.dumps(document, indent=1) + "\n"


def _packages(first: str) -> dict[str, tuple[str, set[str]]]:
    """Version and requirements of a package and of all that it needs; none of an extra, and none that is not here."""
    found: dict[str, tuple[str, set[str]]] = {}
    waiting = [first]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        here = importlib.metadata.distribution(name)
        needed = {each for line in here.requires or () if (each := _required(line))}
        found[name] = (here.version, needed)
        waiting += needed
    return found


def _required(line: str) -> str | None:
    """The normal name of a requirement of an installed package."""
    match = _NAME.match(line)
    if match is None or "extra ==" in line:
        return None
    name = re.sub(r"[-_.]+", "-", match[0]).lower()
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None  # of another platform or Python
    return name


def _tool(name: Compiler) -> dict[str, Any]:
    found = toolchain.find(name)
    with found.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "type": "application",
        "bom-ref": name,
        "name": name,
        "version": found.version,
        "description": " ".join(found.banner.split()),
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }
