"""What nodes are about, in words: right, and of nothing that may not be shown."""

from __future__ import annotations

from collections import Counter

import pytest

from mllm_plugin import Document, InvalidInputError, InvalidTypeError, MemoryIndex
from mllm_plugin.lexical import terms_of
from tests.helpers.recall_tools import CONFIG, MODES, nodes_of

SUBJECTS = {
    "bread": "baker flour sourdough oven crust dough yeast",
    "ships": "harbour captain anchor sail mast deck cargo",
    "stars": "telescope galaxy comet orbit nebula planet eclipse",
}
EVERYTHING = {"nodes": 100, "words": 1000, "faces": 1000}


def subjects(each: int = 40) -> list[Document]:
    """Documents of three subjects, whose words say which, beside words that all have."""
    found = []
    for name, text in SUBJECTS.items():
        words = text.split()
        for n in range(each):
            own = " ".join(words[(n + k) % len(words)] for k in range(4))
            found.append(
                Document(f"the report of yesterday tells {own}", id=f"{name}{n}", metadata={"kind": name})
            )
    return found


@pytest.fixture
def three(tmp_path, encoder):
    with MemoryIndex.open(
        tmp_path / "memory", encoder=encoder, config=CONFIG, hierarchy="identity"
    ) as memory:
        memory.add(subjects())
        yield memory


def words_below(memory: MemoryIndex, **options) -> set[str]:
    return {word for topic in memory.overview(**EVERYTHING, **options) for word in topic.words}


# -- what is there


def test_a_node_is_named_by_the_words_that_set_it_apart(three):
    for name, words in SUBJECTS.items():
        first = three.overview(words, nodes=1, words=3)[0]
        assert set(first.words) <= set(words.split())
        assert all(face.document_id.startswith(name) for face in first.faces)


def test_words_that_all_chunks_have_come_last(three):
    for topic in three.overview(words=4):
        assert not {"report", "yesterday", "tells", "the"} & set(topic.words)


def test_every_word_of_the_live_chunks_and_no_other_is_a_candidate(three):
    """By hand: of a node's chunks, counted without any of our own arithmetic."""
    (topic, *_) = three.overview("anchor sail", nodes=1, words=1000, faces=1000)
    counts = Counter(word for face in topic.faces for word in set(terms_of(face.text)))
    assert len(topic.faces) == topic.chunks
    assert set(topic.words) == set(counts) - {"the", "of"}
    assert counts[topic.words[0]] > 1


def test_the_largest_parts_hold_most_of_it(three):
    parts = three.overview()
    assert 4 <= len(parts) <= 8
    assert [part.chunks for part in parts] == sorted((part.chunks for part in parts), reverse=True)
    seen = [chunk.chunk_id for part in three.overview(**EVERYTHING) for chunk in part.faces]
    assert len(seen) == len(set(seen)) == 120


def test_a_few_notes_are_one_part(memory):
    notes = ("alice likes rye bread", "alice bakes bread", "the oven is hot", "she has no milk")
    memory.add(Document(text) for text in notes)
    (part,) = memory.overview(words=2)
    assert set(part.words) == {"alice", "bread"}
    assert part.chunks == 4
    assert part.faces[0].text == memory.get(part.faces[0].document_id)[0].text
    assert memory.overview("bread", words=2) == [part]


def test_faces_are_nearest_to_the_mean(three):
    for part in three.overview(faces=3):
        everything = three.overview(**EVERYTHING)
        assert len(part.faces) == min(3, part.chunks)
        assert {face.chunk_id for face in part.faces} <= {
            face.chunk_id for one in everything for face in one.faces
        }
    assert all(part.faces == () and part.words == () for part in three.overview(faces=0, words=0))


def test_one_form_of_a_word(memory):
    memory.add(Document(f"sail sails sailed sailing {n}", id=f"{n}") for n in range(5))
    (part,) = memory.overview()
    assert len(part.words) == 1


@pytest.mark.parametrize("mode", MODES)
def test_nodes_of_a_recall_have_the_same_words(tall_library, mode):
    plain = tall_library.recall("w1 w2", mode=mode)
    found = tall_library.recall("w1 w2", mode=mode, words=5)
    assert all(node.words == () for node in nodes_of(plain))
    assert [node.node_id for node in nodes_of(found)] == [node.node_id for node in nodes_of(plain)]
    named = {part.node_id: part.words for part in tall_library.overview("w1 w2", nodes=100, words=5)}
    lowest = found.levels[2]
    assert all(len(node.words) == 5 for node in nodes_of(found))
    assert [node.words for node in lowest] == [named[node.node_id] for node in lowest]
    assert all(piece.words == () for level in (0, 1) for piece in found.levels[level])


