"""Data flows down: no part imports one above it, and no two modules import each other in a loop.

Imports for types only count like the rest.
"""

import ast
from pathlib import Path

import pytest

import nvrm_fast

PACKAGE = Path(nvrm_fast.__file__).parent
STUDIES = Path(__file__).parents[2] / "studies"
ROOTS = pytest.mark.parametrize("root", [PACKAGE, STUDIES], ids=["nvrm_fast", "studies"])
#: What each folder and each module beside them may import of the others.
BELOW = {
    "_version": set(),
    "contract": set(),
    "reference": {"contract"},
    "triton": {"contract", "reference"},
    "ops": {"contract", "reference", "_version"},
    "noise": {"contract", "ops"},
    "prediction": set(),
    "optim": {"contract", "ops", "prediction"},
    "nn": {"contract", "ops", "noise", "prediction"},
    "probe": {"contract", "ops", "noise"},
    "integrations": {"optim"},
    "variable_optim": {"optim"},
    "info": {"ops", "_version"},
    "__init__": {"_version", "noise", "ops", "optim", "probe"},
}


def module_of(root: Path, name: str) -> str | None:
    """The file of a module under `root`, without its ending; None for what is no module."""
    place = Path(*name.split(".")[1:])
    if place.parts and (root / place.with_suffix(".py")).exists():
        return str(place)
    return str(place / "__init__") if (root / place / "__init__.py").exists() else None


def imports_of(root: Path, path: Path) -> set[str]:
    """The modules under `root` that a file names in its imports."""
    package = (root.name, *path.relative_to(root).parent.parts)
    found: set[str | None] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {module_of(root, alias.name) for alias in node.names if alias.name.startswith(f"{root.name}.")}
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join([*parts, *([node.module] if node.module else [])])
            if base.split(".")[0] == root.name:
                # A name is a module of the package `base`, or something that `base` itself defines.
                found |= {module_of(root, f"{base}.{alias.name}") or module_of(root, base) for alias in node.names}
    return {module for module in found if module is not None}


def graph(root: Path) -> dict[str, set[str]]:
    return {str(path.relative_to(root).with_suffix("")): imports_of(root, path) for path in root.rglob("*.py")}


def test_no_part_imports_one_above_it():
    modules = graph(PACKAGE)
    assert {Path(module).parts[0] for module in modules} <= set(BELOW), "a new part needs a line in BELOW"
    for module, imported in modules.items():
        part = Path(module).parts[0]
        for name in imported:
            top = Path(name).parts[0]
            assert top == part or top in BELOW[part], f"{module} imports {name}"


@ROOTS
def test_no_two_modules_import_each_other(root):
    edges = graph(root)
    assert len(edges) > 20 and any(edges.values())
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"a loop of imports: {' -> '.join([*above[above.index(module) :], module])}"
        if module not in done:
            for name in edges[module]:
                visit(name, (*above, module))
            done.add(module)

    for module in edges:
        visit(module, ())


def test_this_reader_of_imports(tmp_path):
    """Relative, absolute and type-only imports are all seen."""
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    for name in ("a", "b", "c", "folder/__init__", "folder/d"):
        (root / f"{name}.py").touch()
    (root / "folder" / "d.py").write_text(
        "from .. import a\nimport root.b\nif TYPE_CHECKING:\n    from root.c import x\n"
    )
    assert imports_of(root, root / "folder" / "d.py") == {"a", "b", "c"}
    (root / "a.py").write_text("from .folder import d, something\nimport os\n")
    assert imports_of(root, root / "a.py") == {"folder/d", "folder/__init__"}
