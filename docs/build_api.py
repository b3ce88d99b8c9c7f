"""Writes docs/api.md from the docstrings and signatures of the modules listed here.

    python docs/build_api.py           # writes it
    python docs/build_api.py --check   # fails when the page is not what it would write

Signatures, fields and defaults are those of the imported code; griffe reads the sections of docstrings, and
the texts below fields and constants, which Python forgets.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, is_dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ForwardRef

import griffe
from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"
MODULES = (
    "mllm_plugin",
    "mllm_plugin.types",
    "mllm_plugin.reports",
    "mllm_plugin.encoders",
    "mllm_plugin.encoders.huggingface",
    "mllm_plugin.protocols",
    "mllm_plugin.hierarchy",
    "mllm_plugin.agent",
    "mllm_plugin.memory_llm",
    "mllm_plugin.llm",
    "mllm_plugin.llm.generate",
    "mllm_plugin.training",
    "mllm_plugin.transfer",
    "langchain_mllm",
    "langgraph_mllm",
    "llama_index_mllm",
    "mem0_mllm",
    "openai_agents_mllm",
)
_PACKAGES = {name.split(".")[0] for name in MODULES}
_WIDTH = 110
_INTRODUCTION = """# API reference

`make docs` makes this page of the docstrings; [how-to.md](how-to.md) shows it in use. A score is better when
higher, everywhere. Shapes are in square brackets.
"""


# -- what a docstring says


@dataclass
class Told:
    """A docstring's parts.

    Attributes:
        prose: Text outside of sections.
        names: What is said of arguments, fields and attributes, by name.
        returns, raises: What comes out; pairs of exception and reason.
    """

    prose: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    returns: str = ""
    raises: list[tuple[str, str]] = field(default_factory=list)


def told(docstring: str | None) -> Told:
    """Reads a docstring of google style."""
    found = Told()
    for section in griffe.Docstring(inspect.cleandoc(docstring or "")).parse(
        "google", warnings=False, returns_named_value=False
    ):
        if section.kind is griffe.DocstringSectionKind.text:
            found.prose.append(section.value)
        elif section.kind in (griffe.DocstringSectionKind.parameters, griffe.DocstringSectionKind.attributes):
            found.names |= {_names(one): _line(one.description) for one in section.value}
        elif section.kind is griffe.DocstringSectionKind.returns:
            found.returns = " ".join(
                f"{one.annotation}: {_line(one.description)}" if one.annotation else _line(one.description)
                for one in section.value
            )
        elif section.kind is griffe.DocstringSectionKind.raises:
            found.raises = [(str(one.annotation), _line(one.description)) for one in section.value]
        elif section.kind is griffe.DocstringSectionKind.admonition:
            found.prose.append(f"{section.title}: {_line(section.value.description)}")
    return found


def _names(item: Any) -> str:
    """The name, or the names, that a line is about; griffe takes those after the first for a type."""
    return f"{item.name} {item.annotation}" if item.name.endswith(",") else item.name


def _line(text: str) -> str:
    return " ".join(text.split())


def _each(names: dict[str, str]) -> dict[str, str]:
    """What is said of each name, where one line is about several."""
    return {part.strip().lstrip("*"): said for several, said in names.items() for part in several.split(",")}


# -- what the source says that Python forgets


@cache
def _source(package: str) -> Any:
    return griffe.load(package, search_paths=[ROOT, ROOT / "integrations"], resolve_aliases=False)


def source_of(path: str) -> Any:
    """The griffe object of a dotted path; None where the source has no such name."""
    found = _source(path.split(".")[0])
    for name in path.split(".")[1:]:
        if found is None or found.is_alias:
            return None
        found = found.members.get(name)
    return found


def _text_below(path: str) -> str:
    """The text that stands below a field or a constant."""
    found = source_of(path)
    known = found is not None and not found.is_alias and found.docstring
    return _line(found.docstring.value) if known else ""


# -- signatures


def signature(name: str, function: Any, path: str) -> str:
    """A signature as its source has it, without `self`, broken into lines of readable length."""
    found = inspect.signature(function)
    if "_self" in found.parameters:  # a decorator of LlamaIndex shows its own
        found = _source_signature(source_of(path))
    parts: list[str] = []
    starred = False
    for parameter in found.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            parts.append("*")
        starred |= parameter.kind in (parameter.VAR_POSITIONAL, parameter.KEYWORD_ONLY)
        parts.append(_parameter(parameter))
        if parameter.kind is parameter.POSITIONAL_ONLY:
            parts.append("/")
    returned = "" if found.return_annotation is found.empty else f" -> {_annotation(found.return_annotation)}"
    return _broken(name, parts, returned)


class _Written(str):
    """A default as the source writes it."""

    __repr__ = str.__str__


def _source_signature(function: Any) -> inspect.Signature:
    parameters = [
        inspect.Parameter(
            parameter.name,
            getattr(inspect.Parameter, parameter.kind.name.upper()),
            annotation=str(parameter.annotation),
            default=inspect.Parameter.empty
            if parameter.required or parameter.kind.name.startswith("var")
            else _Written(parameter.default),
        )
        for parameter in function.parameters
    ]
    return inspect.Signature(parameters, return_annotation=str(function.returns))


def _broken(name: str, parts: list[str], returned: str) -> str:
    whole = f"{name}({', '.join(parts)}){returned}"
    if len(whole) <= _WIDTH:
        return whole
    lines = ["   "]
    for part in parts:
        if len(lines[-1]) + len(part) + 2 > _WIDTH:
            lines.append("   ")
        lines[-1] += f" {part},"
    return "\n".join([f"{name}(", *lines, f"){returned}"])


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    annotated = parameter.annotation is not parameter.empty
    text = f"{stars}{parameter.name}" + (f": {_annotation(parameter.annotation)}" if annotated else "")
    if parameter.default is parameter.empty:
        return text
    return f"{text}{' = ' if annotated else '='}{_value(parameter.default)}"


def _annotation(annotation: Any) -> str:
    if isinstance(annotation, ForwardRef):
        return annotation.__forward_arg__
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _value(value: Any) -> str:
    if isinstance(value, str) and not isinstance(value, _Written):
        return f'"{value}"'
    if isinstance(value, BaseModel) or is_dataclass(value):
        return f"{type(value).__name__}()"
    return value.__name__ if inspect.isfunction(value) else repr(value)


# -- what a class has


@dataclass
class Attribute:
    """A field, property or class attribute; `default` is empty where there is none worth saying."""

    type: str
    default: str
    meaning: str


def attributes_of(thing: type, said: dict[str, str]) -> dict[str, Attribute]:
    """Fields and properties by name; `said` is what the docstring of the class says of names."""
    rows: dict[str, Attribute] = {}
    for base in reversed(_own_bases(thing)):
        path = f"{base.__module__}.{base.__qualname__}"
        for name, annotation in inspect.get_annotations(base).items():
            if _is_public(name):
                meaning = said.get(name) or _text_below(f"{path}.{name}")
                rows[name] = Attribute(_annotation(annotation), _default_of(thing, name), meaning)
        for name, member in vars(base).items():
            if isinstance(member, property | cached_property) and _is_public(name):
                getter = member.fget if isinstance(member, property) else member.func
                returned = inspect.get_annotations(getter).get("return", "")
                meaning = " ".join(_line(one) for one in told(getter.__doc__).prose)
                rows[name] = Attribute(_annotation(returned), "", said.get(name) or meaning)
            elif _is_public(name) and name not in rows and isinstance(member, str | int | float | None):
                rows[name] = Attribute("", _value(member), said.get(name, ""))
    own_start = "__init__" in vars(thing) and not is_dataclass(thing)
    known = set(inspect.signature(thing.__init__).parameters) if own_start else set()
    rows |= {name: Attribute("", "", said[name]) for name in said if name not in rows and name not in known}
    return {name: row for name, row in rows.items() if name in said or row.meaning or row.type}


def _own_bases(thing: type) -> list[type]:
    return [base for base in thing.__mro__ if base.__module__.split(".")[0] in _PACKAGES]


def _is_public(name: str) -> bool:
    return not name.startswith("_") and name not in ("model_config", "model_fields", "class_name")


def _default_of(thing: type, name: str) -> str:
    if issubclass(thing, BaseModel):
        found = thing.model_fields.get(name)
        if found is None or found.is_required():
            return "required"
        return f"{found.default_factory.__name__}()" if found.default_factory else _value(found.default)
    return ""


def methods_of(thing: type) -> dict[str, tuple[Any, str]]:
    """Public methods that our classes define, with the dotted path of each."""
    found: dict[str, tuple[Any, str]] = {}
    for base in _own_bases(thing):
        for name, member in vars(base).items():
            plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if (_is_public(name) or name == "__call__") and inspect.isfunction(plain) and name not in found:
                found[name] = plain, f"{base.__module__}.{base.__qualname__}.{name}"
    return found


def _is_twin(name: str, methods: dict[str, tuple[Any, str]]) -> bool:
    """Whether it is the asynchronous form of another method and says no more."""
    blocking = name.removeprefix("async_") if name.startswith("async_") else name[1:]
    return name.startswith("a") and blocking in methods and inspect.iscoroutinefunction(methods[name][0])


# -- the page


def page() -> str:
    """The whole page."""
    listed = ["| module | what is in it |", "|---|---|"]
    parts: list[str] = []
    for name in MODULES:
        module = importlib.import_module(name)
        prose = told(module.__doc__).prose
        listed.append(f"| [`{name}`](#{name.replace('.', '')}) | {_line(prose[0].split(chr(10) * 2)[0])} |")
        parts += [f"## `{name}`", *prose, *_module(name, module)]
    return "\n\n".join([_INTRODUCTION.strip(), "\n".join(listed), *parts]) + "\n"


def public_names(name: str, module: Any) -> list[str]:
    """What a module lists; without a list, what it defines and the package does not list."""
    if listed := getattr(module, "__all__", None):
        return list(listed)
    package = importlib.import_module(name.split(".")[0])
    return [
        one
        for one, found in source_of(name).members.items()
        if not found.is_alias and not one.startswith("_") and one not in package.__all__
    ]


def _module(name: str, module: Any) -> Iterator[str]:
    errors: dict[str, type] = {}
    for one in public_names(name, module):
        thing = inspect.unwrap(getattr(module, one))
        if inspect.isclass(thing) and issubclass(thing, Exception):
            errors[one] = thing
        elif inspect.isclass(thing) and one == thing.__name__:
            yield from _class(thing)
        elif inspect.isfunction(thing):
            path = f"{thing.__module__}.{thing.__qualname__}"
            yield from [f"### `{one}`", *_call(thing.__name__, thing, path)]
        else:
            yield from _constant(name, one, thing)
    if errors:
        yield from ["### Errors", "\n".join(_error_rows(errors))]


def _constant(module: str, name: str, value: Any) -> Iterator[str]:
    found = source_of(f"{module}.{name}")
    if found is not None and found.is_alias:
        found = source_of(found.target_path)
    yield f"### `{name}`"
    plain = isinstance(value, str | int | float) or found is None
    yield f"```py\n{name} = {_value(value) if plain else found.value}\n```"
    if found is not None and found.docstring:
        yield found.docstring.value


def _error_rows(errors: dict[str, type]) -> Iterator[str]:
    yield from ["| error | is a | raised when |", "|---|---|---|"]
    for name, error in errors.items():
        bases = ", ".join(f"`{base.__name__}`" for base in error.__bases__)
        yield f"| `{name}` | {bases} | {_line(inspect.cleandoc(error.__doc__ or ''))} |"


def _class(thing: type) -> Iterator[str]:
    said = told(thing.__doc__)
    yield from [f"### `{thing.__name__}`", *said.prose]
    names: dict[str, str] = {}
    for base in reversed(_own_bases(thing)):
        names |= _each(told(base.__doc__).names)
    if "__init__" in vars(thing) and not is_dataclass(thing) and not getattr(thing, "_is_protocol", False):
        path = f"{thing.__module__}.{thing.__qualname__}.__init__"
        written = signature(thing.__name__, thing.__init__, path).removesuffix(" -> None")
        yield f"```py\n{written}\n```"
        parameters = inspect.signature(thing.__init__).parameters
        arguments = {
            several: text
            for several, text in said.names.items()
            if all(one in parameters for one in _each({several: ""}))
        }
        if arguments:
            yield "\n".join(f"- `{several}`: {text}" for several, text in arguments.items())
    if rows := attributes_of(thing, names):
        yield "\n".join(_table(rows))
    if said.raises:
        yield _raises(said)
    yield from _methods(thing)


def _table(rows: dict[str, Attribute]) -> Iterator[str]:
    filled = ("type", "default", "meaning")
    columns = ["name", *(one for one in filled if any(getattr(row, one) for row in rows.values()))]
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    for name, row in rows.items():
        cells = {"name": _code(name), "type": _code(row.type), "meaning": row.meaning}
        cells["default"] = row.default if row.default == "required" else _code(row.default)
        yield f"| {' | '.join(cells[column] for column in columns)} |"


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|") if text else ""


def _methods(thing: type) -> Iterator[str]:
    methods = methods_of(thing)
    twins = [name for name in methods if _is_twin(name, methods)]
    for name, (function, path) in methods.items():
        if name not in twins:
            yield from [f"#### `{thing.__name__}.{name}`", *_call(name, function, path)]
    if twins:
        listed = ", ".join(f"`{name}`" for name in twins)
        yield f"Asynchronous twins, which take what the call takes that they are named after: {listed}."


def _call(name: str, function: Any, path: str) -> Iterator[str]:
    documented = inspect.getdoc(function)
    source = source_of(path)
    if "_self" in inspect.signature(function).parameters and source is not None and source.docstring:
        documented = source.docstring.value
    said = told(documented)
    waits = "async " if inspect.iscoroutinefunction(function) else ""
    yield f"```py\n{waits}{signature(name, function, path)}\n```"
    yield from said.prose
    if said.names:
        yield "\n".join(f"- `{several}`: {text}" for several, text in said.names.items())
    if said.returns:
        yield f"Returns: {said.returns}"
    if said.raises:
        yield _raises(said)


def _raises(said: Told) -> str:
    return "Raises: " + " ".join(f"`{name}`: {why}" for name, why in said.raises)


def main() -> None:
    """Writes the page, or says whether it is as it would be written."""
    parser = argparse.ArgumentParser(description="Writes docs/api.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the page is another")
    sys.path[:0] = [str(ROOT), str(ROOT / "integrations")]  # what is described is what lies beside this file
    written, there = page(), PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    if not parser.parse_args().check:
        PAGE.write_text(written, encoding="utf-8")
    elif written != there:
        lines = difflib.unified_diff(there.splitlines(), written.splitlines(), "there", "made", lineterm="")
        sys.exit("\n".join([*lines][:60]) + "\ndocs/api.md is not what the docstrings say: run `make docs`")


if __name__ == "__main__":
    main()
