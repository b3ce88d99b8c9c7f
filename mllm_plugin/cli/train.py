"""`mllm train` and `mllm install`: level encoders and rankers of one's own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from mllm_plugin.cli.output import emit, plural
from mllm_plugin.cli.settings import (
    Settings,
    UserPath,
    device_option,
    field_option,
    number_option,
    shared_options,
)
from mllm_plugin.errors import InvalidInputError
from mllm_plugin.training.routing.config import TrainingConfig


def _file(name: str, text: str) -> Any:
    return click.option(name, type=UserPath(dir_okay=False, exists=True), help=text)


@click.command(short_help="Train level encoders and rankers on the memory's documents.")
@click.option(
    "--out", type=UserPath(file_okay=False), metavar="FOLDER", required=True, help="Where to write."
)
@_file("--queries", "JSON lines with id and text; without, spans of the documents stand in.")
@_file(
    "--qrels", "Lines of query id, tab, document id, tab, grade after a header; trains the leaf ranker too."
)
@click.option(
    "--group-by", help="Metadata field of documents that belong together; whole groups are held out."
)
@number_option("--spans", 4000, "Spans of the documents to use as questions.", least=0)
@field_option(TrainingConfig, "steps")
@field_option(TrainingConfig, "batch")
@field_option(TrainingConfig, "accumulate")
@field_option(TrainingConfig, "top_level", "--levels")
@field_option(TrainingConfig, "seed")
@device_option
@click.option("--install", is_flag=True, help="Put the weights in place when they do better.")
@shared_options
def train(
    settings: Settings,
    out: Path,
    queries: Path | None,
    qrels: Path | None,
    group_by: str | None,
    spans: int,
    steps: int,
    batch: int,
    accumulate: int,
    levels: int,
    seed: int,
    device: str | None,
    install: bool,
) -> None:
    """Train level encoders and rankers on the memory's documents; weights are kept only if they do better.

    Run it again after an interruption and it goes on. Under torchrun several processes share the work.
    """
    from mllm_plugin.training import distributed
    from mllm_plugin.training.routing.run import train_memory

    if qrels and not queries:
        raise InvalidInputError("--qrels grades documents for the questions of --queries; give both")
    config = TrainingConfig(top_level=levels, steps=steps, batch=batch, accumulate=accumulate, seed=seed)
    distributed.start()
    try:
        with settings.reading(encode=True) as memory, settings.stage("train"):
            report = train_memory(
                memory,
                out,
                queries=dict(_queries(queries)) if queries else None,
                qrels=_qrels(qrels) if qrels else None,
                group_by=group_by,
                spans=spans,
                namespace=settings.namespace,
                config=config,
                device=device,
                progress=settings.progress,
            )
        first = distributed.is_first()
    finally:
        distributed.stop()
    if not first:
        return
    lines = [line for line in (report.routing, report.leaf) if line]
    lines.append(f"{plural(report.queries, 'question')}, {report.seconds:.0f} s")
    if report.folder is None:
        lines.append("no part does better than the identity start, so nothing is kept")
    else:
        lines.append(f"kept: {', '.join(report.kept)}; weights in {report.folder}")
        if install:
            with settings.editing() as memory:
                memory.install(report.folder)
            lines.append("installed")
        else:
            lines.append(f"put them in place with `mllm install {report.folder}`")
    emit(settings, report.to_dict(), lines)


@click.command()
@click.argument("hierarchy")
@shared_options
def install(settings: Settings, hierarchy: str) -> None:
    """Put a HIERARCHY in place and fold every node anew.

    HIERARCHY is a folder that `mllm train` wrote, "default" for the weights of the package, or "identity" for
    none.
    """
    with settings.editing() as memory, settings.stage("install"):
        report = memory.install(os.path.expanduser(hierarchy))
    if report.fingerprint == report.replaced:
        line = f"{report.fingerprint} is in place already"
    else:
        nodes = plural(report.nodes, "node")
        line = f"{report.fingerprint} in place of {report.replaced}: {nodes} folded anew"
    emit(settings, report.to_dict(), [line])


def _queries(path: Path) -> Iterator[tuple[str, str]]:
    for number, row in _rows(path):
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise InvalidInputError(f"{path}, line {number}: expected an object with id and text")
        yield str(row.get("id", row.get("_id", number))), row["text"]


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in _lines(path):
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidInputError(f"{path}, line {number}: not JSON: {error.msg}") from error


def _qrels(path: Path) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for number, line in list(_lines(path))[1:]:
        try:
            query, document, grade = line.split("\t")
            found.setdefault(query, {})[document] = int(grade)
        except ValueError:
            raise InvalidInputError(
                f"{path}, line {number}: expected query id, document id and a whole number, tab-separated"
            ) from None
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers from 1."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: not UTF-8 (byte {error.start})") from error
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would cut at U+2028 inside a text
        if line.strip():
            yield number, line


COMMANDS = (train, install)
