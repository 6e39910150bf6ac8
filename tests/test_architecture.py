"""Which package may import which, and that each module has a test file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "gateway").rglob("*.py"))

# A package may import itself and those of the rows below its own.
ROWS = [
    {"cli"},
    {"pages", "doctor"},
    {"app"},
    {"server"},
    {"transports"},
    {"feed", "tap"},
    {"reads", "probe", "exposition"},
    {"auth", "store", "metrics"},
    {"core"},
    {"errors", "tasks"},
]
TOP_ONLY = {"embedded", "settings"}  # imported by cli, pages, app and server only


def package(module: str) -> str:
    """The package of a module, or the module itself at the top: ``core`` for ``gateway.core.event``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "gateway":
                yield from (f"gateway.{name.name}" for name in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def row(module: str) -> int:
    return next(i for i, packages in enumerate(ROWS) if package(module) in packages)


def test_imports_point_downwards() -> None:
    wrong = []
    for path in MODULES:
        importer = name(path)
        if importer in ("gateway", "gateway.__main__") or package(importer) in TOP_ONLY:
            continue
        for imported in imports(path):
            if not imported.startswith("gateway."):
                continue
            if package(imported) in TOP_ONLY:
                allowed = package(importer) in {"cli", "pages", "app", "server"}
            else:
                allowed = row(imported) > row(importer) or package(imported) == package(importer)
            if not allowed:
                wrong.append(f"{importer} imports {imported}")

    assert wrong == []


def test_the_core_knows_no_io() -> None:
    allowed = {
        "__future__",
        "collections",
        "dataclasses",
        "functools",
        "re",
        "typing",
        "msgspec",
        "gateway",
        "heapq",
        "enum",
        "itertools",
        "math",
        "operator",
    }
    used = {imported.split(".")[0] for path in MODULES if package(name(path)) == "core" for imported in imports(path)}

    assert used <= allowed


def test_transports_do_not_know_each_other() -> None:
    streams = {"gateway.transports.websocket", "gateway.transports.sse", "gateway.transports.polling"}
    for path in MODULES:
        if name(path) in streams:
            assert not streams & set(imports(path)), name(path)


def test_the_client_knows_nothing_of_the_gateway() -> None:
    for path in (ROOT / "clients" / "python" / "notify_client").rglob("*.py"):
        assert not any(imported.split(".")[0] == "gateway" for imported in imports(path)), path
    for path in MODULES:
        assert not any(imported.split(".")[0] == "notify_client" for imported in imports(path)), path


def test_each_module_has_its_test() -> None:
    missing = []
    for path in MODULES:
        if path.name in ("__init__.py", "__main__.py"):
            continue
        mirror = ROOT / "tests" / path.relative_to(ROOT / "gateway").parent / f"test_{path.name}"
        if not mirror.exists():
            missing.append(str(mirror.relative_to(ROOT)))

    assert missing == []


def test_each_module_says_what_it_is_for() -> None:
    for path in MODULES:
        assert ast.get_docstring(ast.parse(path.read_text())), path
