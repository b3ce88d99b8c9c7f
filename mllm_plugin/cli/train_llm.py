"""`mllm train-llm`: an adapter with which a language model reads the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mllm_plugin.cli.output import emit, plural
from mllm_plugin.cli.settings import (
    Settings,
    UserPath,
    device_option,
    memory_option,
    number_option,
    output_options,
)
from mllm_plugin.cli.train import _file, _qrels, _rows
from mllm_plugin.errors import InvalidInputError


@click.command("train-llm", short_help="Train a language model to read the memory's embeddings.")
@click.argument("folder", metavar="[MEMORY]", required=False, type=UserPath())
@click.option(
    "--into", type=UserPath(file_okay=False), metavar="FOLDER", required=True, help="Where to write."
)
@click.option("--llm", help="Name, folder or GGUF file of the language model.")
@_file("--queries", "JSON lines with id, text and answers; without, passages of the documents are continued.")
@_file("--qrels", "Lines of query id, tab, document id, tab, grade after a header: where the answers are.")
@number_option("--passages", 2000, "Passages to draw when there are no questions.")
@number_option("--steps", 600, "Optimiser steps.")
@number_option("--groups", 2, "Groups of up to five questions per step.")
@number_option("--accumulate", 1, "Batches per step.")
@number_option("--lora-rank", 16, "Rank of the changes to the language model; 0 leaves it as it is.", least=0)
@number_option("--evaluate-every", 100, "Steps between measurements on held-out questions.")
@number_option("--seed", 0, "Of everything random.", least=0)
@device_option
@click.option("--resume", is_flag=True, help="Go on with an interrupted run; without, begin anew.")
@memory_option
@output_options
def train_llm(
    settings: Settings,
    folder: Path | None,
    into: Path,
    llm: str | None,
    queries: Path | None,
    qrels: Path | None,
    resume: bool,
    device: str | None,
    passages: int,
    **numbers: int,
) -> None:
    """Train a language model to read MEMORY (default: --memory) from its embeddings.

    Trains a small projector, and LoRA weights unless --lora-rank is 0; the model's own weights stay as they
    are. Use the result with `mllm ask --adapter FOLDER`.
    """
    from mllm_plugin.llm.models import DEFAULT_LLM
    from mllm_plugin.training.llm.config import LLMTrainingConfig
    from mllm_plugin.training.llm.run import forget_run, train_llm

    if qrels and not queries:
        raise InvalidInputError("--qrels says where the answers to the questions of --queries are; give both")
    if folder is not None:
        settings.memory = folder
    if not resume:
        forget_run(into)
    with settings.reading(encode=True) as memory, settings.stage("train"):
        report = train_llm(
            memory,
            into,
            queries=dict(_answered(queries)) if queries else None,
            qrels=_qrels(qrels) if qrels else None,
            llm=llm or DEFAULT_LLM,
            passages=passages,
            namespace=settings.namespace,
            config=LLMTrainingConfig.model_validate(numbers),
            device=device,
            progress=settings.progress,
        )
    emit(settings, report.to_dict(), _lines(report))


def _lines(report: Any) -> list[str]:
    lines = ["held out, per mode: loss per answer token before and after, exact match, F1"]
    for mode, (before, after) in report.losses.items():
        exact, overlap = report.scores[mode]
        lines.append(f"  {mode:<7} {before:6.3f} {after:6.3f}  {exact:5.1f} {overlap:5.1f}")
    trained, measured = plural(report.questions, "question"), report.held_out
    lines.append(f"{trained}, {measured} held out, best at step {report.best_step}, {report.seconds:.0f} s")
    lines.append(f"adapter in {report.folder}")
    return lines


def _answered(path: Path) -> Any:
    for number, row in _rows(path):
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise InvalidInputError(f"{path}, line {number}: expected an object with id, text and answers")
        answers = row.get("answers", [])
        if not isinstance(answers, list) or not all(isinstance(one, str) for one in answers):
            raise InvalidInputError(
                f"{path}, line {number}: answers must be a list of texts, got {answers!r}"
            )
        yield str(row.get("id", row.get("_id", number))), row


COMMANDS = (train_llm,)