def test_a_sample_of_a_large_tree(tall_library, monkeypatch):
    full = tall_library.overview(nodes=2, words=50)
    monkeypatch.setattr("mllm_plugin.search.labels._MOST_NODES", 8)
    with MemoryIndex.open(tall_library.path, encoder=tall_library.encoder) as again:
        some = again.overview(nodes=2, words=50)
    assert [part.chunks for part in some] == [part.chunks for part in full]
    assert all(len(part.words) == 50 for part in some)
    assert [part.words for part in some] != [part.words for part in full]


async def test_the_twin(three):
    assert await three.aoverview(nodes=3) == three.overview(nodes=3)


# -- nothing of what may not be shown


@pytest.mark.parametrize(
    ("options", "hidden"),
    [
        ({"filter": {"n": {"$lt": 123}}}, {"filter": {"n": {"$gte": 123}}}),
        ({"exclude_labels": ["odd"]}, {"label": "odd"}),
    ],
    ids=["filter", "labels"],
)
def test_a_filtered_overview_equals_that_of_a_memory_where_the_rest_is_masked(tall_library, options, hidden):
    """Order and choice too, so that not even a frequency tells of the rest."""
    calls = [{}, {"topic": "w1 w2 w3"}]
    filtered = [tall_library.overview(**EVERYTHING, **call, **options) for call in calls]
    before = [tall_library.overview(**EVERYTHING, **call) for call in calls]
    label = hidden.get("label", "")
    tall_library.mask(**hidden)
    try:
        masked = [tall_library.overview(**EVERYTHING, **call) for call in calls]
    finally:
        tall_library.unmask(label=label)
    assert filtered[0] == masked[0]
    assert {part.node_id: part for part in filtered[1]} == {part.node_id: part for part in masked[1]}
    assert filtered != before
    assert [tall_library.overview(**EVERYTHING, **call) for call in calls] == before


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", [{"filter": {"n": {"$lt": 60}}}, {"exclude_labels": ["odd"]}])
def test_no_word_of_a_recall_is_of_what_a_filter_hides(tall_library, mode, options):
    shown = {
        word
        for document in tall_library.documents(filter=options.get("filter"))
        if "odd" not in (document.labels if "exclude_labels" in options else ())
        for word in terms_of(document.text)
    }
    found = nodes_of(tall_library.recall("w1 id499", words=1000, nodes=100, mode=mode, **options))
    named = {word for node in found for word in node.words}
    assert named
    assert named <= shown


def test_a_masked_or_removed_word_is_in_no_label(three):
    secret = Document("the report of yesterday tells quixotry sail", id="late", metadata={"kind": "late"})
    assert "quixotry" not in words_below(three)
    three.add([secret])
    assert "quixotry" in words_below(three)
    three.mask(["late"])
    masked = three.overview(**EVERYTHING)
    assert "quixotry" not in words_below(three)
    three.unmask(["late"])
    assert "quixotry" in words_below(three)
    assert "quixotry" not in words_below(three, filter={"kind": {"$ne": "late"}})
    assert "quixotry" in words_below(three, filter={"kind": {"$eq": "late"}})
    three.remove(["late"])
    assert three.overview(**EVERYTHING) == masked


def test_nothing_may_be_shown(three):
    assert three.overview(filter={"kind": "none"}) == []
    assert three.overview("sail", filter={"kind": "none"}) == []
    assert three.overview(namespace="nowhere") == []
    three.mask(filter={})
    assert three.overview() == []


def test_namespaces_never_mix(tmp_path, encoder):
    with MemoryIndex.open(tmp_path / "memory", encoder=encoder, config=CONFIG) as memory:
        for name in ("bread", "ships"):
            own = [document for document in subjects() if document.metadata["kind"] == name]
            memory.add(own, namespace=("users", name))
        assert memory.overview() == []
        for part in memory.overview("sail", namespace="users", prefix=True, words=7, nodes=100):
            assert set(part.words) & set(SUBJECTS[part.namespace[1]].split())
            other = "bread" if part.namespace[1] == "ships" else "ships"
            assert not set(part.words) & set(SUBJECTS[other].split())
        both = memory.overview(namespace="users", prefix=True)
        assert {part.namespace[1] for part in both} == {"bread", "ships"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"nodes": 0}, InvalidInputError, "nodes must be at least 1"),
        ({"words": -1}, InvalidInputError, "words must be at least 0"),
        ({"faces": 1.5}, InvalidTypeError, "faces must be an int"),
        ({"topic": " "}, InvalidInputError, "the query is empty"),
    ],
    ids=str,
)
def test_misuse_is_refused(tall_library, options, error, message):
    with pytest.raises(error, match=message):
        tall_library.overview(**options)


def test_words_of_other_scripts(memory):
    memory.add(Document(f"Крепость стоит на холме {n}") for n in range(6))
    memory.add(Document(f"城市在河边 {n}") for n in range(6))
    (part,) = memory.overview(words=100)
    assert {"крепость", "холме", "城", "河"} <= set(part.words)
