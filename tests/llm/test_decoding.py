"""Texts while they grow: stop texts, unfinished characters, sampling."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mllm_plugin.llm.decoding import Decoding, RowText, SeededSampling

END = 256
ALPHABET = st.text(alphabet=st.sampled_from("ab .é€🗼\n"), max_size=20)
STOPS = st.lists(st.text(alphabet=st.sampled_from("ab .é€🗼"), min_size=1, max_size=3), max_size=3)


def grown(tokens: list[int], stop: list[str]) -> tuple[RowText, list[str]]:
    row = RowText(lambda ids: bytes(ids).decode("utf-8", "replace"), frozenset({END}), stop)
    pieces = []
    for token in tokens:
        row.add(token)
        pieces.append(row.piece())
    return row, [*pieces, row.piece(last=True)]


def expected(text: str, stop: list[str]) -> str:
    """Cut before the stop text that is complete first; of two that are, before the one that begins first."""
    for end in range(len(text) + 1):
        places = [text[:end].find(one) for one in stop if one in text[:end]]
        if places:
            return text[: min(places)].strip()
    return text.strip()


@given(ALPHABET, STOPS)
def test_pieces_are_the_text_cut_exactly(text, stop):
    row, pieces = grown(list(text.encode()), stop)
    assert row.text() == expected(text, stop)
    assert "".join(pieces) == row.text()
    assert "\ufffd" not in "".join(pieces)


@given(ALPHABET, STOPS)
def test_end_token_ends(text, stop):
    row, pieces = grown([*text.encode(), END, *b"more"], stop)
    assert row.finish == "stop"
    assert row.text() == "".join(pieces) == expected(text, stop)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_character_that_never_ends_is_not_shown(cut):
    row, pieces = grown(list("tower 🗼".encode())[:-cut], [])
    assert "".join(pieces) == row.text() == "tower"


def test_a_whole_replacement_character_is_text():
    row, pieces = grown(list("a\ufffdb".encode()), [])
    assert "".join(pieces) == row.text() == "a\ufffdb"


def test_nothing_that_a_stop_text_may_cut_is_shown():
    row = RowText(lambda ids: bytes(ids).decode(), frozenset(), ["END."])
    shown = ""
    for token in b"The EN":
        row.add(token)
        shown += row.piece()
    assert shown == "The"
    row.add(ord("T"))
    assert row.piece() == " ENT"


def test_sampling_follows_the_probabilities():
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    scores = probabilities.log().expand(4000, 4).clone()
    chosen = SeededSampling(Decoding(temperature=1.0), 4000)(None, scores).argmax(dim=-1)
    shares = torch.bincount(chosen, minlength=4) / 4000
    assert torch.allclose(shares, probabilities, atol=0.03)


def test_top_p_leaves_the_tail_out():
    scores = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(500, 4).clone()
    chosen = SeededSampling(Decoding(temperature=1.0, top_p=0.7), 500)(torch.zeros(500, 1), scores).argmax(
        dim=-1
    )
    assert set(chosen.tolist()) == {0, 1}


def test_rows_with_a_seed_do_not_depend_on_the_batch():
    decoding, scores = Decoding(temperature=1.0, seed=5), torch.randn(1, 50)
    alone = SeededSampling(decoding, 1)(None, scores)
    together = SeededSampling(decoding, 3)(None, scores.expand(3, 50))
    assert torch.equal(together, alone.expand(3, 50))
