"""Data flows down: no folder of the package imports one above it, and no two modules import each other in a loop."""

import ast
from pathlib import Path

import nvrm_fast

ROOT = Path(nvrm_fast.__file__).parent
#: What each folder may import of the others. Imports for types only count like the rest.
BELOW = {
    "contract": set(),
    "reference": {"contract"},
    "triton": {"contract", "reference"},
    "ops": {"contract", "reference", "_version"},
    "nn": {"contract", "ops", "noise"},
    "probe": {"contract", "ops", "noise"},
}


def module_of(name: str) -> str | None:
    """The file of a module of the package, without its ending; None for what is no module."""
    place = Path(*name.split(".")[1:])
    if (ROOT / place.with_suffix(".py")).exists():
        return str(place)
    return str(place / "__init__") if (ROOT / place / "__init__.py").exists() else None


def imports_of(path: Path) -> set[str]:
    """The modules of the package that a file names in its imports."""
    package = ("nvrm_fast", *path.relative_to(ROOT).parent.parts)
    found: set[str | None] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {module_of(alias.name) for alias in node.names if alias.name.startswith("nvrm_fast.")}
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join([*parts, *([node.module] if node.module else [])])
            if base.split(".")[0] == "nvrm_fast":
                # A name is a module of the package `base`, or something that `base` itself defines.
                found |= {module_of(f"{base}.{alias.name}") or module_of(base) for alias in node.names}
    return {module for module in found if module is not None}


def graph(folder: str) -> dict[str, set[str]]:
    files = (ROOT / folder).rglob("*.py")
    return {str(path.relative_to(ROOT).with_suffix("")): imports_of(path) for path in files}


def test_no_folder_imports_one_above_it():
    for folder, below in BELOW.items():
        for module, imported in graph(folder).items():
            for name in imported:
                top = Path(name).parts[0]
                assert top == folder or top in below, f"{module} imports {name}"


def test_no_two_modules_import_each_other():
    edges = {module: imported for folder in BELOW for module, imported in graph(folder).items()}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"a loop of imports: {' -> '.join([*above[above.index(module) :], module])}"
        if module not in done:
            for name in edges.get(module, ()):
                visit(name, (*above, module))
            done.add(module)

    for module in edges:
        visit(module, ())
