"""Times of documents: what is kept, what is refused, and that all of it survives."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone

import pytest

from mllm_plugin import (
    Document,
    IndexBuilder,
    InvalidDocumentError,
    InvalidTypeError,
    MemoryIndex,
    reembed,
    repair,
)
from tests.helpers.clock_tools import SECOND, START, cats, found_in
from tests.helpers.toy import ToyEncoder


@pytest.fixture
def memory(timed_memory) -> MemoryIndex:
    return timed_memory


def test_moments_are_kept_and_come_back_in_utc(memory, hands):
    zone = timezone(timedelta(hours=2))
    document = Document("cat", id="c", valid_from=date(2020, 5, 1), valid_to="2021-05-01T00:00:00Z")
    memory.add([document])
    first = memory.get("c")[0]
    assert (first.created_at, first.updated_at) == (START, START)
    assert first.valid_from == datetime(2020, 5, 1, tzinfo=timezone.utc)
    assert first.valid_to == datetime(2021, 5, 1, tzinfo=timezone.utc)
    hands.moment += SECOND
    assert memory.add([document]).unchanged == 1
    assert memory.get("c")[0].version == first.version
    memory.add([Document("cat anew", id="c", expires_at=datetime(2027, 1, 1, 2, tzinfo=zone))])
    again = memory.get("c")[0]
    assert (again.created_at, again.updated_at) == (START, START + SECOND)
    assert again.expires_at == datetime(2027, 1, 1, tzinfo=timezone.utc)
    assert (again.valid_from, again.valid_to) == (None, None)
    assert again.version > first.version
    (hit,) = memory.search("cat")
    assert (hit.created_at, hit.expires_at, hit.version) == (START, again.expires_at, again.version)


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"expires_at": datetime(2026, 1, 1)}, InvalidDocumentError, "has no time zone"),
        ({"expires_at": 5}, InvalidTypeError, "datetime, a date or ISO 8601"),
        ({"valid_from": "tomorrow"}, InvalidDocumentError, "not ISO 8601"),
        ({"valid_to": "2024-05-01T12:00:00"}, InvalidDocumentError, "not ISO 8601 with a time zone"),
        ({"valid_from": "2024-05-02", "valid_to": "2024-05-01"}, InvalidDocumentError, "before valid_from"),
        ({"metadata": {"at": datetime(2026, 1, 1)}}, InvalidDocumentError, "has no time zone"),
    ],
)
def test_what_is_no_moment_is_refused(memory, fields, error, words):
    with pytest.raises(error, match=words):
        memory.add([Document("cat", id="c", **fields)])
    assert memory.count() == 0


def test_everything_survives_export_backup_reembedding_and_repair(memory, hands, tmp_path):
    memory.add(cats(3, expires_at=START + 5 * SECOND, valid_from="2020-01-01"), namespace="a")
    hands.moment += SECOND
    memory.update("c1", metadata={"n": 1}, namespace="a")
    hands.moment = START + 5 * SECOND
    assert found_in(memory, namespace="a") == set()
    memory.update("c2", expires_at=None, namespace="a")
    expected = [one.to_dict() for one in memory.documents(prefix=True)]
    records = list(memory.export())
    memory.backup(tmp_path / "backup.db")
    reembed(memory, tmp_path / "reembedded", ToyEncoder(32), progress=False)
    with MemoryIndex.open(tmp_path / "imported", encoder=ToyEncoder()) as other:
        other.import_records(records)
    (tmp_path / "restored").mkdir()
    (tmp_path / "restored" / "memory.db").write_bytes((tmp_path / "backup.db").read_bytes())
    repair(tmp_path / "restored", tmp_path / "repaired", encoder=ToyEncoder(), progress=False)
    for name, dim in (("imported", 16), ("restored", 16), ("reembedded", 32), ("repaired", 16)):
        encoder = ToyEncoder(dim) if dim == 32 else ToyEncoder()
        with MemoryIndex.open(tmp_path / name, encoder=encoder) as other:
            assert found_in(other, namespace="a") == {"c2"}, name
            assert [one.to_dict() for one in other.documents(prefix=True)] == expected, name
            assert other.verify().problems == (), name


def test_a_bulk_build_keeps_the_same_times(tmp_path, hands):
    documents = [
        Document(f"cat {n}", id=f"c{n}", expires_at=START + n * SECOND, valid_from=START)
        for n in range(1, 40)
    ]
    with MemoryIndex.open(tmp_path / "one", encoder=ToyEncoder()) as one:
        for document in documents:
            one.add([document])
        with MemoryIndex.open(tmp_path / "bulk", encoder=ToyEncoder()) as bulk:
            IndexBuilder(bulk, progress=False, batch_size=10).build(documents)
            hands.moment = START + 20 * SECOND
            assert list(one.documents()) == list(bulk.documents())
            scores = [
                [(hit.document_id, hit.score) for hit in each.search("cat 30", k=30, exact=True)]
                for each in (one, bulk)
            ]
            assert scores[0] == scores[1]
            assert len(scores[0]) == 19
