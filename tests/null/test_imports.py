"""The import contracts of pyproject.toml refuse what nobody thought of."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[2]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
SEEDED = {  # what each of these modules must not import
    "imp_server.api.openai.chat": "imp_codegen.compiler",
    "imp_server.operation.metrics": "imp_codegen.formats",
    "imp_server.model": "subprocess",
    "imp_server.generation.stop": "imp_server.model",
    "imp_server.chat.turns": "imp_server.grammar.gbnf",
    "imp_server.api.anthropic.requests": "imp_server.api.openai.requests",
    "imp_server.api.service": "imp_server.operation.config",
    "imp_codegen.formats.q8_0": "jinja2",
    "imp_codegen.spec": "imp_runtime.scheduler",
    "imp_codegen.compiler": "imp_server.model",
    "imp_codegen.graph.graph": "imp_codegen.kernels",
    "imp_runtime.plan": "imp_codegen.spec",
    "imp_runtime.engine": "pydantic",
}
FOLDERS = {"imp_codegen": ".", "imp_runtime": "runtime", "imp_server": "server"}


def test_every_package_that_is_imported_has_a_contract() -> None:
    graph = grimp.build_graph(*FOLDERS, include_external_packages=True, cache_dir=None)
    packages = {module.split(".")[0] for module in graph.modules} - set(FOLDERS) - sys.stdlib_module_names
    protected = {name for contract in CONTRACTS for name in contract.get("protected_modules", ())}
    assert packages <= protected


def test_what_breaks_a_contract_is_reported(tmp_path: Path) -> None:
    for name in ("imp_codegen", "runtime", "server", "pyproject.toml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    for folder in ("imp_codegen", "server/imp_server", "server/imp_server/api"):
        (tmp_path / folder / "unforeseen.py").write_text('"""A room that no layer has."""\n')
    for importer, module in SEEDED.items():
        file = tmp_path / FOLDERS[importer.split(".")[0]] / f"{importer.replace('.', '/')}.py"
        file.write_text(f"{file.read_text()}\nimport {module}\n")
    path = ":".join(str(tmp_path / folder) for folder in FOLDERS.values())
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    for package in ("imp_codegen", "imp_server", "imp_server.api"):
        assert f"- {package}.unforeseen\n" in done.stdout
    unseen = [importer for importer, module in SEEDED.items() if f"- {importer} -> {module} (" not in done.stdout]
    assert unseen == [], done.stdout
