"""What is packaged agrees with the program: files that are copied exist, commands and settings are imp's own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from imp_server.api.refusal import PUBLIC_PATHS
from imp_server.cli import application
from imp_server.operation.metrics import Metrics
from imp_server.operation.settings import load

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"
APP = application()
COMMANDS = {command.name for command in APP.registered_commands}


def dockerfile() -> list[tuple[str, str]]:
    """The instructions as (name, rest), continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (PACKAGING / "Dockerfile").read_text("utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def rest(name: str) -> list[str]:
    return [text for each, text in dockerfile() if each == name]


def settings_of(variables: dict[str, str]) -> dict[str, object]:
    """The settings that come from the environment; ConfigError for a variable that is none."""
    _, found = load(None, environment={"HOME": "/nonexistent", **variables})
    return {each.name: each.value for each in found if each.source.startswith("$")}


def test_the_image_copies_what_the_wheel_needs() -> None:
    copied = [word for text in rest("COPY") if "--from" not in text for word in text.split()[:-1]]
    assert all((ROOT / source).exists() for source in copied), copied
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = [*wheel["packages"], *wheel["force-include"], "pyproject.toml", project["project"]["readme"]]
    assert all(any(path == each or path.startswith(f"{each}/") for each in copied) for path in needed)


def test_the_dockerfile_by_the_usual_rules() -> None:
    instructions = dockerfile()
    known = {
        "FROM",
        "WORKDIR",
        "COPY",
        "RUN",
        "ENV",
        "USER",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    }
    assert {name for name, _ in instructions} <= known
    assert all(re.fullmatch(r"[\w/.-]+:(?!latest)[\w.-]+( AS \w+)?", text) for text in rest("FROM"))
    stages = {text.split(" AS ")[1] for text in rest("FROM") if " AS " in text}
    assert {match[1] for text in rest("COPY") if (match := re.search(r"--from=(\w+)", text))} <= stages
    assert all(text.startswith("/") for text in rest("WORKDIR"))
    assert rest("USER")[-1] not in ("root", "0")
    for text in rest("RUN"):
        assert "apt-get install" not in text or all(
            part in text
            for part in ("apt-get update &&", " -y ", "--no-install-recommends", "rm -rf /var/lib/apt/lists")
        )
        assert "pip install" not in text or "--no-cache-dir" in text
    assert (json.loads(rest("ENTRYPOINT")[0]), json.loads(rest("CMD")[0])[0]) == (["imp"], "serve")
    assert "serve" in COMMANDS


def test_the_image_asks_for_health_where_it_is() -> None:
    variables = dict(word.split("=", 1) for word in rest("ENV")[0].split())
    settings = settings_of({name: value for name, value in variables.items() if name.startswith("IMP_")})
    assert settings == {"server.host": ("0.0.0.0",)}
    config, _ = load(None, environment={"HOME": "/nonexistent"})
    assert rest("EXPOSE") == [str(config.server.port)]
    python, option, code = json.loads(rest("HEALTHCHECK")[0].split("CMD ")[1])
    assert (python, option) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")
    assert f"'IMP_SERVER_PORT', '{config.server.port}'" in code
    assert re.findall(r"'(/\w+)'\)$", code)[0] in PUBLIC_PATHS


def test_compose() -> None:
    (service,) = yaml.safe_load((PACKAGING / "compose.yaml").read_text("utf-8"))["services"].values()
    context = (PACKAGING / service["build"]["context"]).resolve()
    assert context == ROOT
    assert (context / service["build"]["dockerfile"]).is_file()
    assert service["command"][0] in COMMANDS
    assert set(settings_of(dict.fromkeys(service["environment"], "json"))) == {"api.key", "log.format"}
    ((_, inside),) = (port.rsplit(":", 1) for port in service["ports"])
    assert inside in rest("EXPOSE")
    mounted = service["volumes"][0].rsplit(":", 2)[-2]
    assert service["command"][1].startswith(f"{mounted}/")
    assert json.loads(rest("CMD")[0])[1].startswith(f"{mounted}/")
    (home,) = re.findall(r"^/home/\w+", rest("WORKDIR")[-1])
    assert home in service["tmpfs"], "the rest of the image is read only"


def test_the_rules_for_dashboards_of_llama_server() -> None:
    """They are made of metrics that there are; and of the right ones, counted by hand."""
    metrics = Metrics()
    (group,) = yaml.safe_load((PACKAGING / "llama-server-rules.yaml").read_text("utf-8"))["groups"]
    rules = {rule["record"]: rule["expr"] for rule in group["rules"]}
    observer = metrics.started(10)
    for _ in range(3):
        observer.token()
    observer.finished("stop", 4)
    metrics.embedded(5)
    metrics.started(7)
    samples = {each.name: each.value for family in metrics.registry.collect() for each in family.samples}
    assert {name for expr in rules.values() for name in re.findall(r"imp_\w+", expr)} <= set(samples)

    def value(rule: str) -> float:
        left, *right = re.findall(r"([+-]?) ?(imp_\w+)", rules[f"llamacpp:{rule}"])
        return samples[left[1]] + sum(float(f"{sign}1") * samples[name] for sign, name in right)

    assert (value("prompt_tokens_total"), value("prompt_tokens_cached_total")) == (18, 4)
    assert (value("tokens_predicted_total"), value("requests_processing")) == (3, 1)


def unit() -> list[tuple[str, str]]:
    lines = (PACKAGING / "imp.service").read_text("utf-8").splitlines()
    return [
        (line.split("=", 1)[0], line.split("=", 1)[1]) for line in lines if "=" in line and not line.startswith("#")
    ]


def test_the_unit_runs_imp() -> None:
    given = dict(unit())
    program, command, file = given["ExecStart"].split()
    assert (Path(program).name, command, given["Type"]) == ("imp", "serve", "notify")
    variables = dict(value.split("=", 1) for name, value in unit() if name == "Environment")
    assert file.strip("${}") in variables
    assert settings_of(variables) == {}, "none of them is taken for a setting, nor for a misspelt one"
    config, _ = load(None, environment={"HOME": "/nonexistent"})
    assert int(given["TimeoutStopSec"].removesuffix("s")) > config.server.shutdown_seconds + 3


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_the_unit_is_one_for_systemd(tmp_path: Path) -> None:
    text = (PACKAGING / "imp.service").read_text("utf-8")
    copy = tmp_path / "imp.service"
    copy.write_text(text.replace("/opt/imp/bin/imp ", "/bin/true "), "utf-8")
    verify = ["systemd-analyze", "verify", "--man=no", str(copy)]
    done = subprocess.run(verify, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    copy.write_text(copy.read_text("utf-8").replace("Restart=on-failure", "Restart=sometimes"))
    assert subprocess.run(verify, capture_output=True, text=True, timeout=30, check=False).stderr != ""


def test_commands_in_the_comments_and_the_documents_exist() -> None:
    sources = [*PACKAGING.iterdir(), ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    # In code: at the begin of an indented line, after a prompt, or in backticks.
    said = {
        (path.name, name)
        for path in sources
        if path.is_file()
        for name in re.findall(r"(?:^ {4}(?:\$ )?|`|bin/|\(imp )imp ([a-z]+)\b", path.read_text("utf-8"), re.M)
    }
    assert len(said) > 10
    groups = {group.name or group.typer_instance.info.name for group in APP.registered_groups}
    assert {(file, name) for file, name in said if name not in COMMANDS | groups} == set()
