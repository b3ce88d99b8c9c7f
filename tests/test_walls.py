"""Nothing above the store writes by SQL, nobody reaches into a memory, and the docs name the folders."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WRITING = ("INSERT", "UPDATE", "DELETE", "REPLACE", "PRAGMA", "VACUUM", "CREATE", "DROP", "ALTER")
OURS = {"_handle"}  # private parts of `MemoryIndex`


def sources(*folders: str, besides: str) -> Iterator[tuple[Path, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if besides not in path.as_posix():
                yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def strings(tree: ast.Module) -> Iterator[str]:
    return (
        one.value for one in ast.walk(tree) if isinstance(one, ast.Constant) and isinstance(one.value, str)
    )


def test_writing_by_sql_is_the_stores_alone():
    found = [
        f"{path}: {text[:60]}"
        for path, tree in sources("mllm_plugin", "integrations", besides="/store/")
        for text in strings(tree)
        if text.lstrip().startswith(tuple(f"{word} " for word in WRITING))
    ]
    assert not found


@pytest.mark.parametrize("name", ["write", "exclusive"])
def test_connections_for_writing_stay_in_the_store(name):
    """`database.write()` gives a connection; above the store there is `editing`, which gives an `Edit`."""
    found = [
        f"{path}:{call.lineno}"
        for path, tree in sources("mllm_plugin", "integrations", besides="/store/")
        for call in ast.walk(tree)
        if isinstance(call, ast.Attribute) and call.attr == name and "database" in ast.unparse(call.value)
    ]
    assert not found


def test_the_handle_of_a_memory_stays_in_its_package():
    """Benchmarks and examples do without it too; tests reach the file through `tests.helpers.file_tools`."""
    found = [
        f"{path}:{part.lineno}"
        for path, tree in sources("mllm_plugin", "integrations", "benchmarks", "examples", besides="/memory/")
        for part in ast.walk(tree)
        if isinstance(part, ast.Attribute) and part.attr in OURS
    ]
    assert not found


def test_the_docs_name_every_folder_and_module_of_the_root():
    told = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("```")[1].split()
    inside = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in (ROOT / "mllm_plugin").iterdir()
        if (path.suffix == ".py" and not path.name.startswith("__")) or (path / "__init__.py").exists()
    }
    assert inside <= set(told), inside - set(told)
