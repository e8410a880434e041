"""Write docs/reference/configuration.md from the pydantic models: python docs/make_configuration.py."""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from medhybrid.config import StudyConfig

HEAD = """# Configuration

<!-- Written by docs/make_configuration.py from medhybrid/config/models.py; do not edit. -->

A study is one YAML file. A key that is not given has the default below. An unknown key is refused, with the nearest known one.
Set any key on the command line as `key=value`, for example `training.max_minutes=20`.
"""


def main() -> None:
    """Write the page."""
    (Path(__file__).parent / "reference" / "configuration.md").write_text(page())


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_section(StudyConfig, "")]) + "\n"


def _section(model: type[BaseModel], prefix: str) -> list[str]:
    title = f"## {prefix.rstrip('.')}" if prefix else "## Study"
    lines = [title, "", (model.__doc__ or "").strip().splitlines()[0], ""]
    lines += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    inner: list[str] = []
    for name, field in model.model_fields.items():
        section = _model_of(field.annotation)
        is_list = section is not None and section is not field.annotation
        if section is not None:
            inner += ["", *_section(section, f"{prefix}{name}{'[]' if is_list else ''}.")]
        kind = "section" if section is not None and not is_list else _kind(field.annotation)
        default = "" if kind == "section" else _default(field)
        lines.append(f"| `{prefix}{name}` | {kind} | {default} | {_escape(field.description or '')} |")
    return lines + inner


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in typing.get_args(annotation) if (m := _model_of(a))), None)


def _kind(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(arguments[0])
    if origin is typing.Literal:
        return " or ".join(f"`{a}`" for a in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if a is type(None) else _kind(a) for a in arguments)
    if origin is tuple:
        return (
            f"list of {_kind(arguments[0])}"
            if arguments[-1] is Ellipsis
            else f"{len(arguments)} x {_kind(arguments[0])}"
        )
    if origin is dict:
        return f"{_kind(arguments[0])} to {_kind(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return {"str": "text", "float": "number", "int": "integer", "bool": "true or false"}[annotation.__name__]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**needed**"
    value = field.default if field.default is not PydanticUndefined else field.default_factory()  # type: ignore
    shown = {None: "null", True: "true", False: "false"}.get(value) if isinstance(value, bool | None) else None
    if isinstance(value, tuple):
        shown = "[" + ", ".join(map(str, value)) + "]"
    if isinstance(value, float):
        shown = f"{value:.4g}"
    return f"`{shown or value}`"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
