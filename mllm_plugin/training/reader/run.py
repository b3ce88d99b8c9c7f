"""`train_reader`: from an open memory to a reader with which a language model reads it."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mllm_plugin.errors import AdapterMismatchError
from mllm_plugin.llm import DEFAULT_LLM, LoadedLLM, MemoryReader, load_llm, shipped_reader
from mllm_plugin.llm.lora import FIRST
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.models.files import choose_device
from mllm_plugin.training.curves import Panel, write_curves
from mllm_plugin.training.questions import Qrels, Queries
from mllm_plugin.training.reader.answers import score_answers
from mllm_plugin.training.reader.config import ReaderTrainingConfig
from mllm_plugin.training.reader.evaluate import WAYS, Held
from mllm_plugin.training.reader.loop import Loop, Trained
from mllm_plugin.training.reader.models import stack_of
from mllm_plugin.training.reader.modules import Reader
from mllm_plugin.training.reader.prompts import Prompts, prompt_parts
from mllm_plugin.training.reader.rows import Sizes
from mllm_plugin.training.reader.samples import Material, collect
from mllm_plugin.training.reader.tasks import Sampler
from mllm_plugin.training.reader.texts import LONGEST
from mllm_plugin.types import Namespace

CHECKPOINTS_NAME, SHIPPED = "checkpoints", "shipped"
_RATE, _LATER_RATE = 1e-3, 2e-4


@dataclass(frozen=True)
class ReaderTrainingReport:
    """What `train_reader` did.

    Attributes:
        folder: Where the reader is.
        chunks: Chunks of the memory, held-out ones included.
        questions: Questions that were trained on; blanks are trained on besides.
        held_out: Measured with.
        measured: What these are: "questions", or "blanks" where there are too few questions.
        losses: Held-out loss per answer token before and after, by what is read: the memory of the chunk that
            answers ("own"), of another ("foreign"), nothing ("none"), the text ("text").
        credit: Nats per token that one's own memory gives over another's, before and after.
        scores: Exact match and F1 of the answers in [0, 100], before and after, by what is read: "memory",
            "text", "none".
        best_step: Step of the weights that were kept; 0 when none did better than those it began with.
        seconds: It took.
    """

    folder: Path
    chunks: int
    questions: int
    held_out: int
    measured: str
    losses: dict[str, tuple[float, float]]
    credit: tuple[float, float]
    scores: dict[str, tuple[tuple[float, float], tuple[float, float]]]
    best_step: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Returns a JSON-ready dictionary."""
        return {**self.__dict__, "folder": str(self.folder)}


def train_reader(
    memory: MemoryIndex,
    into: str | Path,
    *,
    llm: str | Path | LoadedLLM = DEFAULT_LLM,
    queries: Queries | None = None,
    qrels: Qrels | None = None,
    namespace: Namespace | str = (),
    start: str | Path | MemoryReader | None = SHIPPED,
    config: ReaderTrainingConfig = ReaderTrainingConfig(),
    device: str | None = None,
    resume: bool = False,
    progress: bool = True,
) -> ReaderTrainingReport:
    """Trains a language model to write a memory's documents as vectors and to read these.

    About a tenth of the text is held out; the best weights on it are kept. Unless it is open read-only, the
    memory notes what the reader sees: when one of these documents is removed, `RemoveReport.weights` names
    the reader's folder.

    Args:
        memory: Opened with its encoder.
        into: Folder for the reader, the curves and the checkpoints.
        llm: A model's name, folder or GGUF file, or a loaded one.
        queries: Rows with `text` and `answers` by id; blanks of the documents are filled with or without.
        qrels: Grades of documents by query id: which documents hold the answers.
        namespace: Whose documents.
        start: "shipped" for the reader that comes with the package, where there is one for the model; None to
            begin with nothing; a folder or a `MemoryReader` to go on with.
        config: Settings.
        device: "cpu", "cuda"; CUDA when there is one.
        resume: Go on with a run of the same arguments that was interrupted; without, begin anew.
        progress: Show a progress bar.

    Raises:
        InvalidInputError: There is too little to train on, no such device, or no such kind of model.
        ModelNotFoundError: The language model is not to be had.
        AdapterMismatchError: The reader to start with is another model's.
    """
    began, folder = time.perf_counter(), Path(into)
    if not resume:
        shutil.rmtree(folder / CHECKPOINTS_NAME, ignore_errors=True)
    loaded = llm if isinstance(llm, LoadedLLM) else load_llm(llm, device=str(choose_device(device)))
    prompts = Prompts.of(prompt_parts(loaded.tokenizer))
    material = collect(
        memory,
        loaded.tokenizer,
        prompts,
        queries=queries,
        qrels=qrels,
        namespace=namespace,
        seed=config.seed,
    )
    first = _first(start, loaded, material, config)
    marks = sorted({*material.marks, *first.config.documents})
    if not memory.read_only:  # now, since what is removed from here on is in the texts
        memory.note_reader(folder.resolve(), marks)
    reader = _trainable(loaded, first, material, prompts, config.chunks)
    learned = float(first.tensors["space.map.weight"].abs().max()) > 0
    rate = config.rate or (_LATER_RATE if learned else _RATE)
    held = Held(reader, material.texts, prompts)
    numbers = held.questions(config.evaluate_questions).tolist()
    work = folder / CHECKPOINTS_NAME / _run_name(material, loaded, first, config)
    sampler = Sampler(material.texts, prompts, reader.sizes)
    loop = Loop(loaded, reader, sampler, held, config, rate, first.config.ratio, work)
    best, made = loop.run(progress=progress), _made(reader, first)
    scores = [
        score_answers(loaded, one, material.texts, numbers, config.answer_tokens) for one in (first, made)
    ]
    report = _report(folder, material, loop.rows, best, scores, time.perf_counter() - began)
    about = {name: value for name, value in report.to_dict().items() if name != "folder"}
    made.save(folder, documents=tuple(marks), about=about)
    write_curves({"history": loop.rows, **about}, _panels(loop.rows), folder)
    return report


