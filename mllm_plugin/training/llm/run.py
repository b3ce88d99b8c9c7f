"""`train_llm`: from an open memory to an adapter with which a language model reads it."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllm_plugin.llm.models import DEFAULT_LLM, LoadedLLM, load_llm
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.store.hierarchies import note_adapter
from mllm_plugin.training.llm.answers import score_answers
from mllm_plugin.training.llm.collect import Labelled, collect_examples, collect_passages
from mllm_plugin.training.llm.config import LLMTrainingConfig
from mllm_plugin.training.llm.draw import Drawer
from mllm_plugin.training.llm.examples import META_NAME, Examples
from mllm_plugin.training.llm.loop import Fitted, fit_adapter
from mllm_plugin.training.llm.plot import plot_losses
from mllm_plugin.training.run import CURVES_NAME, PLOT_NAME, held_out_queries
from mllm_plugin.types import Namespace

CHECKPOINTS_NAME = "checkpoints"
Qrels = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class LLMTrainingReport:
    """What `train_llm` did.

    Attributes:
        folder: Where the adapter is.
        questions: Trained on.
        held_out: Measured on.
        losses: Held-out loss per answer token by mode, before and after.
        scores: Held-out exact match and F1 by mode, of the adapter.
        best_step: Step of the weights that were kept.
        seconds: It took.
    """

    folder: Path
    questions: int
    held_out: int
    losses: dict[str, tuple[float, float]]
    scores: dict[str, tuple[float, float]]
    best_step: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Returns a JSON-ready dictionary."""
        return {**self.__dict__, "folder": str(self.folder)}


def train_llm(
    memory: MemoryIndex,
    out: str | Path,
    *,
    queries: Mapping[str, Mapping[str, Any]] | None = None,
    qrels: Qrels | None = None,
    llm: str | Path | LoadedLLM = DEFAULT_LLM,
    passages: int = 2000,
    k: int = 5,
    namespace: Namespace | str = (),
    config: LLMTrainingConfig = LLMTrainingConfig(),
    device: str | None = None,
    progress: bool = True,
) -> LLMTrainingReport:
    """Trains an adapter on questions about a memory's documents, or on passages of them.

    What the memory recalls is computed once and kept in `out`; an interrupted run goes on when it is called
    again with the same arguments. Unless it is open read-only, the memory notes what the adapter sees: when
    one of these documents is removed, `RemoveReport.weights` names the adapter's folder.

    Args:
        memory: Opened with its encoder.
        out: Folder for the adapter, the curves and the checkpoints.
        queries: Rows with `text` and `answers` by id; without, passages of the documents are continued from
            their memory tokens.
        qrels: Grades of documents by query id: which documents hold the answers.
        llm: A model's name, folder or GGUF file, or a loaded one.
        passages: How many passages are drawn when there are no queries.
        k: Chunks recalled per question.
        namespace: Whose documents.
        config: Settings.
        device: "cpu", "cuda"; CUDA when there is one.
        progress: Show progress bars.

    Raises:
        InvalidInputError: There is too little to train on, or no such device.
        ModelNotFoundError: The language model is not to be had.
    """
    started, folder = time.perf_counter(), Path(out)
    loaded = llm if isinstance(llm, LoadedLLM) else load_llm(llm, device=device)
    labelled = _labelled(queries or {}, qrels or {})
    work = folder / CHECKPOINTS_NAME / _run_name(memory, labelled, loaded, passages, k, namespace, config)
    if (work / META_NAME).is_file():
        examples = Examples.load(work)
    elif labelled:
        examples = collect_examples(memory, labelled, k=k, namespace=namespace, progress=progress)
        examples.save(work)
    else:
        examples = collect_passages(
            memory, passages, namespace=namespace, seed=config.seed, progress=progress
        )
        examples.save(work)
    if not memory._database.read_only:  # now, since what is removed from here on is in the examples
        with memory._database.write() as tx:
            note_adapter(tx, str(folder.resolve()), examples.documents)
    fitted = fit_adapter(loaded, examples, config, checkpoint=work, progress=progress)
    report = _report(folder, loaded, examples, fitted, config, started)
    save_run(folder, fitted, examples, report)
    return report


def forget_run(out: str | Path) -> None:
    """Deletes the checkpoints of earlier runs in a folder, so that the next one begins anew."""
    shutil.rmtree(Path(out) / CHECKPOINTS_NAME, ignore_errors=True)


def save_run(folder: Path, fitted: Fitted, examples: Examples, report: LLMTrainingReport) -> None:
    """Writes the adapter with what it has seen and reached, and the curves."""
    about = {name: value for name, value in report.to_dict().items() if name != "folder"}
    fitted.adapter.save(folder, documents=tuple(examples.documents), about=about)
    write_curves(folder, fitted, about)


def write_curves(folder: Path, fitted: Fitted, about: Mapping[str, Any]) -> None:
    """Writes the curves as JSON and as a picture."""
    rows = [{name: None if value != value else value for name, value in row.items()} for row in fitted.rows]
    text = json.dumps({"history": rows, **about}, indent=1, allow_nan=False)
    (folder / CURVES_NAME).write_text(text + "\n", encoding="utf-8")
    plot_losses(fitted.rows, folder / PLOT_NAME)


def _report(
    folder: Path,
    llm: LoadedLLM,
    examples: Examples,
    fitted: Fitted,
    config: LLMTrainingConfig,
    started: float,
) -> LLMTrainingReport:
    first, step = fitted.rows[0], fitted.best[1]
    best = next((row for row in fitted.rows if int(row["step"]) == step), first)
    modes = [name for name in first if name not in ("step", "loss", "held_out")]
    drawer = Drawer(examples, fitted.layout, config)
    return LLMTrainingReport(
        folder=folder,
        questions=drawer.questions,
        held_out=sum(one.held_out for one in examples.questions),
        losses={mode: (round(first[mode], 3), round(best[mode], 3)) for mode in modes},
        scores=score_answers(llm, fitted.adapter, drawer, config.evaluate_questions),
        best_step=step,
        seconds=round(time.perf_counter() - started, 1),
    )


def _labelled(queries: Mapping[str, Mapping[str, Any]], qrels: Qrels) -> list[Labelled]:
    """Questions that have an answer; a tenth, parted by document, is held out."""
    answered = {
        query: row
        for query, row in queries.items()
        if any(str(one).strip() for one in row.get("answers", ()))
    }
    marks = held_out_queries({query: str(row["text"]) for query, row in answered.items()}, qrels)
    return [
        Labelled(
            str(row["text"]),
            tuple(str(one) for one in row["answers"] if str(one).strip()),
            tuple(document for document, grade in qrels.get(query, {}).items() if grade > 0),
            marks[query],
        )
        for query, row in answered.items()
    ]


def _run_name(memory: MemoryIndex, labelled: list[Labelled], llm: LoadedLLM, *rest: Any) -> str:
    """The same for the same questions, models and settings, so that checkpoints never mix."""
    *numbers, config = rest
    digest = hashlib.sha256(config.model_dump_json().encode())
    stats = memory.stats()
    digest.update(f"{stats.documents} {stats.chunks} {numbers} {memory.encoder.fingerprint}".encode())
    digest.update(llm.fingerprint.encode())
    for one in labelled:
        digest.update(repr(one).encode())
    return digest.hexdigest()[:16]
