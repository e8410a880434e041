"""Rules of the Dockerfile and the compose file, checked without a container engine."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

DOCKER = Path(__file__).parents[1] / "docker"
ROOT = DOCKER.parent


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return loaded


def test_the_dockerfile_passes_hadolint() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"

    done = subprocess.run([str(hadolint), str(DOCKER / "Dockerfile")], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout


def test_the_image_is_pinned_runs_without_root_and_defaults_to_cpu() -> None:
    text = (DOCKER / "Dockerfile").read_text()

    assert re.search(r"^FROM python:3\.\d+\.\d+-slim", text, flags=re.MULTILINE)
    assert re.search(r"^USER [1-9]\d*$", text, flags=re.MULTILINE)
    assert "ARG TORCH_BACKEND=cpu" in text
    assert text.count("--constraint /src/constraints.txt") == text.count("uv pip install") == 2


def test_what_the_dockerfile_copies_exists_and_is_not_ignored() -> None:
    copied = re.findall(r"^COPY (.+) \S+$", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    kept = (ROOT / ".dockerignore").read_text().split()

    for name in " ".join(copied).split():
        assert (ROOT / name).exists()
        assert f"!{name}" in kept


def test_compose_follows_the_schema() -> None:
    """Check the used parts of the compose specification."""
    import jsonschema

    strings = {"type": "array", "items": {"type": "string"}}
    service = {
        "type": "object",
        "required": ["image", "build"],
        "additionalProperties": False,
        "properties": {
            "image": {"type": "string"},
            "build": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "context": {"type": "string"},
                    "dockerfile": {"type": "string"},
                    "args": {"type": "object", "additionalProperties": {"type": "string"}},
                },
            },
            "init": {"type": "boolean"},
            "shm_size": {"type": "string"},
            "entrypoint": strings,
            "command": strings,
            "ports": strings,
            "volumes": strings,
            "profiles": strings,
            "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
            "stop_grace_period": {"type": "string"},
            "environment": {"type": "object", "additionalProperties": {"type": "string"}},
            "depends_on": {
                "type": "object",
                "additionalProperties": {
                    "type": "object",
                    "required": ["condition"],
                    "properties": {"condition": {"enum": ["service_started", "service_healthy"]}},
                },
            },
            "healthcheck": {
                "type": "object",
                "additionalProperties": False,
                "required": ["test"],
                "properties": {
                    "test": strings,
                    "interval": {"type": "string"},
                    "timeout": {"type": "string"},
                    "start_period": {"type": "string"},
                    "retries": {"type": "integer"},
                },
            },
        },
    }
    schema = {
        "type": "object",
        "additionalProperties": False,
        "required": ["services"],
        "patternProperties": {"^x-": {}},
        "properties": {
            "name": {"type": "string"},
            "services": {"type": "object", "additionalProperties": service},
            "volumes": {"type": "object"},
        },
    }

    jsonschema.validate(compose(), schema)


def test_services_refer_to_existing_services() -> None:
    loaded = compose()
    services = loaded["services"]

    assert set(services) == {"mlflow", "train", "predict"}
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        named = {v.split(":")[0] for v in service["volumes"] if not v.startswith(("$", ".", "/"))}
        assert named <= set(loaded["volumes"])
        assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).exists()


def test_the_server_is_bound_to_loopback_and_names_its_hosts() -> None:
    server = compose()["services"]["mlflow"]

    assert all(p.startswith("127.0.0.1:") for p in server["ports"])
    assert any(c.startswith("--allowed-hosts=") for c in server["command"])


@pytest.mark.slow
def test_commands_in_compose_are_valid() -> None:
    from typer.main import get_command

    from medhybrid.cli import app

    known = {o for p in get_command(app).commands["predict"].params for o in p.opts}  # type: ignore[attr-defined]
    asked = [c.split("=")[0] for c in compose()["services"]["predict"]["command"] if c.startswith("--")]
    server = subprocess.run(
        [sys.executable, "-m", "mlflow", "server", "--help"], capture_output=True, text=True, check=True
    )

    assert set(asked) <= known
    for option in compose()["services"]["mlflow"]["command"]:
        assert option.split("=")[0] in server.stdout
