"""Whatever a file holds: an answer or an error of ours, within a bounded time.

`make soak` tries a hundred times as many ($MLLM_TRIES). Weights are in tests/hierarchy, links in tests/store.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mllm_plugin import FilterError, InvalidDocumentError, MemoryIndex, MLLMError, repair
from mllm_plugin.readers import SourceFile, read_file
from mllm_plugin.readers.kinds import READER_VERSIONS
from mllm_plugin.store.database import FILE_NAME
from mllm_plugin.store.schema import PAGE_SIZE
from mllm_plugin.text.chunking import split_text
from mllm_plugin.transfer.jsonl import read_jsonl
from tests.helpers.fault_tools import SOAK
from tests.helpers.hostile_tools import sealed, within
from tests.helpers.robustness_tools import KEPT, SMALL_GROUPS, some_documents, unharmed
from tests.helpers.small_files import small_docx, small_pdf
from tests.helpers.toy import ToyEncoder

TIMES = int(os.environ.get("MLLM_TRIES", 100 if SOAK else 1))


def tries(count: int) -> settings:
    """So many examples, in a long run `TIMES` as many."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count * TIMES, deadline=None, suppress_health_check=checks, database=None)


LETTERS = st.characters() | st.sampled_from("\u200d\u0301\u0e31\x1c\x85\u2028.!?。\n \t")
TEXTS = st.text(LETTERS, max_size=400) | st.builds(
    str.__mul__, st.text(LETTERS, max_size=4), st.integers(0, 300)
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
OPERATORS = "$eq $ne $gt $gte $lt $lte $in $nin $and $or $not $exists $regex number even a.b".split()  # noqa: SIM905
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(OPERATORS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


@tries(150)
@given(text=TEXTS, limit=st.integers(1, 40))
def test_any_text_is_cut_and_no_letter_is_lost(text, limit):
    with within(20):
        spans = split_text(text, limit)
    assert all(0 <= span.start < span.end <= len(text) for span in spans)
    assert all(left.end <= right.start for left, right in pairwise(spans))
    kept = "".join(text[span.start : span.end] for span in spans)
    assert [one for one in kept if one.isalnum()] == [one for one in text if one.isalnum()]


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "memory"
    with MemoryIndex.open(folder, encoder=ToyEncoder(), config=SMALL_GROUPS) as memory:
        memory.add([*KEPT, *some_documents(40)])
        yield memory


@tries(100)
@given(condition=VALUES)
def test_any_filter_is_answered_or_refused(memory, condition):
    with within(20), suppress(FilterError):
        hits = memory.search("d7 fox", k=50, mode="exact", filter=condition)
        found = {hit.document_id for hit in hits}
        assert found == {one.id for one in memory.documents(filter=condition)}


KINDS = tuple(READER_VERSIONS)


@pytest.fixture(scope="module")
def samples() -> dict[str, bytes]:
    """A small file of each kind that has a structure."""
    notebook = {"cells": [{"cell_type": "code", "source": ["a = 1"], "outputs": []}], "nbformat": 4}
    return {
        "pdf": small_pdf("hello"),
        "docx": small_docx(),
        "html": b"<html><meta charset=utf-8><body><p>hello<table><tr><td>1</table></body></html>",
        "notebook": json.dumps(notebook).encode(),
    }


@tries(120)
@given(
    kind=st.sampled_from(KINDS),
    noise=st.binary(max_size=300),
    seed=st.integers(0, 1 << 30),
    raw=st.booleans(),
)
def test_any_file_is_read_or_refused(samples, kind, noise, seed, raw):
    data = noise if raw or kind not in samples else damaged_bytes(samples[kind], noise, random.Random(seed))
    with tempfile.TemporaryDirectory() as folder, within(60):
        path = Path(folder) / "file"
        path.write_bytes(data)
        with suppress(InvalidDocumentError):
            assert read_file(SourceFile(path.parent, path, kind)).text.strip()


def damaged_bytes(data: bytes, noise: bytes, draw: random.Random) -> bytes:
    """A file with some bytes replaced, inserted or cut off."""
    changed = bytearray(data)
    for byte in noise[: draw.randrange(1, 12)]:
        changed[draw.randrange(len(changed))] = byte
    at = draw.randrange(len(changed))
    match draw.randrange(4):
        case 0:
            changed[at:at] = noise
        case 1:
            del changed[at:]
    return bytes(changed)


RECORDS = st.fixed_dictionaries(
    {},
    optional={
        "id": VALUES | st.text(min_size=1, max_size=4),
        "text": VALUES | st.text(min_size=1, max_size=9),
        "metadata": VALUES,
        "labels": VALUES,
        "masks": VALUES,
        "namespace": VALUES,
        "split": VALUES,
        "encoder": SCALARS | st.just("toy:16:1"),
        "embedding": VALUES | st.lists(st.floats() | st.integers(), min_size=16, max_size=16),
        "chunks": VALUES
        | st.lists(
            st.fixed_dictionaries(
                {"start": VALUES | st.just(0), "end": VALUES | st.integers(0, 9)},
                optional={
                    "embedding": VALUES | st.lists(st.floats(-2, 2), min_size=16, max_size=16),
                    "windows": VALUES | st.just("AACAPw" + "B" * 22 + "=="),
                },
            ),
            max_size=3,
        ),
    },
)


@tries(20)
@given(record=RECORDS | VALUES, noise=st.binary(max_size=40))
def test_any_line_is_imported_or_refused(record, noise):
    """What is refused leaves nothing behind; what is taken can be read, searched, exported and removed."""
    with tempfile.TemporaryDirectory() as folder, within(60):
        path = Path(folder) / "lines.jsonl"
        line = json.dumps(record).encode("utf-8", "surrogatepass")
        path.write_bytes(line + b"\n" + noise)
        with MemoryIndex.open(Path(folder) / "memory", encoder=ToyEncoder()) as memory:
            memory.add(KEPT)
            try:
                records = list(read_jsonl(path))
            except MLLMError:
                records = []
            try:
                memory.import_records(records)
            except MLLMError:
                with unharmed(memory):
                    memory.compact()
            assert memory.verify().problems == ()
            for one in list(memory.export(prefix=True)):
                memory.search(one["text"][:50], namespace=one["namespace"])
                memory.remove([one["id"]], namespace=one["namespace"])
            assert memory.stats().documents == 0


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    """A closed memory's file with all that a document can have."""
    folder = tmp_path_factory.mktemp("pages") / "memory"
    with MemoryIndex.open(folder, encoder=ToyEncoder(), config=SMALL_GROUPS) as memory:
        memory.add([*KEPT, *some_documents(120)])
        memory.add([KEPT[0]], namespace=("users", "anna"))
        memory.mask(["d3", "d4"], label="draft")
    return folder / FILE_NAME


def tampered(data: bytes, draw: random.Random) -> bytes:
    """Some bytes of one page are others, and its checksum holds; a cell's header and pointers more often."""
    at = draw.randrange(len(data) // PAGE_SIZE) * PAGE_SIZE
    page = bytearray(data[at : at + PAGE_SIZE])
    used = [place for place in range(PAGE_SIZE - 8) if page[place]]
    for _ in range(draw.choice((1, 1, 2, 8))):
        place = draw.choice(used or [0]) if draw.random() < 0.8 else draw.randrange(120)
        page[place] = draw.choice((0, 1, 127, 128, 255, page[place] ^ 1 << draw.randrange(8)))
    return data[:at] + sealed(bytes(page)) + data[at + PAGE_SIZE :]


def everything(folder: Path) -> None:
    """Calls that between them read and write every table; each may refuse, and none may surprise."""
    with suppress(MLLMError), MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        memory.verify()
        for call in (
            lambda: list(memory.documents(prefix=True)),
            lambda: list(memory.export(prefix=True)),
            memory.stats,
            *(
                lambda mode=mode: memory.search("d7 fox", k=9, mode=mode)
                for mode in ("beam", "flat", "exact")
            ),
            lambda: memory.search("fox", filter={"even": True}, exclude_labels=["sea"]),
            lambda: memory.search("fox", prefix=True),
            lambda: memory.recall("d7 fox", mode="exact"),
            lambda: memory.unmask(label="draft"),
            lambda: memory.add(some_documents(2, prefix="new")),
            lambda: memory.remove(["d5", "d6"]),
            lambda: memory.regroup(),
            lambda: memory.compact(),
        ):
            with suppress(MLLMError):
                call()


@tries(8)
@given(seed=st.integers(0, 1 << 40))
@example(seed=350693)  # windows of a scale that is no number
def test_any_bytes_in_sound_pages_are_answered_or_refused(pages, seed):
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "memory").mkdir()
        (folder / "memory" / FILE_NAME).write_bytes(tampered(pages.read_bytes(), random.Random(seed)))
        with within(120):
            with suppress(MLLMError):
                repair(folder / "memory", folder / "saved", encoder=ToyEncoder(), progress=False)
            everything(folder / "memory")
    finally:
        shutil.rmtree(folder)
