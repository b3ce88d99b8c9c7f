"""The group of commands, and errors as one line and an exit code."""

from __future__ import annotations

import errno
import json
from typing import Any, NoReturn

import click

from mllm_plugin import __version__
from mllm_plugin.cli import ask, care, demo, edit, index, move, query, train, train_llm
from mllm_plugin.cli.settings import Settings, encoder_option, memory_option, namespace_option, output_options
from mllm_plugin.errors import MLLMError

_INTERRUPTED = "Interrupted. What was written is kept; run the same command again to go on."


class _Group(click.Group):
    """Turns our errors into one line on stderr; a bug keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        settings = ctx.ensure_object(Settings)
        try:
            return super().invoke(ctx)
        except (MLLMError, OSError) as error:
            if getattr(error, "errno", None) == errno.EPIPE:
                raise
            _fail(settings, error)
        except (KeyboardInterrupt, click.Abort):
            click.echo(f"\n{_INTERRUPTED}", err=True)
            ctx.exit(130)
        finally:
            if settings.verbose:
                _show_timings(settings.timings)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mllm")
@output_options
def main(settings: Settings) -> None:
    """A hierarchical, editable memory for LLMs, on disk.

    Options of all commands may stand before or after the command. Exit codes: 0 done, 1 an error that the
    message explains, 2 wrong usage, 3 the memory needs care (verify found problems, an erasure is not
    complete), 130 interrupted.
    """


for _option in (encoder_option, namespace_option):
    _option(main)
memory_option(main, envvar="MLLM_MEMORY")
for _module in (index, move, query, ask, edit, care, train, train_llm, demo):
    for _command in _module.COMMANDS:
        main.add_command(_command)


def _fail(settings: Settings, error: Exception) -> NoReturn:
    message = " ".join(str(error).split())
    if settings.json:
        click.echo(
            json.dumps({"error": {"type": type(error).__name__, "message": message}}, ensure_ascii=False)
        )
    raise click.ClickException(message) from error


def _show_timings(timings: dict[str, float]) -> None:
    width = max(map(len, timings), default=0)
    for name, seconds in timings.items():
        click.echo(f"{name:<{width}}  {seconds * 1000:9.1f} ms", err=True)
