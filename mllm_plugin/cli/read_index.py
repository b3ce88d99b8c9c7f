"""`mllm read-index`: what a language model reads of the memory, written ahead of time."""

from __future__ import annotations

from pathlib import Path

import click

from mllm_plugin.cli.ask import open_llm
from mllm_plugin.cli.output import emit, plural
from mllm_plugin.cli.settings import (
    Settings,
    UserPath,
    device_option,
    memory_option,
    namespace_option,
    output_options,
)
from mllm_plugin.errors import InvalidInputError


@click.command("read-index")
@click.argument("folder", metavar="[MEMORY]", required=False, type=UserPath())
@click.option("--model", metavar="NAME_OR_PATH", help="Language model: a name, a folder, or a GGUF file.")
@click.option(
    "--adapter",
    default="default",
    show_default=True,
    metavar="FOLDER",
    help="Reader that `mllm train-llm` made.",
)
@click.option("--prefix", is_flag=True, help="Also of the namespaces below.")
@device_option
@namespace_option
@memory_option
@output_options
def read_index(
    settings: Settings, folder: Path | None, model: str | None, adapter: str, prefix: bool, device: str | None
) -> None:
    """Write the reading vectors of MEMORY (default: --memory), so that no answer waits for them.

    What is written already is left as it is; an interrupted run goes on where it was.
    """
    if adapter == "none":
        raise InvalidInputError("a reader writes the reading vectors; expected a folder or default, got none")
    if folder is not None:
        settings.memory = folder
    with settings.editing() as memory:
        llm = open_llm(settings, memory, model=model, adapter=adapter, device=device)
        with settings.stage("write"):
            report = llm.read_index(namespace=settings.namespace, prefix=prefix, progress=settings.progress)
    told = f"{plural(report.chunks, 'chunk')}, {report.written:,} of them written now, {report.seconds:.0f} s"
    emit(settings, report.to_dict(), [told])


COMMANDS = (read_index,)
