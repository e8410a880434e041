"""Documentation: builds without warnings, and agrees with the code."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
from typer.main import get_command

from medhybrid.cli import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.mark.slow
def test_the_docs_build_without_warnings(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]

    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "explanation" / "architecture" / "index.html").exists()


def maker_of(name: str) -> ModuleType:
    """Import docs/make_NAME.py."""
    spec = importlib.util.spec_from_file_location(f"make_{name}", DOCS / f"make_{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module
    spec.loader.exec_module(module)
    return module


def test_schemas_are_current() -> None:
    module = maker_of("schemas")

    written = {p.name: p.read_text() for p in (DOCS / "reference" / "schemas").iterdir()}

    assert written == {f"{n}.schema.json": module.schema(n) for n in module.SCHEMAS}, "run python docs/make_schemas.py"


@pytest.mark.parametrize("name", ["configuration", "api", "conformance"])
def test_generated_pages_are_current(name: str) -> None:
    page = {"configuration": "configuration.md", "api": "python-api.md", "conformance": "dicom-conformance.md"}[name]
    module = maker_of(name)

    assert (DOCS / "reference" / page).read_text() == module.page(), f"run python docs/make_{name}.py"


def test_a_recorded_session_is_what_the_commands_print_in_80_columns(tmp_path: Path) -> None:
    module = maker_of("terminal")

    lines = module.record(["echo 'a < b & c'", f"printf '%s' {'x' * 170}"], tmp_path)
    picture = ElementTree.fromstring(module.svg_of([*lines, *[module.Line(9.0, f"row {i}") for i in range(40)]]))

    shown = [(text.text or "").replace(module.BLANK, " ") for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert shown[:2] == ["$ echo 'a < b & c'", "a < b & c"]
    assert [len(t) for t in shown[2:8]] == [80, 80, 24, 80, 80, 10]
    assert shown[8:] == [f"row {i}" for i in range(40)]
    assert [line.seconds for line in lines] == sorted(line.seconds for line in lines)


def test_a_session_with_a_failed_command_is_not_recorded(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no-such-file"):
        maker_of("terminal").record(["cat no-such-file"], tmp_path)


def test_every_command_is_documented() -> None:
    headings = set(re.findall(r"^## ([\w-]+)$", (DOCS / "reference" / "commands.md").read_text(), flags=re.MULTILINE))

    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert headings == set(commands)


@pytest.mark.parametrize(
    "page", [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "SECURITY.md"], ids=lambda p: p.name
)
def test_files_named_in_the_docs_exist(page: Path) -> None:
    """Check paths of the repository in backticks, such as `data/plan.py` or `tests/metrics/`."""
    named = re.findall(
        r"`((?:medhybrid/|tests/|configs/|docs/|pipelines/|docker/|benchmarks/)[\w./]*|[a-z_]+/[\w/]+\.py)[:`]",
        page.read_text(),
    )

    missing = [n for n in named if not (ROOT / n).exists() and not (ROOT / "medhybrid" / n).exists()]

    assert not missing


def test_every_finding_code_is_documented() -> None:
    source = (ROOT / "medhybrid" / "data" / "checks.py").read_text()
    documented = (DOCS / "reference" / "error-codes.md").read_text()

    undocumented = {c for c in re.findall(r'code="(\w+)"', source) if f"`{c}`" not in documented}

    assert not undocumented


@pytest.mark.parametrize(
    "key",
    sorted(
        set(
            re.findall(
                r"`((?:data|prepare|network|augment|training|inference|tracking)\.\w+)`",
                "".join(p.read_text() for p in DOCS.rglob("*.md") if p.name != "configuration.md"),
            )
        )
    ),
)
def test_every_key_that_the_docs_name_exists(key: str) -> None:
    assert f"`{key}`" in (DOCS / "reference" / "configuration.md").read_text()
