"""Reads the documentation: code blocks, links, command lines; and writes signatures as docs/api.md does."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(r"^```(\w*)\s*$")
_NOT_RUN = re.compile(r"^<!-- not run: (?P<reason>\S.*) -->$")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_INLINE = re.compile(r"`([^`\n]+)`")
_DECIMAL = re.compile(r"-?\d+\.\d+")
_DURATION = re.compile(r"\d+\.\d+(?= m?s\b)")
_TOLERANCE = 0.02  # scores differ in the last digit from machine to machine


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: Number of its first line of text, from 1.
        not_run: Reason why it is not run; empty when it is.
        output_of: The block right above it, whose output this one shows.
    """

    language: str
    text: str
    line: int
    not_run: str
    output_of: Block | None


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    blocks: list[Block] = []
    above = ""  # the last line that is not blank
    number = 0
    while number < len(lines):
        if fence := _FENCE.match(lines[number]):
            end = lines.index("```", number + 1)
            reason = _NOT_RUN.match(above)
            shows = fence[1] == "text" and above == "```" and bool(blocks)
            text = "".join(f"{line}\n" for line in lines[number + 1 : end])
            blocks.append(
                Block(
                    fence[1],
                    text,
                    number + 2,
                    reason["reason"] if reason else "",
                    blocks[-1] if shows else None,
                )
            )
            number = end
        above = lines[number].strip() or above
        number += 1
    return blocks


def prose_of(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def links_of(page: Path) -> list[str]:
    """Targets of the links to other files and headings of the project."""
    return [link for link in _LINK.findall(prose_of(page)) if not re.match(r"[a-z]+:", link)]


def anchors_of(page: Path) -> set[str]:
    """What a link to a heading of the page may name, as on GitHub."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-") for heading in headings
    }


def commands_of(page: Path) -> Iterator[str]:
    """Command lines: those of bash blocks, continued lines joined, and those in running text."""
    for block in blocks_of(page):
        if block.language == "bash":
            yield from lines_of(block)
    for span in _INLINE.findall(prose_of(page)):
        if re.match(r"(mllm|make|python|pip) \w", span):
            yield span


def lines_of(block: Block) -> Iterator[str]:
    """Lines of a bash block without comments."""
    for line in block.text.replace("\\\n", " ").splitlines():
        line = re.sub(r"(^|\s)#.*$", "", line).strip()
        if line:
            yield line


def same_output(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed; durations may differ, and other decimals by 0.02."""
    shown, printed = (_DURATION.sub("0.0", _stripped(text)) for text in (shown, printed))
    if _DECIMAL.sub("0.0", shown) != _DECIMAL.sub("0.0", printed):
        return False
    pairs = zip(_DECIMAL.findall(shown), _DECIMAL.findall(printed), strict=True)
    return all(abs(float(left) - float(right)) <= _TOLERANCE for left, right in pairs)


def _stripped(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def sections(text: str, level: int) -> dict[str, str]:
    """Text below each heading of a level, by the first name in backticks of the heading."""
    parts = re.split(rf"^{'#' * level} (?=[^#])", text, flags=re.MULTILINE)[1:]
    named = ((re.search(r"`(?:mllm )?([\w-]+)", part.splitlines()[0]), part) for part in parts)
    return {name[1]: part for name, part in named if name}


def normalised(text: str) -> str:
    """Text with single blanks, and without what only line breaks need."""
    return re.sub(r",? \)", ")", re.sub(r"\( ", "(", " ".join(text.split())))


def entries_of(thing: Any, package: str) -> Iterator[str]:
    """What docs/api.md has to say of a class or function: signatures, properties, fields with defaults."""
    thing = inspect.unwrap(thing)  # a cached function is described as what it caches
    if inspect.isfunction(thing):
        yield signature(thing.__name__, thing)
        return
    own_start = "__init__" in vars(thing) and not is_dataclass(thing) and not is_protocol(thing)
    if own_start:
        yield signature(thing.__name__, thing.__init__).removesuffix(" -> None")
    known = _fields(thing)
    if not own_start:
        yield from known.values()
    for name, member in _members(thing, package):
        if inspect.isfunction(member):
            yield f"{name}(" if _hides_signature(member) else signature(name, member)
        elif name not in known:
            yield f"`{name}`"


def _hides_signature(function: Callable[..., Any]) -> bool:
    """Whether a decorator, such as those of LlamaIndex's LLMs, shows its own signature."""
    return next(iter(inspect.signature(function).parameters), "") == "_self"


def is_protocol(thing: type) -> bool:
    """Whether a class is a protocol, whose `__init__` says nothing."""
    return getattr(thing, "_is_protocol", False)


def _fields(thing: type) -> dict[str, str]:
    """What is said of each field: its name, and for settings its default too."""
    if issubclass(thing, BaseModel):
        own = [name for name in inspect.get_annotations(thing) if name in thing.model_fields]
        return {name: f"| `{name}` | {_field_default(thing.model_fields[name])} |" for name in own}
    names = [field.name for field in fields(thing)] if is_dataclass(thing) else getattr(thing, "_fields", ())
    return {name: f"`{name}`" for name in names}


def _field_default(field: FieldInfo) -> str:
    return "required" if field.is_required() else f"`{_default(field.default)}`"


def _members(thing: type, package: str) -> Iterator[tuple[str, Any]]:
    """Public members that the package itself defines, but for what a seam gives."""
    seen = {"class_name", "model_config", "model_post_init"}
    for base in thing.__mro__:
        seam = base is not thing and base.__module__.endswith(".base")
        if base.__module__.split(".")[0] != package or base.__name__.startswith("_") or seam:
            continue
        for name, member in vars(base).items():
            if not name.startswith("_") and name not in seen:
                seen.add(name)
                yield name, member.__func__ if isinstance(member, classmethod | staticmethod) else member


def signature(name: str, function: Callable[..., Any]) -> str:
    """A signature as its source has it, without `self`."""
    found = inspect.signature(function)
    parts: list[str] = []
    starred = False
    for parameter in found.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            parts.append("*")
            starred = True
        starred |= parameter.kind is parameter.VAR_POSITIONAL
        parts.append(_parameter(parameter))
        if parameter.kind is parameter.POSITIONAL_ONLY:
            parts.append("/")
    returned = "" if found.return_annotation is found.empty else f" -> {_annotation(found.return_annotation)}"
    return normalised(f"{name}({', '.join(parts)}){returned}")


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = f"{stars}{parameter.name}"
    annotated = parameter.annotation is not parameter.empty
    if annotated:
        text += f": {_annotation(parameter.annotation)}"
    if parameter.default is not parameter.empty:
        text += f"{' = ' if annotated else '='}{_default(parameter.default)}"
    return text


def _annotation(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _default(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, BaseModel) or is_dataclass(value):
        return f"{type(value).__name__}()"
    return value.__name__ if inspect.isfunction(value) else repr(value)
