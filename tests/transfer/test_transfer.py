"""Export and import, backup, compaction: what goes out comes back in."""

from __future__ import annotations

import base64
import copy
import gzip
import json
import random
import shutil
import tracemalloc

import numpy as np
import pytest

from mllm_plugin import (
    Document,
    InvalidInputError,
    MemoryIndex,
    MLLMError,
)
from mllm_plugin.store.database import FILE_NAME
from mllm_plugin.transfer.jsonl import read_jsonl
from tests.helpers.robustness_tools import (
    KEPT,
    MODES,
    SMALL_GROUPS,
    answers,
    assert_sound,
    contents,
    some_documents,
    unharmed,
)
from tests.helpers.toy import ToyEncoder

QUERIES = ["lighthouse", "d7 w3", "long200 text", "password"]


@pytest.fixture
def target(tmp_path):
    with MemoryIndex.open(tmp_path / "target", encoder=ToyEncoder(), config=SMALL_GROUPS) as memory:
        yield memory


def through_json(records):
    return [json.loads(json.dumps(record)) for record in records]


def without_empty_windows(records):
    """A chunk without windows may have none or an empty string of them."""
    plain = through_json(records)
    for chunk in (chunk for record in plain for chunk in record["chunks"]):
        chunk["windows"] = chunk["windows"] or None
    return plain


def all_answers(memory: MemoryIndex) -> list:
    found = [answers(memory, QUERIES, mode=mode, k=8) for mode in ("flat", "exact")]
    below = memory.search_batch(QUERIES, namespace=("users",), prefix=True, mode="exact")
    found.append([[(hit.namespace, hit.document_id, hit.start, hit.score) for hit in hits] for hits in below])
    return found


def test_round_trip_with_vectors_needs_no_encoder(source, target):
    report = target.import_records(through_json(source.export()))
    assert (report.encoded, target.encoder.encoded) == (0, [])
    assert report.added == source.stats().documents
    assert contents(target) == contents(source)
    assert all_answers(target) == all_answers(source)
    assert target.verify().problems == ()
    assert target.stats().masked_documents == source.stats().masked_documents == 3
    assert [
        [hit.document_id for hit in target.search(query, mode="beam", beam_width=99)] for query in QUERIES
    ] == [[hit.document_id for hit in source.search(query, mode="beam", beam_width=99)] for query in QUERIES]


def test_a_second_import_changes_nothing(source, target):
    records = through_json(source.export())
    target.import_records(records)
    before = contents(target), all_answers(target)
    target.import_records(records)
    assert (contents(target), all_answers(target)) == before
    assert target.verify().problems == ()


def test_an_import_keeps_every_bit_of_the_vectors(source, target):
    records = through_json(source.export())
    target.import_records(records)
    assert without_empty_windows(target.export()) == without_empty_windows(records)


def test_round_trip_without_vectors(source, target):
    records = through_json(source.export(vectors=False))
    assert all("chunks" not in record for record in records)
    report = target.import_records(records)
    assert report.encoded == len(target.encoder.encoded) > 0
    assert contents(target) == contents(source)
    source.remove(["vector"])
    target.remove(["vector"])
    assert all_answers(target) == all_answers(source)
    assert target.verify().problems == ()


def test_vectors_of_another_encoder_are_not_used(source, tmp_path):
    other = ToyEncoder(32)
    with MemoryIndex.open(tmp_path / "other", encoder=other) as memory:
        report = memory.import_records(source.export())
        assert report.encoded == len(other.encoded) > 0
        assert {name: document.masks for name, document in contents(memory).items()} == {
            name: document.masks for name, document in contents(source).items()
        }
        assert memory.verify().problems == ()


def test_export_of_a_part(source, target):
    target.import_records(source.export(namespace="users"))
    assert set(target.namespaces()) == {("users", "anna"), ("users", "bob")}
    assert list(source.export(namespace=("users",), prefix=False)) == []
    assert {record["id"] for record in source.export(namespace=("users", "bob"))} == {"note"}


def test_import_into_a_memory_that_has_some(source, target):
    target.add([Document("an older fox", id="fox"), Document("stays", id="stays")])
    target.mask(["fox"], label="mine")
    target.import_records(source.export())
    assert target.get(["fox"])[0].text == KEPT[2].text
    assert target.get(["fox"])[0].masks == ("mine",)
    assert target.get(["stays"])[0].text == "stays"
    assert target.verify().problems == ()


def test_export_sees_one_snapshot(source):
    records = source.export(vectors=False)
    first = next(records)
    source.add([Document("added during the export", id="new")])
    source.remove(["fox"], wait=0)
    names = {first["id"], *(record["id"] for record in records)}
    assert "fox" in names
    assert "new" not in names


