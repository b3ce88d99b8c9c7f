"""What all commands share: options, the opened memory, timings."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mllm_plugin.cli.terminal import watched
from mllm_plugin.errors import NotFoundError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from mllm_plugin.memory import MemoryIndex
    from mllm_plugin.protocols import TextEncoder

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _default_encoder() -> str:
    from mllm_plugin.encoders import DEFAULT_ENCODER

    return DEFAULT_ENCODER


@dataclass
class Settings:
    """Options that may stand before or after the command; pass one as `obj` to set their defaults.

    Attributes:
        encoder: A model name or path, or any object that `MemoryIndex.open` takes.
        encoder_named: True when the user named it.
        slashed: True when the namespace is one plain name with a slash, which once meant several names.
        timings: Seconds per stage, shown with `-v`.
    """

    memory: Path = Path("memory")
    namespace: tuple[str, ...] = ()
    encoder: Any = field(default_factory=_default_encoder)
    encoder_named: bool = False
    slashed: bool = False
    json: bool = False
    verbose: bool = False
    timings: dict[str, float] = field(default_factory=dict)

    def exists(self) -> bool:
        """Whether there is a memory in the folder."""
        from mllm_plugin.store.database import FILE_NAME

        return (self.memory / FILE_NAME).is_file()

    @property
    def progress(self) -> bool:
        """Whether to show bars: on a terminal, and not beside JSON."""
        return watched() and not self.json

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times what is done inside."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - started

    def load_encoder(self, encoder: Any) -> TextEncoder:
        """Finds an encoder; one of Hugging Face is read no sooner than it is needed."""
        from mllm_plugin.encoders import as_encoder
        from mllm_plugin.encoders.quick import quick_encoder

        with self.stage("load encoder"):
            return quick_encoder(encoder) if isinstance(encoder, str) else as_encoder(encoder)

    @contextmanager
    def reading(self, *, encode: bool = False) -> Iterator[MemoryIndex]:
        """Opens the memory to read it; works without write permission."""
        writable = os.access(self.memory, os.W_OK)
        with self._opened(self.encoder if encode else None, read_only=not writable) as memory:
            yield memory

    @contextmanager
    def editing(self) -> Iterator[MemoryIndex]:
        """Opens the memory for changes that need no encoder."""
        with self._opened(None) as memory:
            yield memory

    @contextmanager
    def growing(self, encoder: Any = None) -> Iterator[MemoryIndex]:
        """Opens the memory to add to it, and makes it when there is none."""
        with self._timed_open(self.encoder if encoder is None else encoder) as memory:
            yield memory

    @contextmanager
    def _opened(self, encoder: Any, *, read_only: bool = False) -> Iterator[MemoryIndex]:
        if not self.exists():
            raise NotFoundError(
                f"no memory at {self.memory}; make one with `mllm index PATH`, or name another with --memory"
            )
        with self._timed_open(encoder, read_only=read_only) as memory:
            yield memory

    @contextmanager
    def _timed_open(self, encoder: Any, *, read_only: bool = False) -> Iterator[MemoryIndex]:
        if encoder is not None:
            encoder = self.load_encoder(encoder)
        from mllm_plugin.memory import MemoryIndex

        with self.stage("open"):
            memory = MemoryIndex.open(self.memory, encoder=encoder, read_only=read_only)
        with memory:
            if self.slashed:
                self._check_slashes(memory)
            yield memory

    def _check_slashes(self, memory: MemoryIndex) -> None:
        """Takes a slash for what it meant to an earlier release where only that is there, and says so."""
        (name,) = self.namespace
        if memory.namespaces(self.namespace):
            return
        parts = tuple(part for part in name.split("/") if part)
        if memory.namespaces(parts):
            click.echo(
                f"there is no namespace of the one name {name!r}; taken is that of the names {[*parts]}, "
                f"which is spelled {namespace_options(parts)}. A new one of the one name is "
                f"{namespace_options((name,))}",
                err=True,
            )
            self.namespace = parts
            return
        click.echo(f"{name!r} is one name; the names {[*parts]} are {namespace_options(parts)}", err=True)


class UserPath(click.Path):
    """A path in which `~` is the home folder, however the shell passed it on."""

    def __init__(self, **checks: Any) -> None:
        super().__init__(path_type=Path, **checks)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns a `Path`, or fails when a check does not hold."""
        return super().convert(os.path.expanduser(value), param, ctx)


class DeviceType(click.ParamType):
    """A device that torch can use here."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Returns the name, or raises `InvalidInputError` with torch's reason."""
        from mllm_plugin.models.files import choose_device

        choose_device(value)
        return value


