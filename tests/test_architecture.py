"""Architecture: layers, import rules, size of modules and content of the package."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import medhybrid

ROOT = Path(__file__).parents[1]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
PACKAGE = ROOT / "medhybrid"
SOURCES = sorted(PACKAGE.rglob("*.py"))


def test_imports_respect_the_layers() -> None:
    """Run import-linter with the contracts of pyproject.toml: layers, and imports of pydicom, MLflow and torch."""
    lint = Path(sys.executable).parent / "lint-imports"

    done = subprocess.run([str(lint), "--no-cache"], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout


def test_no_module_imports_the_package_above_it() -> None:
    """Inside the package, `__version__` comes from `medhybrid.version`: importing `medhybrid` would run upward."""
    offending = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(alias.name == "medhybrid" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module == "medhybrid")
    ]

    assert not offending


def test_import_and_help_load_no_heavy_library() -> None:
    code = (
        "import sys, medhybrid.cli; "
        "heavy = {'torch', 'monai', 'mlflow', 'SimpleITK', 'pydicom', 'highdicom', 'nibabel', 'scipy', 'matplotlib'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", medhybrid.__all__)
def test_every_public_name_exists_and_is_documented(name: str) -> None:
    value = getattr(medhybrid, name)

    assert name == "__version__" or value.__doc__


def test_results_of_public_functions_are_public() -> None:
    """A caller can name the type of every result: classes of medhybrid in return annotations are in `__all__`."""
    hidden = {}
    for name in medhybrid.__all__:
        function = getattr(medhybrid, name)
        if inspect.isfunction(function):
            returned = set(re.findall(r"[A-Z]\w+", str(inspect.signature(function).return_annotation)))
            hidden[name] = returned - set(medhybrid.__all__) - {"None", "Path"}

    assert not {name: classes for name, classes in hidden.items() if classes}


def test_an_unknown_public_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        medhybrid.nothing  # noqa: B018


MAX_LINES = 500
"""A module of two concepts is split well before. One sequence of steps, as the training loop, is not cut at a number."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_stay_small_and_documented(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)

    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(tree), "a module needs a docstring"


def test_no_module_unpickles() -> None:
    offending = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "torch.load",
                "pickle.load",
                "pickle.loads",
                "np.load",
            ):
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                if keywords.get("weights_only") != "True" and keywords.get("allow_pickle") != "False":
                    offending.append(f"{path.name}:{node.lineno}")

    assert not offending


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.py")), ids=lambda p: p.name)
def test_pipelines_name_the_cases_that_they_score(path: Path) -> None:
    # by default, each reference without a prediction, such as those that trained the model, is scored as an empty mask
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    scored = [c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "evaluate"]
    assert all({"cases", "predicted_only"} & {k.arg for k in call.keywords} for call in scored)


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.py")), ids=lambda p: p.name)
def test_pipelines_are_short_and_use_the_public_api_only(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "medhybrid"}

    assert len(path.read_text().splitlines()) < 100
    assert not {m for m in imported if m.startswith("medhybrid.")}
    assert used <= set(medhybrid.__all__)


@pytest.mark.slow
def test_the_wheel_contains_package_and_configs_and_runs_outside_the_checkout(tmp_path: Path) -> None:
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]

    subprocess.run(build, check=True, capture_output=True)

    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names} == {"medhybrid", f"medhybrid-{VERSION}.dist-info"}
    assert {n.split("/")[-1] for n in names if n.endswith(".yaml")} == {
        p.name for p in (ROOT / "configs").glob("*.yaml")
    }
    assert "medhybrid/py.typed" in names

    fresh = tmp_path / "fresh"
    venv.create(fresh, with_pip=False)
    python = fresh / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    (packages,) = fresh.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # .pth files in it are ignored
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    where = subprocess.run(
        [python, "-c", "import medhybrid; print(medhybrid.__file__)"],
        cwd=tmp_path,
        env=clean,
        check=True,
        capture_output=True,
        text=True,
    )
    version, shown = (
        subprocess.run(
            [fresh / "bin" / "medhybrid", *arguments],
            cwd=tmp_path,
            env=clean,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for arguments in (["--version"], ["config", "brain"])
    )
    assert Path(where.stdout.strip()).is_relative_to(fresh)
    assert version.strip() == f"medhybrid {VERSION}"
    assert "channels" in shown


def test_the_citation_names_the_current_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["version"], citation["license"]) == (VERSION, project["license"])


def test_the_changelog_has_the_current_version_with_the_date_of_the_citation() -> None:
    released = yaml.safe_load((ROOT / "CITATION.cff").read_text())["date-released"]
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:2] == ["Unreleased", f"{VERSION} - {released}"]


@pytest.mark.parametrize("name", ["Dockerfile", "compose.yaml"])
def test_docker_images_have_the_current_version(name: str) -> None:
    tags = re.findall(r"medhybrid:(\d+\.\d+\.\d+)", (ROOT / "docker" / name).read_text())
    assert set(tags) == {VERSION}


@pytest.mark.parametrize("workflow", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda p: p.name)
def test_make_targets_of_the_workflows_exist(workflow: Path) -> None:
    text = workflow.read_text()
    assert yaml.safe_load(text)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = {t for line in re.findall(r"\bmake ([a-z -]+)$", text, re.MULTILINE) for t in line.split()}
    assert called <= targets