GOOD = {
    "id": "imported",
    "text": "hello there",
    "encoder": "toy:16:1",
    "chunks": [{"start": 0, "end": 11, "embedding": [1.0] * 16, "windows": None}],
}
BAD_RECORDS = {
    "none": None,
    "str": "record",
    "int": 5,
    "empty": {},
    "no-text": {"id": "a"},
    "no-id": {"text": "a"},
    "id-int": {**GOOD, "id": 5},
    "text-none": {**GOOD, "text": None},
    "text-blank": {**GOOD, "text": " "},
    "metadata-int": {**GOOD, "metadata": 5},
    "metadata-none": {**GOOD, "metadata": [1]},
    "labels-str": {**GOOD, "labels": "draft"},
    "labels-int": {**GOOD, "labels": 5},
    "label-int": {**GOOD, "labels": [5]},
    "masks-str": {**GOOD, "masks": "draft"},
    "masks-int": {**GOOD, "masks": 5},
    "mask-int": {**GOOD, "masks": [5]},
    "mask-surrogate": {**GOOD, "masks": ["\ud800"]},
    "namespace-int": {**GOOD, "namespace": 5},
    "namespace-none": {**GOOD, "namespace": [None]},
    "namespace-empty-part": {**GOOD, "namespace": [""]},
    "chunks-int": {**GOOD, "chunks": 5},
    "chunks-str": {**GOOD, "chunks": "ab"},
    "chunks-of-int": {**GOOD, "chunks": [5]},
    "chunk-empty": {**GOOD, "chunks": [{}]},
}
BAD_CHUNKS = {
    "start-str": {"start": "x"},
    "start-none": {"start": None},
    "start-negative": {"start": -1},
    "end-beyond": {"end": 99},
    "end-before-start": {"start": 5, "end": 5},
    "vector-narrow": {"embedding": [1.0] * 3},
    "vector-none": {"embedding": None},
    "vector-nan": {"embedding": [float("nan")] * 16},
    "vector-text": {"embedding": "abc"},
    "windows-no-base64": {"windows": "!!!"},
    "windows-int": {"windows": 5},
    "windows-short": {"windows": "AAAA"},
    "windows-no-numbers": {"windows": "AADAfw" + "A" * 20 + "=="},
}
ALL_BAD = BAD_RECORDS | {
    f"chunk-{name}": {**GOOD, "chunks": [GOOD["chunks"][0] | change]} for name, change in BAD_CHUNKS.items()
}


def test_more_windows_than_a_text_has_tokens_are_refused(stocked):
    """Each takes memory and a comparison in every search."""
    row = np.float32(1).tobytes() + bytes(16)
    fits, many = (base64.b64encode(row * count).decode() for count in (4 * 11, 2_500_000))
    with (
        unharmed(stocked),
        pytest.raises(InvalidInputError, match=r"11 characters cannot have 2,500,000 windows"),
    ):
        stocked.import_records([{**GOOD, "chunks": [GOOD["chunks"][0] | {"windows": many}]}])
    assert stocked.import_records([{**GOOD, "chunks": [GOOD["chunks"][0] | {"windows": fits}]}]).added == 1


@pytest.mark.parametrize("name", ["long.jsonl", "long.jsonl.gz"])
def test_a_line_that_is_too_long_is_not_read_whole(tmp_path, name):
    path = tmp_path / name
    with (gzip.open if name.endswith("gz") else open)(path, "wb") as file:
        file.write(b'{"id": "a", "text": "t"}\n')
        for _ in range(64):
            file.write(b" " * (1 << 20))
    records = read_jsonl(path, longest=1 << 16)
    assert next(records).id == "a"
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError, match=r"line 2: longer than 65,536 bytes"):
            next(records)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("record", ALL_BAD.values(), ids=ALL_BAD)
def test_a_bad_record_poisons_nothing(stocked, record):
    with unharmed(stocked):
        with pytest.raises(MLLMError):
            stocked.import_records([copy.deepcopy(record)])
        assert len(stocked.search("hello", k=9, mode="exact")) == 3


def test_chunks_that_overlap_are_refused(stocked):
    with unharmed(stocked), pytest.raises(InvalidInputError, match="chunk"):
        stocked.import_records([{**GOOD, "chunks": GOOD["chunks"] * 2}])


@pytest.mark.parametrize("records", [None, 5, "abc", GOOD], ids=["none", "int", "str", "one-record"])
def test_records_of_a_wrong_type(stocked, records):
    with unharmed(stocked), pytest.raises(MLLMError):
        stocked.import_records(records)


def test_the_same_id_twice_in_records(stocked):
    with unharmed(stocked), pytest.raises(MLLMError, match="twice"):
        stocked.import_records([GOOD, GOOD])


