"""A process that is killed in the middle: the memory is sound, and building again does what is missing."""

from __future__ import annotations

import signal

import pytest

from mllm_plugin import Document, IndexBuilder, InvalidDocumentError, MemoryIndex
from tests.helpers.file_tools import rows
from tests.helpers.robustness_tools import MODES, assert_sound, contents, finish, some_documents, start_python
from tests.helpers.toy import ToyEncoder

DOCUMENTS = [
    *some_documents(90, words=20),
    Document(" ".join(f"long{n} text." for n in range(400)), id="long"),
    *some_documents(20, prefix="late", words=20),
]
QUERIES = ["d17", "late3", "long200 text", "w3 w5 w8"]
KILLED_BUILD = """
import os, signal, sys
from mllm_plugin import IndexBuilder, MemoryConfig, MemoryIndex, TreeConfig
from mllm_plugin.store.writer import NamespaceWriter
from tests.memory.test_killed_build import DOCUMENTS
from tests.helpers.toy import ToyEncoder

folder, moment, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
calls = 0

def kill_at(owner, name, after):
    plain = getattr(owner, name)
    def counted(*arguments, **options):
        global calls
        calls += 1
        if calls == batch and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = plain(*arguments, **options)
        if calls == batch and after:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, counted)

memory = MemoryIndex.open(folder, encoder=ToyEncoder(), config=MemoryConfig(tree=TreeConfig(fan_out=8)))
if moment == "while-encoding":
    kill_at(ToyEncoder, "encode_documents", after=False)
elif moment == "between-cache-and-write":
    kill_at(NamespaceWriter, "add", after=False)
elif moment == "before-commit":
    kill_at(NamespaceWriter, "finish", after=True)
elif moment == "after-commit":
    kill_at(type(memory._handle.cache), "drop", after=False)
elif moment == "while-regrouping":
    kill_at(NamespaceWriter, "regroup", after=True)
def stream():
    for number, document in enumerate(DOCUMENTS):
        if moment == "between-batches" and number == 10 * batch:
            os.kill(os.getpid(), signal.SIGKILL)
        yield document
IndexBuilder(memory, batch_size=10, progress=False).build(stream())
"""


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """What an undisturbed build gives."""
    with MemoryIndex.open(tmp_path_factory.mktemp("clean") / "memory", encoder=ToyEncoder()) as memory:
        IndexBuilder(memory, batch_size=10, progress=False).build(DOCUMENTS)
        yield memory


def stored_texts(memory: MemoryIndex) -> set[str]:
    spans = 'SELECT d.text, start, "end" FROM chunks JOIN documents d USING (document_rowid)'
    return {text.decode()[start:end] for text, start, end in rows(memory, spans)}


def results(memory: MemoryIndex, mode: str) -> list[list[tuple]]:
    found = memory.search_batch(QUERIES, k=8, mode=mode)
    return [[(hit.document_id, hit.start, hit.end, hit.text, hit.score) for hit in hits] for hits in found]


@pytest.mark.parametrize(
    ("moment", "batch"),
    [
        ("between-batches", 3),
        ("while-encoding", 1),
        ("while-encoding", 5),
        ("between-cache-and-write", 4),
        ("before-commit", 1),
        ("before-commit", 6),
        ("after-commit", 4),
        ("while-regrouping", 1),
    ],
)
def test_build_is_killed_and_resumed(tmp_path, clean, moment, batch):
    folder = tmp_path / "memory"
    finish(start_python(KILLED_BUILD, folder, moment, batch), expected=-signal.SIGKILL)
    encoder = ToyEncoder()
    with MemoryIndex.open(folder, encoder=encoder) as memory:
        assert memory.verify().problems == ()
        kept = [document.id for document in memory.documents()]
        assert kept == [document.id for document in DOCUMENTS[: len(kept)]]
        assert len(kept) % 10 == 0 or len(kept) == len(DOCUMENTS)
        stored = stored_texts(memory)

        report = IndexBuilder(memory, batch_size=10, progress=False).build(DOCUMENTS)

        assert (report.added, report.unchanged) == (len(DOCUMENTS) - len(kept), len(kept))
        assert not stored & set(encoder.encoded), "a stored text was encoded again"
        assert len(encoder.encoded) == report.encoded
        if moment in ("between-cache-and-write", "before-commit"):
            assert report.encoded < report.chunks, "the killed batch was encoded again"
        assert_sound(memory, [document.id for document in DOCUMENTS])
        assert contents(memory) == contents(clean)
        assert stored_texts(memory) == stored_texts(clean)
        for mode in ("exact", "flat"):
            assert results(memory, mode) == results(clean, mode)
        again = IndexBuilder(memory, batch_size=10, progress=False).build(DOCUMENTS)
        assert (again.unchanged, again.encoded, again.added) == (len(DOCUMENTS), 0, 0)


