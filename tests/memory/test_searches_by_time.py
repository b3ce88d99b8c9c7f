"""What held then, what is newer, and the text around a hit."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from mllm_plugin import (
    Document,
    InvalidInputError,
    InvalidTypeError,
    MemoryIndex,
    Recency,
)
from tests.helpers.clock_tools import START, cats, found_in, ids


@pytest.fixture
def memory(timed_memory) -> MemoryIndex:
    return timed_memory


@pytest.fixture
def moved(memory, hands):
    """Ann moved from Oslo to Rome in 2023."""
    memory.add(
        [
            Document("cat lives in Oslo", id="old", valid_from="2020-01-01", valid_to="2023-01-01"),
            Document("cat lives in Rome", id="new", valid_from="2023-01-01"),
            Document("cat is a friend", id="friend"),
        ]
    )
    memory.mask("old", label="superseded")
    return memory


@pytest.mark.parametrize("options", [{}, {"exact": True}, {"mode": "flat"}], ids=str)
def test_what_held_then(moved, options):
    assert found_in(moved, **options) == {"new", "friend"}
    assert found_in(moved, as_of="2021-06-01", **options) == {"old"}
    assert found_in(moved, as_of=datetime(2023, 1, 1, tzinfo=timezone.utc), **options) == {"new"}
    assert found_in(moved, as_of=START, **options) == {"new", "friend"}
    assert found_in(moved, since="2023-01-01", **options) == {"new", "friend"}
    assert found_in(moved, since=START, **options) == {"friend"}
    assert found_in(moved, include_masked=["superseded"], **options) == {"old", "new", "friend"}
    moved.mask("old", label="draft")
    assert found_in(moved, include_masked=["superseded"], **options) == {"new", "friend"}


def test_masks_are_looked_through_after_edits_too(moved):
    """Blocks that changed leave stale rows in the image; none of them comes back."""
    moved.search("cat", include_masked=["superseded"])
    for _ in range(3):
        moved.update("new", text="cat lives in Rome, still")
        moved.add([Document("cat comes", id="extra")])
        hits = moved.search("cat", k=9, include_masked=["superseded"])
        assert sorted(hit.document_id for hit in hits) == ["extra", "friend", "new", "old"]
        moved.remove("extra")
    moved.mask(filter={}, label="superseded")
    assert found_in(moved) == set()
    assert found_in(moved, include_masked=["superseded"]) == {"old", "new", "friend"}
    with pytest.raises(InvalidInputError, match="walk"):
        moved.search("cat", mode="beam", include_masked=["superseded"])


@pytest.mark.parametrize("mode", ["beam", "flat", "exact"])
def test_recency_is_evidence(memory, hands, mode):
    day = timedelta(days=1)
    memory.add([Document("cat sleeps", id=f"d{n}", valid_from=START - n * day) for n in range(4)])
    plain = {hit.document_id: hit for hit in memory.search("cat", mode=mode)}
    recent = memory.search("cat", mode=mode, recency=Recency(day, weight=0.5))
    assert [hit.document_id for hit in recent] == ["d0", "d1", "d2", "d3"]
    for n, hit in enumerate(recent):
        assert hit.score == pytest.approx(plain[hit.document_id].score + 0.5 * 0.5**n)
        assert hit.relevance == plain[hit.document_id].relevance
    assert [hit.document_id for hit in memory.search("cat", mode=mode, recency=day)] == [
        "d0",
        "d1",
        "d2",
        "d3",
    ]


@pytest.mark.parametrize("bad", ["a day", True, -1, 0, float("nan")])
def test_what_is_no_half_life_is_refused(memory, bad):
    with pytest.raises((InvalidTypeError, InvalidInputError), match="recency"):
        memory.search("cat", recency=bad)


def test_the_text_around_a_hit(memory):
    text = " ".join(f"word{n}" for n in range(600))
    memory.add([Document(text, id="long"), *cats(2)])
    (hit,) = memory.search("word300", k=1, neighbours=1)
    assert hit.before
    assert hit.after
    whole = hit.before + hit.text + hit.after
    assert text[hit.start - len(hit.before) : hit.end + len(hit.after)] == whole
    (plain,) = memory.search("word300", k=1)
    assert (plain.before, plain.after, plain.text) == ("", "", hit.text)
    (everything, *others) = memory.search("word300", k=50, neighbours=1, merge=True)
    assert (everything.text, everything.start, everything.end) == (text, 0, len(text))
    assert ids(others) == {"c0", "c1"}
