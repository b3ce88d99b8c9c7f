"""The group of commands, and errors as one line and an exit code."""

from __future__ import annotations

import errno
import json
import traceback
from typing import IO, Any, NoReturn

import click

from mllm_plugin import __version__
from mllm_plugin.cli.commands import SECTIONS, Commands
from mllm_plugin.cli.settings import Settings, encoder_option, memory_option, namespace_option, output_options
from mllm_plugin.cli.terminal import colour, hide_bars_of_others, judged
from mllm_plugin.errors import MLLMError

_INTERRUPTED = "Interrupted."
_KEPT = "What was written is kept; run the same command again to go on."
_GO_ON = ("demo", "index", "import", "reembed", "train", "train-llm")
_WANTS_JSON = f"{__name__}.json"


class _Failure(click.ClickException):
    """A message on one line, after a red word."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Prints it on stderr."""
        click.echo(f"{judged('Error:', good=False)} {self.message}", err=True, color=self.show_color)


class _Group(click.Group):
    """Turns errors into one line on stderr; -v shows where they come from."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Begins a run: decides on colours, and on the bars of other libraries before these are imported."""
        hide_bars_of_others()
        wants_json = "--json" in args  # wrong usage ends a run before the option is read
        ctx = super().make_context(info_name, args, parent, color=colour(), **extra)
        ctx.meta[_WANTS_JSON] = wants_json
        return ctx

    def invoke(self, ctx: click.Context) -> Any:
        settings = ctx.ensure_object(Settings)
        try:
            return super().invoke(ctx)
        except click.exceptions.Exit:
            raise
        except click.ClickException as error:
            if ctx.meta[_WANTS_JSON]:
                _print_json(error, error.format_message())
            raise
        except (KeyboardInterrupt, click.Abort):
            words = f"{_INTERRUPTED} {_KEPT}" if ctx.invoked_subcommand in _GO_ON else _INTERRUPTED
            click.echo(f"\n{words}", err=True)
            ctx.exit(130)
        except Exception as error:
            if getattr(error, "errno", None) == errno.EPIPE:
                raise
            _fail(settings, error)
        finally:
            if settings.verbose:
                _show_timings(settings.timings)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands by what they are for."""
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, text) in commands.items()])


@click.group(
    cls=_Group,
    commands=Commands(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="mllm")
@output_options
def main(settings: Settings) -> None:
    """A hierarchical, editable memory for LLMs, on disk.

    \b
    mllm index notes                       files into the memory ./memory
    mllm search "When is the lamp lit?"    what the memory knows of it
    mllm COMMAND --help                    the options of a command

    Options of all commands may stand before or after the command. Exit codes: 0 done, 1 an error that the
    message explains, 2 wrong usage, 3 the memory needs care (verify found problems, an erasure is not
    complete), 130 interrupted.
    """


for _option in (encoder_option, namespace_option):
    _option(main)
memory_option(main, envvar="MLLM_MEMORY")


def _fail(settings: Settings, error: Exception) -> NoReturn:
    if settings.verbose:
        traceback.print_exception(error)
    message = _message(error)
    if settings.json:
        _print_json(error, message)
    raise _Failure(message) from error


def _print_json(error: Exception, message: str) -> None:
    described = {"type": type(error).__name__, "message": message}
    click.echo(json.dumps({"error": described}, ensure_ascii=False))


def _message(error: Exception) -> str:
    """One line for people; what we did not foresee comes with its type and how to see more."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{_text(error.filename)}: {error.strerror.lower()}"
    message = " ".join(str(error).split())
    if isinstance(error, MLLMError | OSError):
        return message
    return f"{type(error).__name__}: {message or 'no message'} (-v shows where)"


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _show_timings(timings: dict[str, float]) -> None:
    width = max(map(len, timings), default=0)
    for name, seconds in timings.items():
        click.echo(f"{name:<{width}}  {seconds * 1000:9.1f} ms", err=True)