def test_a_resumed_build_may_use_other_batches(tmp_path, clean):
    folder = tmp_path / "memory"
    finish(start_python(KILLED_BUILD, folder, "between-batches", 5), expected=-signal.SIGKILL)
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        assert IndexBuilder(memory, batch_size=64, progress=False).build(iter(DOCUMENTS)).unchanged == 50
        assert contents(memory) == contents(clean)
        assert results(memory, "exact") == results(clean, "exact")


def test_an_interrupted_build_can_be_searched_and_edited(tmp_path):
    folder = tmp_path / "memory"
    finish(start_python(KILLED_BUILD, folder, "between-batches", 6), expected=-signal.SIGKILL)
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        assert all(memory.search("d17", k=1, mode=mode)[0].document_id == "d17" for mode in MODES)
        memory.mask(["d3"])
        memory.remove(["d4"])
        memory.add([Document("added by hand", id="hand")])
        assert memory.verify().problems == ()
        assert memory.compact().trees_rebuilt == 1
        assert memory.verify().problems == ()
        assert memory.compact().trees_rebuilt == 0


def test_build_equals_add(tmp_path, clean):
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        for document in DOCUMENTS:
            memory.add([document])
        assert contents(memory) == contents(clean)
        for mode in ("exact", "flat"):
            assert results(memory, mode) == results(clean, mode)


def test_a_killed_writer_leaves_all_or_nothing(tmp_path):
    """Between commit and the end of `remove`: the document is gone, its traces go with the next remove."""
    code = """
import os, signal, sys
from mllm_plugin import Document, MemoryIndex
from tests.helpers.toy import ToyEncoder
memory = MemoryIndex.open(sys.argv[1], encoder=ToyEncoder())
memory.add([Document("a canarybird in a cage", id="bird"), Document("another animal", id="other")])
memory._handle.erase = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
memory.remove(["bird"])
"""
    folder = tmp_path / "memory"
    finish(start_python(code, folder), expected=-signal.SIGKILL)
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        assert_sound(memory, ["other"])
        report = memory.remove(["bird"])
        assert report.missing == ("bird",)
        held = [
            path.name for path in folder.rglob("*") if path.is_file() and b"canarybird" in path.read_bytes()
        ]
        assert report.erased is (held == [])


def test_an_error_in_the_stream_keeps_the_batches_before(tmp_path):
    def stream():
        yield from DOCUMENTS[:25]
        raise KeyError("the source broke")

    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        with pytest.raises(KeyError, match="the source broke"):
            IndexBuilder(memory, batch_size=10, progress=False).build(stream())
        assert_sound(memory, [document.id for document in DOCUMENTS[:20]])


def test_a_bad_document_in_the_stream_keeps_the_batches_before(tmp_path):
    documents = [*DOCUMENTS[:25], Document(" ", id="blank"), *DOCUMENTS[25:40]]
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        with pytest.raises(InvalidDocumentError, match="'blank'"):
            IndexBuilder(memory, batch_size=10, progress=False).build(documents)
        assert_sound(memory, [document.id for document in DOCUMENTS[:20]])
