"""`mllm demo`: the main job on real prose, the Python language reference that every CPython carries."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import click

from mllm_plugin.bulk.builder import IndexBuilder
from mllm_plugin.cli.ask import open_llm, reading_lines, show_answer
from mllm_plugin.cli.output import emit, hit_lines, note, plural, printable, removal_lines
from mllm_plugin.cli.settings import Settings, UserPath, encoder_option, number_option, output_options
from mllm_plugin.errors import MissingDependencyError, ModelNotFoundError
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.types import Document, Hit

if TYPE_CHECKING:
    from mllm_plugin.memory_llm import MemoryLLM

QUESTIONS = (
    "How do I make sure that clean-up code runs even when an exception is raised?",
    "Why does assigning to a variable inside a function not change the global one?",
    "Where does Python look for a module when I import it?",
)
_MASK = "demo"
_REMOVED = "yield"
_NOTE = Document(
    id="team-note",
    text=(
        "Team note. Our nightly export writes parquet files to the bucket heron-7 at 03:15. When it fails, "
        "restart the service quokka and tell Amina."
    ),
    metadata={"source": "demo"},
)
_READING: dict[str, Any] = {"expand": 1, "max_new_tokens": 24}
_FROM_MEMORY: dict[str, Any] = {"mode": "memory", "k": 1, "max_new_tokens": 24}
_NOTE_QUESTION = "What do I do when the nightly export fails?"


@click.command()
@click.option(
    "--into",
    type=UserPath(),
    metavar="FOLDER",
    default=Path("demo-memory"),
    show_default=True,
    help="Folder of the memory.",
)
@number_option("-k", 3, "Results per question.")
@encoder_option
@output_options
def demo(settings: Settings, into: Path, k: int) -> None:
    """Index the Python language reference, ask and answer, mask, unmask, remove, add.

    Needs no network. A second run starts from the disk.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    settings.memory, settings.namespace = into, ()
    started = time.perf_counter()
    found = settings.exists()
    with settings.growing() as memory:
        opened = time.perf_counter() - started
        result = _Demo(settings, memory, k).run(found, opened)
    emit(settings, result, _farewell(into))


class _Demo:
    """The steps, each of which prints itself and adds to `result`."""

    def __init__(self, settings: Settings, memory: MemoryIndex, k: int) -> None:
        self._settings, self._memory, self._k = settings, memory, k
        self._llm: MemoryLLM | None = None
        self._result: dict[str, Any] = {}

    def run(self, found: bool, opened: float) -> dict[str, Any]:
        self._begin(found, opened)
        self._build()
        self._levels()
        self._load()
        best = [self._ask(question) for question in QUESTIONS]
        self._mask(QUESTIONS[-1], best[-1].document_id)
        self._remove(_REMOVED)
        self._add(_NOTE, _NOTE_QUESTION)
        return self._result

    def _begin(self, found: bool, opened: float) -> None:
        """Undoes what the last run left: its mask and its note."""
        self._result["started_from_disk"] = found
        if not found:
            self._title(f"A new memory in {self._memory.path}")
            return
        self._title(f"The memory in {self._memory.path} is there: starting from the disk")
        note(f"(opened in {opened:.1f} s, most of it to load the encoder)")
        self._memory.unmask(label=_MASK)
        self._memory.remove([_NOTE.id])

    def _build(self) -> None:
        documents = _reference()
        many = plural(len(documents), "document")
        note(f"(embedding what is new of {many}: the first time half a minute or more)")
        report = IndexBuilder(self._memory, batch_size=4, progress=self._settings.progress).build(documents)
        counts = [f"{getattr(report, name)} {name}" for name in ("added", "updated", "unchanged")]
        self._say(f"Python language reference: {plural(len(documents), 'document')}, {', '.join(counts)}")
        note(f"(done in {report.seconds:.1f} s, {plural(report.encoded, 'text')} encoded)")
        self._result["build"] = report.to_dict()

    def _levels(self) -> None:
        stats = self._memory.stats()
        levels = reversed(stats.namespaces[0].levels)
        shape = ", ".join(f"level {level.level}: {level.embeddings}" for level in levels)
        self._say(f"Embeddings from the top level down: {shape}")
        self._result["levels"] = [level.to_dict() for level in stats.namespaces[0].levels]

    def _load(self) -> None:
        """The language model; the demo goes on without one."""
        started = time.perf_counter()
        try:
            self._llm = open_llm(self._settings, self._memory)
        except (ModelNotFoundError, MissingDependencyError) as error:
            note(f"(no answers, only results: {error})")
            return
        note(f"(language model loaded in {time.perf_counter() - started:.1f} s)")

    def _ask(self, question: str, title: str = "Question") -> Hit:
        with self._settings.stage("search"):
            hits = self._memory.search(question, k=self._k, unique_documents=True)
        self._title(f"{title}: {question}")
        for rank, hit in enumerate(hits, start=1):
            self._say(*hit_lines(rank, hit, path=True))
        entry: dict[str, Any] = {"question": question, "hits": [hit.to_dict() for hit in hits]}
        if self._llm is not None:
            self._say(" Answer:")
            answer = show_answer(self._settings, self._llm.stream(question, **_READING), "    ")
            self._say(*(f"    {line}" for line in reading_lines(answer)))
            entry["answer"] = answer.to_dict()
            if self._llm.adapter is not None:
                alone = self._llm.answer(question, **_FROM_MEMORY)
                self._say(
                    f" From {alone.usage.memory_tokens} memory tokens alone:", f"    {printable(alone.text)}"
                )
                entry["from_memory"] = alone.to_dict()
        self._result.setdefault("questions", []).append(entry)
        return hits[0]

    def _mask(self, question: str, topic: str) -> None:
        report = self._memory.mask([topic], label=_MASK)
        chunks = plural(report.chunks, "chunk")
        self._title(f"Mask the topic {topic!r}: {chunks} out of every result and every ancestor")
        self._ask(question, "Same question, without it")
        self._memory.unmask(label=_MASK)
        self._title(f"Unmask {topic!r}: it is found again")
        self._result["masked"] = {"topic": topic, **report.to_dict()}

    def _remove(self, topic: str) -> None:
        report = self._memory.remove([topic])
        self._title(f"Remove the topic {topic!r} for good")
        self._say(*removal_lines(report))
        self._result["removed"] = {"topic": topic, **report.to_dict()}

    def _add(self, document: Document, question: str) -> None:
        report = self._memory.add([document])
        self._title(f"Add a new document, {document.id!r}: {plural(report.chunks, 'chunk')}, found at once")
        self._result["added"] = report.to_dict()
        self._ask(question)

    def _title(self, text: str) -> None:
        self._say("", click.style(text, bold=True))

    def _say(self, *lines: str) -> None:
        if not self._settings.json:
            for line in lines:
                click.echo(line)


def _reference() -> list[Document]:
    """The topics of the Python language reference, in alphabetical order."""
    return [
        Document(id=name, text=text, metadata={"source": "pydoc_data.topics"})
        for name, text in sorted(topics.items())
    ]


def _farewell(folder: Path) -> Iterable[str]:
    yield ""
    yield click.style("Go on:", bold=True)
    yield f'  mllm search "how do I write a decorator?" --memory {folder} --path'
    yield f'  mllm ask "what does nonlocal do?" --memory {folder}'
    yield f"  mllm stats --memory {folder}"
    yield f"  mllm verify --memory {folder}"


COMMANDS = (demo,)
