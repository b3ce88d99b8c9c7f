"""Moving to another encoder: nothing but the vectors changes, and an interruption costs nothing."""

from __future__ import annotations

import pytest

from mllm_plugin import Document, EncoderMismatchError, InvalidInputError, MemoryIndex, reembed
from mllm_plugin.bulk import reembedding
from tests.helpers.robustness_tools import LONG, answers, contents
from tests.helpers.toy import ToyEncoder

WIDER = 32


class Interrupted(Exception):
    """What stops an encoder in the tests."""


class Stopping(ToyEncoder):
    """Refuses to go on after some texts."""

    def __init__(self, most: int) -> None:
        super().__init__(WIDER)
        self.most = most

    def encode_documents(self, texts):
        if len(self.encoded) + len(texts) > self.most:
            raise Interrupted
        return super().encode_documents(texts)


def without_chunks(memory: MemoryIndex) -> dict:
    found = {name: document.to_dict() for name, document in contents(memory).items()}
    for fields in found.values():
        del fields["chunks"]
    return found


def opened(path, encoder=None) -> MemoryIndex:
    return MemoryIndex.open(path, encoder=encoder or ToyEncoder(WIDER), create=False)


def test_all_but_the_vectors_is_kept(source, tmp_path):
    encoder = ToyEncoder(WIDER)
    report = reembed(source, tmp_path / "copy", encoder, progress=False)
    assert report.added == source.stats().documents
    assert report.encoded == len(encoder.encoded) > 0
    with opened(tmp_path / "copy") as copy:
        assert without_chunks(copy) == without_chunks(source)
        assert (copy.dim, copy.config) == (WIDER, source.config)
        assert copy.verify().problems == ()
        assert copy.stats().masked_documents == source.stats().masked_documents
        assert copy.search("lighthouse", k=1)[0].document_id == "lighthouse"
        assert copy.search("the password", namespace=("users", "bob")) == []


def test_the_copy_answers_like_a_memory_built_with_the_new_encoder(source, tmp_path):
    reembed(source, tmp_path / "copy", ToyEncoder(WIDER), progress=False)
    encoder = ToyEncoder(WIDER)
    with (
        opened(tmp_path / "copy") as copy,
        MemoryIndex.open(tmp_path / "fresh", encoder=encoder, config=source.config) as fresh,
    ):
        for document in source.documents():
            plain = Document(document.text, document.id, document.metadata, document.labels)
            fresh.add([plain], split=document.split)
            for label in document.masks:
                fresh.mask([document.id], label=label)
        queries = ["lighthouse", "d7 w3", "long200 text"]
        assert answers(copy, queries, mode="exact", k=8) == answers(fresh, queries, mode="exact", k=8)


def test_the_old_memory_stays_as_it_is_and_needs_no_encoder(source, tmp_path):
    before = list(source.export())
    with MemoryIndex.open(source.path, encoder=None) as unencoded:
        reembed(unencoded, tmp_path / "copy", ToyEncoder(WIDER), progress=False)
    assert list(source.export()) == before


def test_an_interrupted_copy_goes_on_where_it_was(source, tmp_path):
    source.add([Document(f"{number} " + LONG.text, id=f"late{number}") for number in range(300)])
    whole = ToyEncoder(WIDER)
    reembed(source, tmp_path / "whole", whole, progress=False)
    with pytest.raises(Interrupted):
        reembed(source, tmp_path / "copy", Stopping(len(whole.encoded) - 1), progress=False)
    with opened(tmp_path / "copy") as begun:
        assert 0 < begun.stats().documents < source.stats().documents
    rest = ToyEncoder(WIDER)
    report = reembed(source, tmp_path / "copy", rest, progress=False)
    assert report.unchanged > 0
    assert 0 < len(rest.encoded) < len(whole.encoded)
    with opened(tmp_path / "copy") as copy, opened(tmp_path / "whole") as expected:
        assert without_chunks(copy) == without_chunks(expected) == without_chunks(source)
        assert copy.verify().problems == ()


