"""packaging/ci: the scripts of each workflow are run as its service runs them, on a list of one small model."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from imp_codegen.build import cache

ROOT = Path(__file__).parents[2]
CI = ROOT / "packaging" / "ci"
LIST = '[[model]]\nname = "demo"\nsource = "demo.gguf"\ntargets = ["sim"]\ncontext = 64\n'


@dataclass
class Job:
    """Scripts, each run by a shell of its own; those of `always` also where one has failed; and what is uploaded."""

    variables: dict[str, str]
    scripts: list[str]
    always: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


def github() -> Job:
    document = yaml.safe_load((CI / "github.yml").read_text("utf-8"))
    (job,) = document["jobs"].values()
    variables = {name: value for name, value in job["env"].items() if "${{" not in value}
    runs: list[dict[str, Any]] = [step for step in job["steps"] if "run" in step]
    (upload,) = (step for step in job["steps"] if step.get("uses", "").startswith("actions/upload-artifact@"))
    assert upload["if"] == "${{ !cancelled() }}", "what did not fail is uploaded"
    return Job(
        variables,
        [step["run"] for step in runs if "if" not in step],
        [step["run"] for step in runs if step.get("if") == "${{ !cancelled() }}"],
        upload["with"]["path"].split(),
    )


def gitlab() -> Job:
    (job,) = yaml.safe_load((CI / "gitlab.yml").read_text("utf-8")).values()
    assert job["artifacts"]["when"] == "always", "what did not fail is uploaded"
    return Job(job["variables"], ["\n".join([*job["before_script"], *job["script"]])], [], job["artifacts"]["paths"])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A checkout with what an earlier run has kept, and a python whose pip installs nothing, since imp is here."""
    cache.folder().mkdir(parents=True, exist_ok=True)
    (tmp_path / ".imp-cache").symlink_to(cache.folder(), target_is_directory=True)
    shutil.copy(ROOT / "models" / "demo.gguf", tmp_path)
    (tmp_path / "models.toml").write_text(LIST, "utf-8")
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name, text in {
        "imp": f'exec "{sys.executable}" -m imp_server "$@"',
        "python": f'[ "$1 $2" = "-m pip" ] && echo "$@" >> "{tmp_path}/installed"',
    }.items():
        (binaries / name).write_text(f"#!/bin/sh\n{text}\n", "utf-8")
        (binaries / name).chmod(0o755)
    return tmp_path


def run(place: Path, variables: dict[str, str], scripts: Iterable[str]) -> int:
    """The exit code of the first that fails. As GitHub has it: bash -e, a shell a script, all in the checkout."""
    env = os.environ | {"PATH": f"{place / 'bin'}:{os.environ['PATH']}"} | variables
    for script in scripts:
        done = subprocess.run(["bash", "-e", "-o", "pipefail", "-c", script], cwd=place, env=env, check=False)
        if done.returncode:
            return done.returncode
    return 0


@pytest.mark.parametrize("workflow", [github, gitlab])
def test_what_a_workflow_uploads(place: Path, workflow: Any) -> None:
    job: Job = workflow()
    assert run(place, job.variables, [*job.scripts, *job.always]) == 0
    assert (place / "installed").read_text() == "-m pip install --quiet imp\n"
    uploaded = {path.name: path for pattern in job.paths for path in place.glob(pattern)}
    assert set(uploaded) == {"demo.impc", "index.json", "index.html", "SHA256SUMS", "sbom.cdx.json"}
    (model,) = json.loads(uploaded["index.json"].read_text())["models"]
    assert model["sha256"] == hashlib.sha256(uploaded["demo.impc"].read_bytes()).hexdigest()
    assert job.variables["IMP_CACHE_DIR"] == ".imp-cache", "which the workflow keeps for the next run"

    bad = LIST.replace('"demo"', '"bad"').replace("demo.gguf", "gone.gguf")
    (place / "models.toml").write_text(bad + LIST, "utf-8")
    assert run(place, job.variables, job.scripts) == 1, "one that fails fails the run"
    assert run(place, job.variables, job.always) == 0, "and the others are there"
    index = json.loads(uploaded["index.json"].read_text())
    assert ([each["name"] for each in index["models"]], index["failed"][0]["name"]) == (["demo"], "bad")
    uploaded["demo.impc"].write_bytes(b"other")
    check = job.always or ["cd dist\nsha256sum --check --strict SHA256SUMS"]
    assert run(place, job.variables, check) == 1, "an artifact that was changed is not uploaded unseen"
