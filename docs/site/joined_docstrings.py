"""Docstrings that a class joins from pieces (`__doc__ = f"..."`), worked out without importing the module."""

from __future__ import annotations

import ast
import inspect
from types import SimpleNamespace

import griffe


class JoinedDocstrings(griffe.Extension):
    """Evaluates `__doc__ = ...` where it is made of strings and classes' docstrings of the same module."""

    def on_class_instance(self, *, node, cls, agent, **kwargs) -> None:
        if not isinstance(node, ast.ClassDef):
            return
        for statement in node.body:
            if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == "__doc__":
                pieces = _pieces(ast.parse(cls.filepath.read_text()))
                text = eval(compile(ast.Expression(statement.value), "__doc__", "eval"), {}, pieces)
                cls.docstring = griffe.Docstring(
                    inspect.cleandoc(text), lineno=statement.lineno, endlineno=statement.end_lineno, parent=cls,
                    parser=agent.docstring_parser, parser_options=agent.docstring_options,
                )  # fmt: skip


def _pieces(module: ast.Module) -> dict[str, object]:
    pieces: dict[str, object] = {}
    for each in module.body:
        if isinstance(each, ast.ClassDef):
            pieces[each.name] = SimpleNamespace(__doc__=ast.get_docstring(each, clean=False))
        elif isinstance(each, ast.Assign) and isinstance(each.value, ast.Constant):
            pieces.update({target.id: each.value.value for target in each.targets if isinstance(target, ast.Name)})
    return pieces
