"""What the robustness tests share: content to lose, checks that nothing was lost, raw looks at the files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from mllm_plugin import Document, Hit, MemoryConfig, MemoryIndex, StoredDocument, TreeConfig
from tests.helpers.file_tools import rows
from tests.helpers.toy import ToyEncoder

REPOSITORY = Path(__file__).parents[2]
STARTED: list[subprocess.Popen] = []  # ended after each test, whatever became of it
MODES = ("auto", "beam", "flat", "exact")
BLOCK_COLUMNS = ("node_id", "ids", "vectors", "live", "total", "terms")

KEPT = [
    Document(
        "the old lighthouse keeper counts ships", id="lighthouse", metadata={"year": 1902}, labels=("sea",)
    ),
    Document(
        "copper kettles whistle in the kitchen", id="kettle", metadata={"year": 1950, "tags": ["a", "b"]}
    ),
    Document("a fox crosses the frozen river at dawn", id="fox", metadata={"year": 2001}),
]

LONG = Document(
    " ".join(f"long{n} text." for n in range(300)), id="long", metadata={"deep": {"list": [1, None, "ü"]}}
)
SMALL_GROUPS = MemoryConfig(tree=TreeConfig(fan_out=8))


def some_documents(count: int, prefix: str = "d", words: int = 12) -> list[Document]:
    """Documents with a word of their own (their id) among words that others share."""
    return [
        Document(
            f"{prefix}{number} "
            + " ".join(f"w{(number * 7 + place * place) % 97}" for place in range(words)),
            id=f"{prefix}{number}",
            metadata={"number": number, "even": number % 2 == 0},
        )
        for number in range(count)
    ]


def contents(memory: MemoryIndex) -> dict[tuple[tuple[str, ...], str], StoredDocument]:
    """Every document of every namespace."""
    return {(document.namespace, document.id): document for document in memory.documents(prefix=True)}


def answers(
    memory: MemoryIndex, queries: Iterable[str], *, mode: str = "auto", k: int = 5
) -> list[list[Hit]]:
    """Hits without what depends on the order of insertion: chunk ids and paths."""
    found = memory.search_batch(list(queries), mode=mode, k=k)
    return [[replace(hit, chunk_id=0, path=()) for hit in hits] for hits in found]


@contextmanager
def unharmed(memory: MemoryIndex) -> Iterator[None]:
    """What happens inside must leave documents, structure and answers as they were."""
    queries = [document.text for document in KEPT]
    before = contents(memory), answers(memory, queries)
    yield
    assert memory.verify().problems == ()
    assert (contents(memory), answers(memory, queries)) == before


def assert_sound(memory: MemoryIndex, expected_ids: Iterable[str]) -> None:
    """Every invariant holds and exactly these documents are there."""
    assert memory.verify().problems == ()
    assert sorted(document.id for document in memory.documents(prefix=True)) == sorted(expected_ids)


def block_rows(memory: MemoryIndex) -> list[tuple]:
    return rows(memory, f"SELECT {', '.join(BLOCK_COLUMNS)} FROM blocks ORDER BY node_id")


def files_holding(folder: Path, needles: Mapping[str, bytes]) -> list[str]:
    """ "name in file" for each of the byte strings that some file below the folder holds."""
    return [
        f"{name} in {path.relative_to(folder)}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        for name, needle in needles.items()
        if needle in path.read_bytes()
    ]


def start_python(code: str, *arguments: object) -> subprocess.Popen:
    """Runs code in a fresh interpreter that can import the package and the toy encoder."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    STARTED.append(process)
    return process


def end_started() -> None:
    """Kills what still runs and closes its pipes."""
    while STARTED:
        process = STARTED.pop()
        process.kill()
        with process:
            pass


def finish(process: subprocess.Popen, expected: int = 0) -> str:
    """Waits for a process and returns what it printed."""
    output, errors = process.communicate(timeout=60)
    assert process.returncode == expected, errors
    return output


class CheapEncoder(ToyEncoder):
    """The toy encoder without windows, from the last words only: for tests about many or long texts."""

    def __init__(self, dim: int = 8) -> None:
        super().__init__(dim, windows=False)

    def _vector(self, words):
        return super()._vector(words[-4:])


class BadEncoder(ToyEncoder):
    """Returns what it is told for documents, as an encoder with a defect would."""

    def __init__(self, pooled: np.ndarray | None = None, windows: list | None = None) -> None:
        super().__init__()
        self._bad_pooled, self._bad_windows = pooled, windows

    def encode_documents(self, texts):
        pooled, windows = super().encode_documents(texts)
        return (
            pooled if self._bad_pooled is None else self._bad_pooled,
            windows if self._bad_windows is None else self._bad_windows,
        )