def _report(
    folder: Path,
    material: Material,
    rows: list[dict[str, float]],
    best: int,
    scores: Sequence[dict[str, tuple[float, float]]],
    seconds: float,
) -> ReaderTrainingReport:
    first, last = rows[0], next(row for row in rows if row["step"] == best)
    return ReaderTrainingReport(
        folder=folder,
        chunks=len(material.texts.sources),
        questions=material.questions,
        held_out=material.held_out,
        measured=material.measured,
        losses={way: (round(first[way], 3), round(last[way], 3)) for way in WAYS},
        credit=(round(first["credit"], 3), round(last["credit"], 3)),
        scores={way: (scores[0][way], scores[1][way]) for way in scores[0]},
        best_step=best,
        seconds=round(seconds, 1),
    )


def _first(
    start: str | Path | MemoryReader | None, llm: LoadedLLM, material: Material, config: ReaderTrainingConfig
) -> MemoryReader:
    """The reader to begin with."""
    if isinstance(start, MemoryReader):
        found = start
    elif start == SHIPPED or start is None:
        found = None if start is None else shipped_reader(llm)
    else:
        found = MemoryReader.load(start)
    if found is None:
        known, count = torch.from_numpy(material.texts.idf.astype(np.float32)), len(material.texts.sources)
        idf = torch.full((len(llm.embeddings.weight),), float(np.log(count + 1)))  # of tokens never met
        least = min(len(known), len(idf))  # either may have more rows than the other
        idf[:least] = known[:least]
        return MemoryReader.create(llm, idf=idf, rank=config.rank, seed=config.seed)
    if not found.config.fits(llm):
        raise AdapterMismatchError(
            f"the reader to start with was made for the model {found.config.llm_name} ({found.config.llm}), "
            f"got {llm.name} ({llm.fingerprint}); pass start=None to begin with nothing"
        )
    found.check(llm)
    return found


def _trainable(
    llm: LoadedLLM,
    first: MemoryReader,
    material: Material,
    prompts: Prompts,
    chunks: int,
) -> Reader:
    """Puts the numbers of a reader where they can be trained."""
    rank = next(
        len(one) for name, one in first.tensors.items() if name.startswith("writer.") and name.endswith(FIRST)
    )
    sizes = _sizes(material, prompts, chunks, llm.context)
    stack = stack_of(llm, sizes.long_tokens)
    reader = Reader(stack, first.tensors["space.idf"], sizes, rank=rank, scale=first.config.scale)
    reader.load(first.tensors)
    return reader.to(llm.device)


def _made(reader: Reader, first: MemoryReader) -> MemoryReader:
    """What was trained, as a reader that can be used and kept."""
    named = {f"space.{name}": value for name, value in Trained(reader).space.state_dict().items()}
    for changes, name in ((reader.writer, "writer"), (reader.reader, "reader")):
        named |= {f"{name}.{key}": value for key, value in changes.tensors(reader.stack).items()}
    named = {name: value.detach().float().cpu().clone() for name, value in named.items()}
    return MemoryReader(first.config, {**named, "space.idf": first.tensors["space.idf"]})


def _sizes(material: Material, prompts: Prompts, chunks: int, context: int) -> Sizes:
    """Shapes that suit the texts: two thirds of the rows are short, see `Sizes` for the shares."""
    texts = material.texts
    around = sum(len(prompts[name]) for name in ("head", "tail", "gap", "fill", "blank"))
    most = int(np.diff(texts.questions.ends, prepend=0).max(initial=0))
    longest = min(context, around + LONGEST + max(most, 64) + 64)
    short, long = chunks * 4 // 3, chunks * 2 // 3
    return Sizes(
        chunks=chunks,
        short=short,
        long=long,
        short_tokens=min(longest, around + 96),
        long_tokens=longest,
        predicted=chunks * 54,
    )


def _run_name(material: Material, llm: LoadedLLM, first: MemoryReader, config: ReaderTrainingConfig) -> str:
    """The same for the same texts, models and settings, so that checkpoints never mix."""
    digest = hashlib.sha256(config.model_dump_json().encode())
    digest.update(f"{llm.fingerprint} {first.fingerprint}".encode())
    texts = material.texts
    for one in (texts.chunks, texts.questions, texts.answers):
        digest.update(one.values.tobytes() + one.ends.tobytes())
    digest.update(texts.asked.tobytes() + texts.held_out.tobytes() + texts.sources.tobytes())
    return digest.hexdigest()[:16]


def _panels(rows: Sequence[Mapping[str, float]]) -> list[Panel]:
    """The training loss and the held-out losses by step."""
    lines = {"training, all kinds of rows": "loss", **{f"held out, {way}": way for way in WAYS}}
    points = {shown: [(row["step"], row[name]) for row in rows] for shown, name in lines.items()}
    return [Panel("loss per answer token", "step", points)]
