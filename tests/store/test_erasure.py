"""`erased=True` is a promise: no file below the memory's folder holds anything of what was removed."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest

from mllm_plugin import Document, IndexBuilder, MemoryConfig, MemoryIndex
from mllm_plugin.store.cache import EmbeddingCache, hash_text
from mllm_plugin.text.lexical import term_hash
from tests.helpers.robustness_tools import (
    KEPT,
    CheapEncoder,
    assert_sound,
    files_holding,
    finish,
    rows,
    some_documents,
    start_python,
)
from tests.helpers.toy import ToyEncoder

WORD = "zyxwcanary"
SECRET = Document(
    f"the {WORD} sings where nobody should ever have written it down. "
    + " ".join(f"also{n}" for n in range(200)),
    id="canaryidentifier",
    metadata={"canarykey": "canaryvalue", "deep": [{"canarydeep": 1}]},
    labels=("canarylabel",),
)
SHOWN = 12


def traces(memory: MemoryIndex, document_id: str = SECRET.id, namespace: str = "") -> dict[str, bytes]:
    """Byte strings that only this document brought into the files."""
    found = {
        "text": SECRET.text[:40].encode(),
        "word": WORD.encode(),
        "end of text": SECRET.text[-20:].encode(),
        "id": SECRET.id.encode(),
        "metadata key": b"canarykey",
        "metadata value": b"canaryvalue",
        "nested metadata key": b"canarydeep",
        "label": b"canarylabel",
    }
    chunks = rows(
        memory,
        "SELECT c.chunk_id, c.node_id, c.text_hash, w.data "
        "FROM chunks c LEFT JOIN windows w USING (chunk_id) "
        "JOIN documents d USING (document_rowid) WHERE d.id = ?",
        (document_id,),
    )
    assert len(chunks) > 1
    for chunk_id, node_id, text_hash, windows in chunks:
        ((ids, vectors),) = rows(memory, "SELECT ids, vectors FROM blocks WHERE node_id = ?", (node_id,))
        row = np.frombuffer(ids, "<i8").tolist().index(chunk_id)
        found[f"vector {chunk_id}"] = vectors[row * 2 * memory.dim : (row + 1) * 2 * memory.dim]
        found[f"windows {chunk_id}"] = windows[4 * (len(windows) // (4 + memory.dim)) :]
        found[f"text hash {chunk_id}"] = text_hash
        found[f"cache key {chunk_id}"] = text_hash.hex().encode()
    return found


def assert_no_rows(memory: MemoryIndex) -> None:
    """The only rows left are those of other documents; the secret's words have no row at all."""
    for table in ("terms", "postings"):
        assert rows(memory, f"SELECT count(*) FROM {table} WHERE term = ?", (term_hash(WORD),)) == [(0,)]
    for table, columns in {"windows": "chunk_id", "postings": "chunk_id", "second_homes": "chunk_id"}.items():
        assert not rows(memory, f"SELECT 1 FROM {table} WHERE {columns} NOT IN (SELECT chunk_id FROM chunks)")
    for table in ("labels", "masks", "metadata", "chunks"):
        known = "(SELECT document_rowid FROM documents)"
        assert not rows(memory, f"SELECT 1 FROM {table} WHERE document_rowid NOT IN {known}")


@pytest.fixture
def memory(tmp_path):
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as opened:
        opened.add([*KEPT, *some_documents(40)])
        yield opened


HOW = {
    "id": lambda memory: memory.remove([SECRET.id]),
    "label": lambda memory: memory.remove(label="canarylabel"),
    "filter": lambda memory: memory.remove(filter={"canarykey": "canaryvalue"}),
    "masked": lambda memory: (memory.mask([SECRET.id], label="canarylabel"), memory.remove([SECRET.id]))[1],
    "with-others": lambda memory: memory.remove(["d3", SECRET.id, "d4"]),
    "everything": lambda memory: memory.remove(filter={}),
}


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_nothing_is_left(memory, how):
    memory.add([SECRET])
    needles = traces(memory)
    present = files_holding(memory.path, needles)
    assert {line.split(" in ")[0] for line in present} >= {"text", "id", "label", "metadata value"}
    report = how(memory)
    assert (report.erased, report.reason) == (True, "")
    assert files_holding(memory.path, needles) == []
    assert_no_rows(memory)
    assert memory.verify().problems == ()
    memory.close()
    assert files_holding(memory.path, needles) == []


