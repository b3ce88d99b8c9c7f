"""Every module with code of its own is imported by a test, where the folders of tests mirror the package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.source_tools import MODULES, ROOT

CODE = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
KNOWN = {name: path for package in MODULES.values() for name, path in package.items()}
REACHED_OTHERWISE = {
    "mllm_plugin.cli": "tests call the commands as users do, through `main`",
    "mllm_plugin.calls": "a decorator of every public call: tests look at the calls",
    "langchain_mllm": "parts of the vector store, the retriever and the models, by the framework's calls",
    "langgraph_mllm": "parts of the store, by the framework's calls",
    "llama_index_mllm": "parts of the vector store, the retriever and the LLM, by the framework's calls",
    "mem0_mllm": "parts of the memory, by calls of mem0",
    "openai_agents_mllm": "parts of the session, by calls of the framework",
    "mllm_plugin.memory": "parts of `MemoryIndex`, which the whole of tests/memory calls",
    "mllm_plugin.documents": "`add`, `export` and `import_records`, by calls of the memory",
    "mllm_plugin.search.overview": "`MemoryIndex.overview`",
    "mllm_plugin.search.recall": "`MemoryIndex.recall`",
    "mllm_plugin.encoders": "base classes and parts of the encoders that tests open",
    "mllm_plugin.hierarchy": "base classes and checks, by modules that inherit them or are refused",
    "mllm_plugin.llm": "parts of a reader, by readers that are saved, loaded and trained",
    "mllm_plugin.models": "files of models, by encoders and language models that are loaded",
    "mllm_plugin.readers": "parts of `read_files`",
    "mllm_plugin.training": "parts of a training run, by whole small runs",
    "mllm_plugin.transfer": "parts of `mllm export` and `mllm import`",
    "mllm_plugin.extras": "the errors of a bare install",
    "mllm_plugin.seam": "`tests/test_seams.py`, through what can be swapped",
}


def has_code(path: Path) -> bool:
    return any(isinstance(node, CODE) for node in ast.parse(path.read_text(encoding="utf-8")).body)


def defined() -> dict[str, set[str]]:
    """The modules that define each name."""
    found: dict[str, set[str]] = {}
    for module, path in KNOWN.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, CODE):
                found.setdefault(node.name, set()).add(module)
    return found


def imported(path: Path, homes: dict[str, set[str]]) -> Iterator[str]:
    """Modules that a test imports; of a name that a package hands on, the module that defines it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
                if path_of := KNOWN.get(node.module):
                    inside = path_of.name == "__init__.py"
                    yield from (
                        one for one in homes.get(alias.name, ()) if inside and one.startswith(node.module)
                    )


def place_of(module: str) -> Path:
    """Where the tests of a module lie."""
    package, *folders = module.split(".")[:-1] or [module]
    if package == "mllm_plugin":
        return ROOT.joinpath("tests", *folders)
    return ROOT / "tests" / "integrations" / package.removesuffix("_mllm")


def untested() -> set[str]:
    homes = defined()
    seen = [
        (path, set(imported(path, homes)))
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if path != Path(__file__)
    ]
    return {
        module
        for module, path in KNOWN.items()
        if path.name not in ("__init__.py", "__main__.py")
        and has_code(path)
        and not any(module in found and place_of(module) in test.parents for test, found in seen)
    }


def reason(module: str) -> str | None:
    return next((one for one in REACHED_OTHERWISE if f"{module}.".startswith(f"{one}.")), None)


def test_every_module_is_imported_by_a_test_of_its_own():
    assert not [module for module in sorted(untested()) if reason(module) is None]


def test_no_exception_is_out_of_date():
    assert {reason(module) for module in untested()} == REACHED_OTHERWISE.keys()