def test_edits_made_while_it_was_interrupted_reach_the_copy(source, tmp_path):
    source.add([Document(f"{number} filler", id=f"late{number}") for number in range(300)])
    with pytest.raises(Interrupted):
        reembed(source, tmp_path / "copy", Stopping(200), progress=False)
    with opened(tmp_path / "copy") as begun:
        assert {"d1", "d3", "fox"} <= {document.id for document in begun.documents()}
    source.remove(["fox"])
    source.unmask(["d3"], label="draft")
    source.unmask(["d3"], label="")
    source.mask(["d1"], label="late")
    source.add([Document("the lighthouse burned down", id="lighthouse"), Document("new", id="new")])
    reembed(source, tmp_path / "copy", ToyEncoder(WIDER), progress=False)
    with opened(tmp_path / "copy") as copy:
        assert without_chunks(copy) == without_chunks(source)
        assert copy.verify().problems == ()


def test_what_others_write_meanwhile_reaches_the_copy(source, tmp_path):
    class Meddling(ToyEncoder):
        """Another writer is busy while it encodes."""

        def encode_documents(self, texts):
            if not self.encoded:
                source.remove(["kettle"])
                source.add([Document("it came late", id="late")])
            return super().encode_documents(texts)

    reembed(source, tmp_path / "copy", Meddling(WIDER), progress=False)
    with opened(tmp_path / "copy") as copy:
        assert without_chunks(copy) == without_chunks(source)


def test_what_others_remove_and_unmask_in_the_last_pass_is_followed(source, tmp_path, monkeypatch):
    done = []

    def after_a_pass(memory, copy, progress):
        report = one_pass(memory, copy, progress)
        if not (report.added or report.updated or done):
            done.append(source.remove(["fox"]))
            source.unmask(["d3"], label="draft")
            source.add([Document("the lighthouse burned down", id="lighthouse")])
        return report

    one_pass = reembedding._pass
    monkeypatch.setattr(reembedding, "_pass", after_a_pass)
    reembed(source, tmp_path / "copy", ToyEncoder(WIDER), progress=False)
    assert done
    with opened(tmp_path / "copy") as copy:
        assert without_chunks(copy) == without_chunks(source)


def test_a_memory_that_is_no_copy_is_left_alone(source, tmp_path):
    with MemoryIndex.open(tmp_path / "other", encoder=ToyEncoder(WIDER)) as other:
        other.add([Document("mine", id="mine")])
    with MemoryIndex.open(tmp_path / "narrow", encoder=ToyEncoder(8)) as other:
        other.add([Document("mine", id="mine")])
    with pytest.raises(InvalidInputError, match="a memory of its own"):
        reembed(source, tmp_path / "narrow", ToyEncoder(WIDER), progress=False)
    with pytest.raises(InvalidInputError, match="a memory of its own"):
        reembed(source, tmp_path / "other", ToyEncoder(WIDER), progress=False)
    with pytest.raises(InvalidInputError, match="the memory itself"):
        reembed(source, source.path, ToyEncoder(WIDER), progress=False)
    reembed(source, tmp_path / "copy", ToyEncoder(WIDER), progress=False)
    with pytest.raises(InvalidInputError, match="a memory of its own"):
        reembed(source, tmp_path / "copy", ToyEncoder(WIDER), progress=False)
    with opened(tmp_path / "other") as other:
        assert [document.id for document in other.documents()] == ["mine"]


def test_a_copy_begun_with_another_encoder_is_refused(source, tmp_path):
    with pytest.raises(Interrupted):
        reembed(source, tmp_path / "copy", Stopping(1), progress=False)
    with pytest.raises(
        EncoderMismatchError, match=r"begun with another .*'toy:32:1', got 'toy:8:1' .8 dimensions for 32"
    ):
        reembed(source, tmp_path / "copy", ToyEncoder(8), progress=False)
    with (
        MemoryIndex.open(tmp_path / "third", encoder=ToyEncoder()) as third,
        pytest.raises(InvalidInputError, match=r"an unfinished copy of .*source"),
    ):
        reembed(third, tmp_path / "copy", ToyEncoder(WIDER), progress=False)
