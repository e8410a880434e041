"""Source code of some functions, with all that they use of medhybrid, as one module without imports of medhybrid."""

from __future__ import annotations

import ast
import importlib
import inspect
from types import ModuleType

PACKAGE = "medhybrid"

ERRORS = '''class MedHybridError(Exception):
    """Error with what was expected and found, and a remedy."""

    def __init__(self, what: str, *, expected: str = "", found: str = "", remedy: str = "") -> None:
        parts = {"expected": expected, "found": found, "remedy": remedy}
        super().__init__("; ".join([what, *(f"{k}: {v}" for k, v in parts.items() if v)]))


DataError = GeometryError = MedHybridError
'''
"""Stands for `medhybrid.errors`."""


def self_contained(module: ModuleType) -> str:
    """Return the source of a module in which names imported from medhybrid are replaced by their definitions."""
    tree = ast.parse(inspect.getsource(module))
    collected = _Collected()
    body = [node for node in tree.body if not _is_ours(node)]
    for node in tree.body:
        if _is_ours(node):
            assert isinstance(node, ast.ImportFrom)
            for alias in node.names:
                collected.add(node.module or "", alias.name)
    docstring, *rest = body
    imports = [n for n in rest if isinstance(n, (ast.Import, ast.ImportFrom))]
    others = [n for n in rest if n not in imports]
    first = [n for n in imports if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
    texts = [ast.unparse(docstring), *(ast.unparse(n) for n in first)]
    seen = dict.fromkeys(ast.unparse(n) for n in [*imports, *collected.imports] if n not in first)
    texts += [line for line in seen if not line.startswith("from __future__")]
    return "\n\n".join([*texts, ERRORS, *collected.texts, *(ast.unparse(n) for n in others)]) + "\n"


class _Collected:
    """Definitions in the order in which they can be executed."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.imports: list[ast.stmt] = []
        self._done: dict[str, str] = {}

    def add(self, module: str, name: str) -> None:
        """Add the definition of a name of a module, after all that it uses."""
        if module == f"{PACKAGE}.errors":
            return None
        source = importlib.import_module(module)
        tree = ast.parse(inspect.getsource(source))
        imported = {a.asname or a.name: n.module or "" for n in tree.body if _is_ours(n) for a in n.names}  # type: ignore[attr-defined]
        if name in imported:  # given on by a package
            return self.add(imported[name], name)
        if self._done.get(name) == module:
            return None
        if name in self._done:
            raise ValueError(f"{name} is defined in {self._done[name]} and in {module}")
        self._done[name] = module
        defined = {n: node for node in tree.body for n in _names(node)}
        node = defined[name]
        for other in sorted({n.id for n in _run_parts(node)}):
            if other in imported and imported[other] != module:
                self.add(imported[other], other)
            elif other in defined and other != name:
                self.add(module, other)
        self.imports += [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom)) and not _is_ours(n)]
        self.texts.append(ast.unparse(node))
        return None


def _run_parts(node: ast.stmt) -> list[ast.Name]:
    """Return the names of a definition outside annotations."""
    found: list[ast.Name] = []

    def visit(part: ast.AST) -> None:
        for field, value in ast.iter_fields(part):
            if field in ("annotation", "returns"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.Name):
                    found.append(child)
                elif isinstance(child, ast.AST):
                    visit(child)

    visit(node)
    return found


def _is_ours(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE


def _names(node: ast.stmt) -> list[str]:
    """Return the names that a statement of a module defines."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []
