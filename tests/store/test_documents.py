from __future__ import annotations

from datetime import datetime, timedelta, timezone

from mllm_plugin import Document, MemoryIndex
from mllm_plugin.store.documents import stored_chunks, stored_documents, stored_masks
from tests.helpers.toy import ToyEncoder

DAY = 86_400_000_000  # microseconds


def test_documents_are_as_the_moment_has_them(tmp_path):
    tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        memory.add([Document("one word", id="a", expires_at=tomorrow), Document("two words", id="b")])
        memory.mask(["b"], label="draft")
        with memory.snapshot() as snapshot:
            row = snapshot.namespace(())
            rowids = snapshot.select(row).rowids[::-1]
            for days, masks in ((0, ()), (2, ("expired",))):
                found = stored_documents(snapshot._tx, row, rowids, snapshot.now + days * DAY)
                assert [(one.id, one.masks) for one in found] == [("b", ("draft",)), ("a", masks)]
            assert stored_masks(snapshot._tx, row) == {"a": set(), "b": {"draft"}}
            chunks = stored_chunks(snapshot._tx, row, rowids, "d.id = 'b'")
            assert [(one.document_id, one.text) for one in chunks] == [("b", "two words")]