@pytest.mark.parametrize("level0", [True, False], ids=["windows", "no-windows"])
@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_left_of_many(tmp_path, seed, level0):
    """Rows move between pages as a file grows; a moved row must not survive where it once lay."""
    generator = random.Random(seed)
    names = [f"{generator.getrandbits(64):016x}" for _ in range(500)]
    documents = [
        Document(
            f"canarytext{name} " + "word " * generator.randrange(1, 400),
            id=f"canaryid{name}",
            metadata={f"canarykey{name}": f"canaryvalue{name}"},
            labels=(f"canarylabel{name}",),
        )
        for name in names
    ]
    folder = tmp_path / "memory"
    encoder = ToyEncoder(4) if level0 else CheapEncoder(4)
    with MemoryIndex.open(folder, encoder=encoder, config=MemoryConfig(level0=level0)) as memory:
        for start in range(0, len(documents), 50):
            memory.add(documents[start : start + 50], split=False)
        generator.shuffle(names)
        gone = names[:420]
        reports = [
            memory.remove([f"canaryid{name}" for name in names[start : start + 70]])
            for start in range(0, 420, 70)
        ]
        assert all(report.erased for report in reports)
        found, kept = remains(folder), {name[:SHOWN] for name in names[420:]}
        assert found >= kept
        assert not found - kept, f"{len(found - kept)} of {len(gone)} removed documents have left something"
        assert memory.verify().problems == ()


def remains(folder: Path) -> set[str]:
    """The first digits of every name that some file holds; the last ones may be overwritten."""
    pattern = re.compile(rb"canary(?:text|id|key|value|label)([0-9a-f]{%d})" % SHOWN)
    files = (path for path in folder.rglob("*") if path.is_file())
    return {name.decode() for path in files for name in pattern.findall(path.read_bytes())}


@pytest.mark.parametrize("again", ["remove", "compact"])
def test_an_update_erases_the_old_text(memory, again):
    memory.add([SECRET])
    needles = {name: needle for name, needle in traces(memory).items() if name not in {"id"}}
    memory.add([Document("nothing to see here", id=SECRET.id)])
    if again == "remove":
        assert memory.remove(["d5"]).erased
    else:
        memory.compact()
    assert files_holding(memory.path, needles) == []
    assert_no_rows(memory)


def test_new_metadata_erases_the_old(memory):
    memory.add([SECRET])
    memory.add([Document(SECRET.text, id=SECRET.id)])
    memory.compact()
    names = {"key": b"canarykey", "value": b"canaryvalue", "label": b"canarylabel"}
    assert files_holding(memory.path, names) == []


def test_an_unmasked_label_is_erased(memory):
    memory.mask(["fox"], label="canarylabel")
    memory.unmask(label="canarylabel")
    memory.compact()
    assert files_holding(memory.path, {"label": b"canarylabel"}) == []


def test_the_same_text_of_another_document_stays(memory):
    memory.add([SECRET, Document(SECRET.text, id="twin")])
    assert memory.remove([SECRET.id]).erased
    assert files_holding(memory.path, {"id": b"canaryidentifier", "value": b"canaryvalue"}) == []
    assert memory.search(WORD, k=1)[0].document_id == "twin"
    assert memory.remove(["twin"]).erased
    assert files_holding(memory.path, {"word": WORD.encode()}) == []


def test_the_same_text_of_another_namespace_stays(memory):
    memory.add([SECRET])
    memory.add([SECRET], namespace="other")
    assert memory.remove([SECRET.id]).erased
    assert memory.search(WORD, k=1, namespace="other")[0].document_id == SECRET.id
    assert memory.remove([SECRET.id], namespace="other").erased
    assert files_holding(memory.path, {"word": WORD.encode(), "namespace": b"other\x1f"}) == []


HOLDER = """
import sys
from mllm_plugin import MemoryIndex
from tests.helpers.toy import ToyEncoder
with MemoryIndex.open(sys.argv[1], encoder=ToyEncoder()) as memory, memory.snapshot() as snapshot:
    print(len(snapshot.masks(snapshot.namespace(()))), flush=True)
    sys.stdin.readline()
"""


def test_a_reader_in_another_process_delays_erasure(memory):
    memory.add([SECRET])
    needles = traces(memory)
    holder = start_python(HOLDER, memory.path)
    assert holder.stdout.readline() == "44\n"
    report = memory.remove([SECRET.id], wait=0.2)
    assert (report.documents, report.erased) == (1, False)
    assert "compact()" in report.reason
    assert files_holding(memory.path, needles) != []
    assert memory.search(WORD, mode="exact")[0].document_id != SECRET.id
    again = memory.remove([SECRET.id], wait=0.2)
    assert (again.missing, again.erased) == ((SECRET.id,), False)
    holder.stdin.write("\n")
    finish(holder)
    memory.compact()
    assert files_holding(memory.path, needles) == []


def test_an_unfinished_export_delays_erasure(memory):
    memory.add([SECRET])
    needles = traces(memory)
    records = memory.export()
    next(records)
    report = memory.remove([SECRET.id], wait=0.1)
    assert (report.erased, "compact()" in report.reason) == (False, True)
    records.close()
    assert memory.remove(["d1"]).erased
    assert files_holding(memory.path, needles) == []


