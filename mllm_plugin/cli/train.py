"""`mllm train` and `mllm install`: level encoders and rankers of one's own."""

from __future__ import annotations

import os
from pathlib import Path

import click

from mllm_plugin.cli.output import emit, note, plural
from mllm_plugin.cli.questions import file_option, read_qrels, read_queries
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


@click.command()
@click.option(
    "--out", type=UserPath(file_okay=False), metavar="FOLDER", required=True, help="Where to write."
)
@file_option("--queries", "JSON lines with id and text; without, spans of the documents stand in.")
@file_option(
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
    from mllm_plugin.training import distributed, train_memory

    if qrels and not queries:
        raise InvalidInputError("--qrels grades documents for the questions of --queries; give both")
    config = TrainingConfig(top_level=levels, steps=steps, batch=batch, accumulate=accumulate, seed=seed)
    distributed.start()
    try:
        with settings.reading(encode=True) as memory, settings.stage("train"):
            report = train_memory(
                memory,
                out,
                queries=dict(read_queries(queries)) if queries else None,
                qrels=read_qrels(qrels) if qrels else None,
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
    if report.reason:
        note(report.reason)
    emit(settings, report.to_dict(), [line])


COMMANDS = (train, install)
