"""Write docs/reference/python-api.md from the docstrings of the public names: python docs/make_api.py."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import medhybrid

HEAD = """# Python API

<!-- Written by docs/make_api.py from the docstrings; do not edit. -->

Most commands have a function with the same name, which returns the result. All names are imported from `medhybrid`.

```python
import medhybrid

config = medhybrid.load_config("hippocampus.yaml", ["data.root=/data/hippocampus"])
medhybrid.preprocess(config)
run = medhybrid.train(config)

scan = medhybrid.read_scan("scan.nii.gz")  # or a folder with a DICOM series
mask = medhybrid.load_model(run.folder).predict(scan)  # (X, Y, Z) on the scan's grid
medhybrid.write_nifti("mask.nii.gz", mask, scan.affine, like=scan.source)
```

Arrays are `(X, Y, Z)`, with channels `(C, X, Y, Z)`; affines map voxel indices to RAS+ positions in mm
([Coordinates](../explanation/coordinates.md)). Errors derive from `MedHybridError` ([Error codes](error-codes.md)).
Keys of a config are in [Configuration](configuration.md).
"""

SECTIONS = {
    "Config and errors": ("load_config", "load_search", "StudyConfig", "SearchConfig", "MedHybridError"),
    "Scans": ("read_scan", "Scan", "write_nifti", "inspect", "Inspection", "convert", "Converted"),
    "Training": (
        "preprocess",
        "Preparation",
        "train",
        "Run",
        "train_all",
        "Training",
        "cross_validate",
        "CrossValidation",
        "pretrain",
        "tune",
        "Tuning",
        "compare_settings",
        "SettingsComparison",
    ),
    "Prediction": (
        "models",
        "ModelList",
        "load_model",
        "Model",
        "Segmentation",
        "predict",
        "PredictOptions",
        "FolderResult",
        "evaluate",
        "Evaluation",
        "export",
        "import_nnunet",
    ),
    "Review": ("report", "label_next", "Unlabelled", "compare", "Comparison", "promote", "Promotion"),
    "Progress": ("Reporter",),
    "Demo": ("write_demo_data",),
}
"""Names by heading; together all of `medhybrid.__all__`."""

UNDERLINE = re.compile(r"^-{3,}$")


def main() -> None:
    """Write the page."""
    (Path(__file__).parent / "reference" / "python-api.md").write_text(page())


def page() -> str:
    """Return the whole page."""
    listed = {name for names in SECTIONS.values() for name in names}
    if missing := set(medhybrid.__all__) - listed - {"__version__"}:
        raise SystemExit(f"public names without a heading in SECTIONS: {sorted(missing)}")
    lines = [HEAD]
    for heading, names in SECTIONS.items():
        lines += [f"## {heading}", ""]
        for name in names:
            lines += _entry(name, getattr(medhybrid, name), level=3)
    return "\n".join(lines).rstrip() + "\n"


def _entry(name: str, item: Any, *, level: int) -> list[str]:
    lines = [f"{'#' * level} {name}", ""]
    has_signature = not inspect.isclass(item) or not (
        issubclass(item, BaseModel) or getattr(item, "_is_protocol", False)
    )
    if has_signature:
        lines += ["```python", _signature(name.rpartition(".")[2], item), "```", ""]
    lines += [*_markdown(inspect.getdoc(item) or ""), ""]
    if inspect.isclass(item) and not issubclass(item, BaseModel | Exception):
        for method, value in _methods(item).items():
            lines += _entry(f"{name}.{method}", value, level=level + 1)
    return lines


def _methods(item: type) -> dict[str, Any]:
    """Return the public methods of a class, with those of its bases in medhybrid."""
    bases = [base for base in reversed(item.__mro__) if base.__module__.startswith("medhybrid")]
    found = {name: value for base in bases for name, value in vars(base).items()}
    return {name: value for name, value in found.items() if not name.startswith("_") and inspect.isfunction(value)}


def _signature(name: str, item: Any) -> str:
    """Return a call on one line, or on one line for each parameter where that is too long."""
    signature = inspect.signature(item)
    parts = [_parameter(p) for p in signature.parameters.values() if p.name != "self"]
    kinds = [p.kind for p in signature.parameters.values() if p.name != "self"]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        parts.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    returned = signature.return_annotation
    arrow = "" if returned is signature.empty or inspect.isclass(item) else f" -> {_type(returned)}"
    short = f"{name}({', '.join(parts)}){arrow}"
    return short if len(short) <= 100 else "\n".join([f"{name}(", *(f"    {p}," for p in parts), f"){arrow}"])


def _parameter(parameter: inspect.Parameter) -> str:
    typed = "" if parameter.annotation is parameter.empty else f": {_type(parameter.annotation)}"
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    if parameter.default is parameter.empty:
        return f"{stars}{parameter.name}{typed}"
    shown = "..." if callable(parameter.default) else repr(parameter.default)
    return f"{parameter.name}{typed} = {shown}" if typed else f"{parameter.name}={shown}"


def _type(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _markdown(docstring: str) -> list[str]:
    """Return a numpy docstring as Markdown: sections as bold words, their entries as a list."""
    lines = docstring.splitlines()
    out: list[str] = []
    section = ""
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if UNDERLINE.match(line):
            continue
        if UNDERLINE.match(following):
            section = line
            out += [f"**{section}**", ""]
        elif not section or not line.strip() or section == "References":
            out.append(line)
        elif line.startswith(" "):
            out.append(f"  {line.strip()}")
        else:
            entry, _, kind = line.partition(" : ")
            if kind:
                out.append(f"- `{entry}` ({kind}):")
            elif section == "Returns":
                out.append(f"- {entry}")
            else:
                out.append(f"- `{entry}`:")
    return out


if __name__ == "__main__":
    main()
