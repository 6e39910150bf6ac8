"""The experiments' scripts, which are run by hand, and so would not show that what they measure has another name by now."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from types import ModuleType

import pytest

EXPERIMENTS = Path(__file__).parents[2] / "loadtest" / "experiments"
SCRIPTS = sorted(EXPERIMENTS.glob("*/*.py"))


def imported(tree: ast.AST) -> dict[str, object]:
    """What a script imports from this repository, by the names under which it does."""
    found: dict[str, object] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in ("gateway", "loadtest", "tests"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
                found[alias.asname or alias.name] = getattr(module, alias.name)
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: f"{script.parent.name}/{script.stem}")
def test_what_an_experiment_takes_from_the_gateway_is_there(script: Path) -> None:
    tree = ast.parse(script.read_text())
    modules = {name: value for name, value in imported(tree).items() if isinstance(value, ModuleType)}
    used = [(node.value.id, node.attr) for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]

    assert [f"{name}.{part}" for name, part in used if name in modules and not hasattr(modules[name], part)] == []


@pytest.mark.parametrize("experiment", sorted({script.parent for script in SCRIPTS}), ids=lambda folder: folder.name)
def test_an_experiment_begins_with_its_question_and_has_an_answer(experiment: Path) -> None:
    text = (experiment / "README.md").read_text()

    assert text.partition("\n")[0].endswith("?")
    assert "**Verdict: " in text or "**Result: " in text
