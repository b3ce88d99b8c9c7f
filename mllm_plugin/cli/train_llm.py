"""`mllm train-llm`: a reader with which a language model reads the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mllm_plugin.cli.output import emit, plural
from mllm_plugin.cli.questions import file_option, read_answered, read_qrels
from mllm_plugin.cli.settings import (
    Settings,
    UserPath,
    device_option,
    field_option,
    memory_option,
    output_options,
)
from mllm_plugin.errors import InvalidInputError
from mllm_plugin.training.reader.config import ReaderTrainingConfig


@click.command("train-llm")
@click.argument("folder", metavar="[MEMORY]", required=False, type=UserPath())
@click.option(
    "--into", type=UserPath(file_okay=False), metavar="FOLDER", required=True, help="Where to write."
)
@click.option("--llm", help="Name, folder or GGUF file of the language model.")
@click.option(
    "--start",
    default="shipped",
    show_default=True,
    metavar="FOLDER",
    help="Reader to go on from, shipped for the one of the package where there is one; or none.",
)
@file_option("--queries", "JSON lines with id, text and answers; blanks are filled with or without.")
@file_option(
    "--qrels", "Lines of query id, tab, document id, tab, grade after a header: where the answers are."
)
@field_option(ReaderTrainingConfig, "steps")
@field_option(ReaderTrainingConfig, "chunks")
@field_option(ReaderTrainingConfig, "rank")
@field_option(ReaderTrainingConfig, "evaluate_every")
@field_option(ReaderTrainingConfig, "seed")
@device_option
@click.option("--resume", is_flag=True, help="Go on with an interrupted run; without, begin anew.")
@memory_option
@output_options
def train_llm(
    settings: Settings,
    folder: Path | None,
    into: Path,
    llm: str | None,
    start: str,
    queries: Path | None,
    qrels: Path | None,
    resume: bool,
    device: str | None,
    **numbers: int,
) -> None:
    """Train a language model to write MEMORY (default: --memory) as vectors and to read these.

    Trains low-rank changes; the model's own weights stay as they are. Use the result with
    `mllm ask --adapter FOLDER`.
    """
    from mllm_plugin.llm import DEFAULT_LLM
    from mllm_plugin.training import train_reader

    if qrels and not queries:
        raise InvalidInputError("--qrels says where the answers to the questions of --queries are; give both")
    if numbers["chunks"] % 4:
        raise InvalidInputError(f"--chunks must be a multiple of 4, got {numbers['chunks']}")
    if folder is not None:
        settings.memory = folder
    with settings.reading(encode=True) as memory, settings.stage("train"):
        report = train_reader(
            memory,
            into,
            llm=llm or DEFAULT_LLM,
            queries=dict(read_answered(queries)) if queries else None,
            qrels=read_qrels(qrels) if qrels else None,
            namespace=settings.namespace,
            start=None if start == "none" else start,
            config=ReaderTrainingConfig.model_validate(numbers),
            device=device,
            resume=resume,
            progress=settings.progress,
        )
    emit(settings, report.to_dict(), _lines(report))


def _lines(report: Any) -> list[str]:
    lines = [f"{report.held_out} held-out {report.measured}: loss per answer token before and after"]
    lines += [f"  {way:<8}{before:7.3f}{after:7.3f}" for way, (before, after) in report.losses.items()]
    lines.append("answers: exact match and F1 before, exact match and F1 after")
    for way, (before, after) in report.scores.items():
        lines.append(f"  {way:<8}{before[0]:7.1f}{before[1]:6.1f}{after[0]:8.1f}{after[1]:6.1f}")
    trained = f"{plural(report.chunks, 'chunk')}, {plural(report.questions, 'question')} trained on"
    lines.append(f"{trained}, best at step {report.best_step}, {report.seconds:.0f} s")
    lines.append(f"reader in {report.folder}")
    return lines


COMMANDS = (train_llm,)
