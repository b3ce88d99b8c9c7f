"""`mllm ask`: a language model answers from the memory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mllm_plugin.cli.output import emit, excerpt, namespace_name, note, plural
from mllm_plugin.cli.settings import (
    Settings,
    device_option,
    encoder_option,
    filter_option,
    namespace_option,
    number_option,
    shared_options,
)
from mllm_plugin.cli.terminal import cells, printable, width

if TYPE_CHECKING:
    from mllm_plugin.memory import MemoryIndex
    from mllm_plugin.memory_llm import Answer, AnswerStream, MemoryLLM, Source

_SHOWN = 4


@click.command()
@click.argument("question")
@click.option("--model", metavar="NAME_OR_PATH", help="Language model: a name, a folder, or a GGUF file.")
@click.option(
    "--adapter",
    default="default",
    show_default=True,
    metavar="FOLDER",
    help="Reader that `mllm train-llm` made; or none.",
)
@click.option(
    "--mode",
    type=click.Choice(["auto", "memory", "text", "both", "none"]),
    help="Read memory tokens, text, both or none of them; auto is both with a reader, else text.",
)
@number_option(("-k", "--top-k", "k"), None, "Chunks to find.")
@click.option(
    "--min-relevance",
    metavar="X",
    type=click.FloatRange(0, 1),
    help="Read no hit of a lower relevance, and say so where none is left.",
)
@number_option("--expand", None, "Of these, how many to spell out.", least=0)
@number_option("--text-tokens", None, "Most tokens to spell out.")
@number_option("--memory-budget", None, "Most memory tokens.", least=0)
@number_option("--max-new-tokens", None, "Longest answer.")
@click.option("--temperature", metavar="X", type=click.FloatRange(min=0), help="0 is the same at every run.")
@number_option("--seed", None, "Makes sampling repeatable.", least=0)
@click.option("--stop", multiple=True, help="Text before which the answer ends.")
@click.option("--prefix", is_flag=True, help="Search the namespaces below too.")
@click.option("--exclude-label", "exclude_labels", multiple=True, help="Leave out documents with this label.")
@device_option
@filter_option
@namespace_option
@encoder_option
@shared_options
def ask(
    settings: Settings,
    question: str,
    model: str | None,
    adapter: str,
    prefix: bool,
    exclude_labels: tuple[str, ...],
    device: str | None,
    condition: dict[str, Any] | None,
    **reading: Any,
) -> None:
    """Answer QUESTION with a language model that reads the memory, and show what it read."""
    given = {name: value for name, value in reading.items() if value not in (None, ())}
    with settings.reading(encode=True) as memory:
        llm = open_llm(settings, memory, model=model, adapter=adapter, device=device)
        with settings.stage("search"):
            stream = llm.stream(
                question,
                namespace=settings.namespace,
                prefix=prefix,
                filter=condition,
                exclude_labels=exclude_labels,
                **given,
            )
        answer = show_answer(settings, stream)
    emit(settings, {"question": question, **answer.to_dict()}, ["", *reading_lines(answer)])


def open_llm(
    settings: Settings,
    memory: MemoryIndex,
    *,
    model: str | Path | None = None,
    adapter: str = "default",
    device: str | None = None,
) -> MemoryLLM:
    """Loads the language model; warnings become notes."""
    from mllm_plugin.llm import DEFAULT_LLM
    from mllm_plugin.memory_llm import MemoryLLM

    with settings.stage("load language model"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        llm = MemoryLLM.open(
            memory,
            model=model or DEFAULT_LLM,
            adapter=None if adapter == "none" else os.path.expanduser(adapter),
            device=device,
            progress=settings.progress,
        )
    for warning in caught:
        note(f"({warning.message})")
    return llm


def show_answer(settings: Settings, stream: AnswerStream, indent: str = "") -> Answer:
    """Prints an answer while it is written, and returns it."""
    with settings.stage("answer"):
        if not settings.json:
            click.echo(indent, nl=False)
            for piece in stream:
                click.echo(printable(piece).replace("\n", f"\n{indent}"), nl=False)
            click.echo()
        return stream.answer


def reading_lines(answer: Answer) -> Iterator[str]:
    """What the model read, for people."""
    usage = answer.usage
    if not answer.sources:
        yield "It read nothing: the memory has nothing for this question."
        return
    soft = f", {usage.memory_tokens:,} of them memory tokens" if usage.memory_tokens else ""
    yield f"It read {usage.input_tokens:,} tokens{soft}:"
    for source in answer.sources:
        if source.as_text:
            room = width() - 16 - cells(_place(source))
            yield f"  text       {_place(source)}  {excerpt(source.text, room)}"
    read = [one for one in answer.sources if not one.as_text]
    for level, pieces in groupby(read, key=lambda one: one.level):
        yield f"  level {level:<4} {_windows_of(level, list(pieces))}"
    lost = {name: count for name, count in answer.to_dict()["dropped"].items() if count}
    if lost:
        yield f"  left out   {', '.join(f'{count:,} {name}' for name, count in lost.items())}"


def _windows_of(level: int, pieces: Sequence[Source]) -> str:
    places = _shortened(dict.fromkeys(printable(piece.document_id) for piece in pieces))
    return f"{plural(len(pieces), 'window' if level == 0 else 'chunk')} of {places}"


def _shortened(names: Iterable[str]) -> str:
    known = list(names)
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return ", ".join(known[:_SHOWN]) + more


def _place(one: Source) -> str:
    where = f" in {namespace_name(one.namespace)}" if one.namespace else ""
    return f"{printable(one.document_id)} [{one.start}:{one.end}]{where}"


COMMANDS = (ask,)
