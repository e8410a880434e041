"""Remedies name commands, options and config keys that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from typer.main import get_command

import medhybrid
from medhybrid.cli.entry import COMMANDS, app
from medhybrid.config import StudyConfig

PACKAGE = Path(medhybrid.__file__).parent
HOLE = "{}"
"""Stands for a value that is inserted into a message."""

WORDS_AFTER = {"is", "was", "itself", "writes", "would", "did", "made", "has", "cannot", "and"}
"""Words that follow the name of the package in a sentence."""


def text_of(node: ast.expr) -> str:
    """Return the text of a message, with `HOLE` for inserted values."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    if isinstance(node, ast.IfExp):
        return f"{text_of(node.body)} | {text_of(node.orelse)}"
    return HOLE


def remedies() -> Iterator[tuple[str, str]]:
    """Yield place and text of each remedy, and of each message that names a next command."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            found = [text_of(k.value) for k in node.keywords if k.arg == "remedy"]
            is_message = isinstance(node.func, ast.Attribute) and node.func.attr == "message"
            found += [t for a in node.args if is_message and "medhybrid " in (t := text_of(a))]
            for text in found:
                if text.strip(HOLE):
                    yield f"{path.relative_to(PACKAGE)}:{node.lineno}", text


REMEDIES = list(remedies())
OPTIONS: dict[str, set[str]] = {
    name: {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
    for name, command in get_command(app).commands.items()  # type: ignore[attr-defined]
}


OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
OF_OTHER_PROGRAMS = {"--debug", "--json", "--head", "--upgrade", "--experiment-id", "--run-id"}
"""Options of `ray`, `pip` and `mlflow`, and those before a command."""


def test_there_are_remedies() -> None:
    assert len(REMEDIES) > 300


def test_remedies_name_commands_and_options_that_exist() -> None:
    wrong = []
    for place, text in REMEDIES:
        for found in re.finditer(r"medhybrid ([\w{}-]+)([^.;,()]*)", text):
            name, rest = found[1], found[2]
            if name in WORDS_AFTER or name in (HOLE, "COMMAND"):
                continue
            known = OPTIONS.get(name, set())
            if name not in COMMANDS or any(o not in known for o in OPTION.findall(rest)):
                wrong.append((place, text))
    assert not wrong


def test_options_in_remedies_exist() -> None:
    known = set().union(*OPTIONS.values(), OF_OTHER_PROGRAMS)
    assert not [(place, text) for place, text in REMEDIES if any(o not in known for o in OPTION.findall(text))]


def has_key(key: str) -> bool:
    model: Any = StudyConfig
    for part in key.split("."):
        if not (isinstance(model, type) and issubclass(model, BaseModel)) or part not in model.model_fields:
            return False
        model = model.model_fields[part].annotation
    return True


SECTIONS = "|".join(n for n in StudyConfig.model_fields if n not in ("name", "runs"))
KEY = re.compile(rf"(?<![\w./])((?:{SECTIONS})\.(?!json|csv|py|yaml)[a-z_]+)\b(?![(/])")


def test_keys_in_remedies_exist() -> None:
    wrong = [(place, k) for place, text in REMEDIES for k in KEY.findall(text) if not has_key(k)]
    assert not wrong


def test_the_search_finds_a_wrong_command_option_and_key() -> None:
    assert OPTION.findall("use --devise cpu") == ["--devise"]
    assert "--devise" not in set().union(*OPTIONS.values())
    assert [has_key(k) for k in KEY.findall("set training.rate, or data.channels")] == [False, True]


FOLDER_BEFORE = re.compile(r"(--(run|runs|model|config|out)|medhybrid (init|review|report|train)|pretrained=) ?$")
"""End of a text after which a command has a file or folder."""


def unquoted_folders(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and expression of each folder that is inserted into a command without quotation."""
    for node in (n for n in ast.walk(tree) if isinstance(n, ast.JoinedStr)):
        for i, part in enumerate(node.values):
            before = "".join(text_of(p) for p in node.values[:i])
            is_folder = "medhybrid " in before and FOLDER_BEFORE.search(before)
            if isinstance(part, ast.FormattedValue) and is_folder and "quote(" not in (of := ast.unparse(part.value)):
                yield node.lineno, of


def test_folders_in_commands_are_quoted_so_that_they_can_be_pasted() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {shown}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, shown in unquoted_folders(ast.parse(path.read_text()))
    ]

    assert found == []
    assert list(unquoted_folders(ast.parse("f'next: medhybrid train --run {folder} now'"))) == [(1, "folder")]