@pytest.mark.parametrize("namespace", ["gone", "never"])
def test_a_promise_is_not_given_for_a_namespace_that_is_not_there(tmp_path, namespace):
    """A namespace goes with its last document; a second remove must not call erased what a reader holds."""
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        memory.add(KEPT)
        memory.add([SECRET], namespace="gone")
        records = memory.export()
        next(records)
        assert not memory.remove([SECRET.id], namespace="gone", wait=0.1).erased
        again = memory.remove([SECRET.id], namespace=namespace, wait=0.1)
        held = files_holding(memory.path, {"word": WORD.encode()})
        assert held
        assert again.erased is False
        records.close()
        assert memory.remove([SECRET.id], namespace=namespace).erased
        assert files_holding(memory.path, {"word": WORD.encode()}) == []


def test_a_listing_does_not_delay_erasure(memory):
    memory.add([SECRET])
    listing = memory.documents()
    next(listing)
    assert memory.remove([SECRET.id], wait=0.1).erased
    assert len(list(listing)) >= 42


def test_another_process_that_only_waits_does_not_delay_erasure(memory):
    memory.add([SECRET])
    needles = traces(memory)
    code = HOLDER.replace(", memory.snapshot() as snapshot", "").replace(
        "len(snapshot.masks(snapshot.namespace(())))", "len(memory.search('fox', k=99))"
    )
    idle = start_python(code, memory.path)
    assert int(idle.stdout.readline()) >= 44
    assert memory.remove([SECRET.id], wait=2).erased
    assert files_holding(memory.path, needles) == []
    idle.stdin.write("\n")
    finish(idle)


def interrupted(memory: MemoryIndex, document: Document, **options) -> None:
    """Leaves embeddings of the document in the cache, as a build does that is killed before its write."""
    with memory.snapshot():
        memory._handle.ingest.prepare([document], (), options.get("split", True))


def cached(memory: MemoryIndex) -> int:
    cache = EmbeddingCache(memory.path, memory.encoder.fingerprint, memory.dim)
    try:
        return len(cache._cache())
    finally:
        cache.close()


def test_an_interrupted_build_leaves_nothing_after_add_and_remove(memory):
    interrupted(memory, SECRET)
    assert cached(memory) > 1
    seen = len(memory.encoder.encoded)
    memory.add([SECRET])
    assert len(memory.encoder.encoded) == seen
    assert cached(memory) == 0
    needles = traces(memory)
    assert memory.remove([SECRET.id]).erased
    assert files_holding(memory.path, needles) == []


def test_remove_purges_the_cache_even_if_add_did_not(memory):
    """A process may die between its write and the purge."""
    memory.add([SECRET])
    needles = traces(memory)
    vectors = [needle for name, needle in needles.items() if name.startswith("vector")]
    hashes = [
        text_hash
        for (text_hash,) in rows(memory, "SELECT text_hash FROM chunks ORDER BY chunk_id DESC LIMIT 2")
    ]
    memory._handle.cache.put(
        [(text_hash, np.frombuffer(v, "<f2"), b"") for text_hash, v in zip(hashes, vectors, strict=False)]
    )
    assert cached(memory) == 2
    assert memory.remove([SECRET.id]).erased
    assert cached(memory) == 0
    assert files_holding(memory.path, needles) == []


def test_remove_purges_the_cache_of_a_document_added_with_its_vector(memory):
    """First an interrupted build, then the same text with a vector from the caller, then its removal."""
    short = Document(f"{WORD} in one chunk", id="short")
    interrupted(memory, short)
    vector = memory.encoder.encode_documents([short.text])[0][0].astype("<f2").tobytes()
    assert files_holding(memory.path, {"vector": vector})
    memory.add([short], embeddings=[np.ones(16)])
    assert memory.remove(["short"]).erased
    assert (
        files_holding(memory.path, {"vector": vector, "key": hash_text((), short.text).hex().encode()}) == []
    )


def test_remove_purges_the_cache_of_a_build_that_cut_otherwise(memory):
    """First an interrupted build that splits, then the same text whole, then its removal."""
    interrupted(memory, SECRET)
    memory.add([SECRET], split=False)
    assert memory.remove([SECRET.id]).erased
    assert cached(memory) == 0


def test_pickled_entries_are_never_read(memory):
    import diskcache

    memory.close()
    with diskcache.Cache(str(memory.path / "cache"), eviction_policy="none") as plain:
        for document in [*KEPT, SECRET]:
            plain.set(f"{hash_text((), document.text).hex()}:{memory.encoder.fingerprint}", {"an": "object"})
    with MemoryIndex.open(memory.path, encoder=ToyEncoder()) as reopened:
        assert reopened.add([SECRET]).added == 1
        assert reopened.verify().problems == ()


def test_a_build_leaves_an_empty_cache(tmp_path):
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        IndexBuilder(memory, batch_size=7, progress=False).build([*some_documents(30), SECRET])
        assert cached(memory) == 0
        needles = traces(memory)
        assert memory.remove([SECRET.id]).erased
        assert files_holding(memory.path, needles) == []
        assert_sound(memory, [document.id for document in some_documents(30)])
