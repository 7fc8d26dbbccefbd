"""Docstrings that a class joins from pieces (`__doc__ = f"..."`), worked out without importing the module."""

from __future__ import annotations

import ast

import griffe


class JoinedDocstrings(griffe.Extension):
    """Evaluates an f-string in `__doc__` whose pieces are strings of the same module."""

    def on_class(self, *, node, cls, agent=None, **kwargs) -> None:
        if not isinstance(node, ast.ClassDef):
            return
        for statement in node.body:
            if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == "__doc__":
                pieces = {
                    target.id: ast.literal_eval(each.value)
                    for each in ast.parse(cls.module.filepath.read_text()).body
                    if isinstance(each, ast.Assign) and isinstance(each.value, ast.Constant)
                    for target in each.targets
                }  # fmt: skip
                text = eval(compile(ast.Expression(statement.value), "__doc__", "eval"), {}, pieces)
                cls.docstring = griffe.Docstring(
                    text, lineno=statement.lineno, endlineno=statement.end_lineno, parent=cls,
                    parser=agent.docstring_parser, parser_options=agent.docstring_options,
                )  # fmt: skip