def number_option(
    name: str | tuple[str, ...], default: int | None, text: str, least: int = 1
) -> Callable[[_Command], _Command]:
    """An option that takes a whole number."""
    names = (name,) if isinstance(name, str) else name
    return click.option(
        *names, type=click.IntRange(min=least), metavar="N", default=default, show_default=True, help=text
    )


def field_option(
    config: type[BaseModel], field: str, name: str | None = None
) -> Callable[[_Command], _Command]:
    """An option for a whole number of a configuration: its default, its least and its text.

    Args:
        config: Whose fields have descriptions.
        field: Which.
        name: Of the option; the field's when left out.
    """
    found = config.model_fields[field]
    least = next(bound.ge for bound in found.metadata if getattr(bound, "ge", None) is not None)
    return number_option(
        name or f"--{field.replace('_', '-')}", found.default, found.description or "", int(least)
    )


def namespace_options(namespace: tuple[str, ...]) -> str:
    """A namespace as one spells it on the command line, without doubt; empty for the root."""
    plain = len(namespace) != 1 or "/" not in namespace[0]
    if plain and not any(part.startswith("[") for part in namespace):
        return " ".join(f"--namespace {shlex.quote(part)}" for part in namespace) or "without --namespace"
    return f"--namespace {shlex.quote(json.dumps(namespace, ensure_ascii=False))}"


def _keep_namespace(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> None:
    if values:
        settings = ctx.ensure_object(Settings)
        settings.namespace = tuple(part for value in values for part in _names(value))
        settings.slashed = settings.namespace == values[:1] and "/" in values[0]


def _names(value: str) -> list[str]:
    """The value as one name, the names of a JSON list, or none when it is empty."""
    try:
        found = json.loads(value) if value.startswith("[") else None
    except ValueError:
        found = None
    if found is None:
        return [value] if value else []
    if not all(isinstance(name, str) for name in found):
        raise click.BadParameter(f"expected a JSON list of strings, got {value}", param_hint="--namespace")
    return found


class FilterType(click.ParamType):
    """A metadata filter as JSON."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """Returns the filter, or fails with the place of the mistake."""
        try:
            found = json.loads(value)
        except json.JSONDecodeError as error:
            self.fail(
                f"not JSON at line {error.lineno}, column {error.colno}: {error.msg}. Example: "
                f'\'{{"year": {{"$gte": 2020}}}}\'',
                param,
                ctx,
            )
        if not isinstance(found, dict):
            self.fail(f"expected a JSON object, got {value}", param, ctx)
        return found


def check_folder(file: Path) -> None:
    """Refuses a file to be written into a folder that is not there."""
    if not file.absolute().parent.is_dir():
        raise NotFoundError(f"no folder {file.parent} to write {file.name} into; make it first")


def shared_options(command: _Command) -> _Command:
    """Adds `--memory`, `--json` and `-v`; the command receives the `Settings` first."""
    return memory_option(output_options(command))


def output_options(command: _Command) -> _Command:
    """Adds `--json` and `-v`; the command receives the `Settings` first."""
    for option in (_VERBOSE, _JSON):
        command = option(command)
    return click.pass_obj(command)  # type: ignore[return-value]


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value is None or value is False:
        return
    settings = ctx.ensure_object(Settings)
    setattr(settings, str(param.name), value)
    if param.name == "encoder":
        settings.encoder_named = True


def _shared(*names: str, **attributes: Any) -> Callable[[_Command], _Command]:
    return click.option(*names, expose_value=False, callback=_keep, **attributes)


def memory_option(command: _Command, envvar: str | None = None) -> _Command:
    """Adds `--memory`."""
    option = _shared(
        "--memory",
        type=UserPath(),
        metavar="FOLDER",
        envvar=envvar,
        help="Folder of the memory (default ./memory, or $MLLM_MEMORY).",
    )
    return option(command)


_JSON = _shared("--json", is_flag=True, help="Print one JSON value.")
_VERBOSE = _shared(
    "-v", "--verbose", is_flag=True, help="Show the time of each stage, and where an error comes from."
)
namespace_option = click.option(
    "--namespace",
    multiple=True,
    metavar="NAME",
    expose_value=False,
    callback=_keep_namespace,
    help='Namespace; once for each of its names, or a JSON list of them: \'["users", "42"]\'.',
)
encoder_option = _shared("--encoder", metavar="NAME_OR_PATH", help="Model that embeds texts.")
device_option = click.option(
    "--device", type=DeviceType(), metavar="NAME", help="cpu, cuda; CUDA when there is one."
)
filter_option = click.option(
    "--filter", "condition", type=FilterType(), help='Metadata condition, e.g. \'{"year": {"$gte": 2020}}\'.'
)