def test_a_string_is_a_one_part_namespace_in_records_too(target):
    target.import_records([{"id": "a", "text": "b", "namespace": "anna"}])
    assert target.namespaces() == [("anna",)]


def test_nothing_to_import_or_export(target):
    assert target.import_records([]).ids == ()
    assert list(target.export()) == []
    assert list(target.export(namespace="nowhere")) == []


def restored(backup, folder) -> MemoryIndex:
    folder.mkdir()
    shutil.copy(backup, folder / FILE_NAME)
    return MemoryIndex.open(folder, encoder=ToyEncoder())


def test_a_backup_opens_and_verifies(source, tmp_path):
    source.backup(tmp_path / "backup.db")
    with restored(tmp_path / "backup.db", tmp_path / "restored") as memory:
        assert memory.verify().problems == ()
        assert contents(memory) == contents(source)
        assert all_answers(memory) == all_answers(source)
        memory.add([Document("after the restore", id="new")])
        assert memory.remove(["new"]).erased
        assert memory.verify().problems == ()


def test_a_backup_is_one_file_and_checks_its_pages(source, tmp_path):
    folder = tmp_path / "backups"
    folder.mkdir()
    source.backup(folder / "backup.db")
    assert [path.name for path in folder.iterdir()] == ["backup.db"]
    data = bytearray((folder / "backup.db").read_bytes())
    data[len(data) // 2] ^= 4
    (folder / "backup.db").write_bytes(data)
    with restored(folder / "backup.db", tmp_path / "restored") as memory:
        assert any("is damaged" in problem for problem in memory.verify().problems)


def test_a_backup_while_another_writes(source, tmp_path):
    with MemoryIndex.open(source.path, encoder=ToyEncoder()) as writer, writer._database.write() as tx:
        tx.execute("DELETE FROM documents WHERE id = 'fox'")
        source.backup(tmp_path / "backup.db")
        tx.execute("ROLLBACK")
        tx.execute("BEGIN IMMEDIATE")
    with restored(tmp_path / "backup.db", tmp_path / "restored") as memory:
        assert memory.verify().problems == ()
        assert contents(memory) == contents(source)


def test_a_backup_does_not_hold_what_was_removed(source, tmp_path):
    source.remove(["fox"])
    source.remove(["fox"], namespace=("users", "anna"))
    source.backup(tmp_path / "backup.db")
    assert b"frozen river" not in (tmp_path / "backup.db").read_bytes()


def test_a_backup_never_overwrites(source, tmp_path):
    (tmp_path / "precious").write_text("keep me")
    with pytest.raises(InvalidInputError, match="never overwrites"):
        source.backup(tmp_path / "precious")
    with pytest.raises(InvalidInputError, match="never overwrites"):
        source.backup(tmp_path)
    assert (tmp_path / "precious").read_text() == "keep me"


@pytest.mark.parametrize("path", [5, None, "nul\x00byte"], ids=ascii)
def test_a_backup_needs_a_path(source, path):
    with pytest.raises(MLLMError):
        source.backup(path)


def test_a_backup_into_a_missing_folder_names_it(source, tmp_path):
    with pytest.raises(MLLMError, match="nowhere"):
        source.backup(tmp_path / "nowhere" / "backup.db")


def test_compact_shrinks_the_file_after_a_large_removal(target):
    target.add([*KEPT, *some_documents(200, words=900)])
    target.compact()
    full = (target.path / FILE_NAME).stat().st_size
    target.remove(filter={"number": {"$gte": 20}})
    report = target.compact()
    assert report.bytes_after < report.bytes_before
    assert (target.path / FILE_NAME).stat().st_size < full / 3
    assert_sound(target, [document.id for document in [*KEPT, *some_documents(20)]])
    assert all(target.search("d7", k=1, mode=mode)[0].document_id == "d7" for mode in MODES)
    assert target.compact().bytes_after == report.bytes_after


def test_compact_of_an_emptied_memory(target):
    target.add(some_documents(200))
    target.remove(filter={})
    target.compact()
    assert target.stats().documents == 0
    assert (target.path / FILE_NAME).stat().st_size < 60 * 16384
    target.add(KEPT)
    assert_sound(target, [document.id for document in KEPT])


def test_compact_changes_no_answer(source):
    generator = random.Random(4)
    for _ in range(5):
        source.remove([f"d{generator.randrange(60)}" for _ in range(5)])
        source.add(some_documents(3, prefix=f"n{generator.random()}-"))
    before = contents(source), all_answers(source)
    for regroup in (False, True):
        source.compact(regroup=regroup)
        assert (contents(source), all_answers(source)) == before
        assert source.verify().problems == ()
