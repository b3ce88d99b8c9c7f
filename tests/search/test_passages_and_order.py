"""What is done to hits at the end: passages that touch become one, a reranker puts them in its order."""

from __future__ import annotations

import numpy as np
import pytest

from mllm_plugin import Hit, Hits, InvalidInputError
from mllm_plugin.protocols import Reranker
from mllm_plugin.search.passages import merged
from mllm_plugin.search.query import Query
from mllm_plugin.search.rerank import hits_needed, reranked

TEXT = "abcdefghijklmnopqrstuvwxyz"
ASKED = Query("a", np.ones((1, 2), np.float32))


def hit(
    start: int, end: int, score: float, document: str = "d", around: int = 0, namespace: tuple = ()
) -> Hit:
    first, last = max(0, start - around), min(26, end + around)
    return Hit(
        document, start, TEXT[start:end], start, end, score, score, {},
        namespace=namespace, before=TEXT[first:start], after=TEXT[end:last],
    )  # fmt: skip


def test_passages_that_touch_become_the_best_of_them():
    one, two, three = hit(10, 14, 0.9), hit(14, 18, 0.8), hit(8, 11, 0.7)
    (found,) = merged(Hits([one, two, three]))
    assert (found.text, found.start, found.end) == (TEXT[8:18], 8, 18)
    assert (found.score, found.chunk_id) == (0.9, 10)


def test_text_around_counts_and_is_kept():
    (found,) = merged(Hits([hit(10, 12, 0.9, around=3), hit(16, 18, 0.8, around=2)]))
    assert (found.before, found.text, found.after) == (TEXT[7:10], TEXT[10:18], TEXT[18:20])


@pytest.mark.parametrize("other", [{"document": "e"}, {"namespace": ("n",)}, {"start": 15, "end": 17}])
def test_what_does_not_touch_stays(other):
    given = {"start": 14, "end": 17, "score": 0.5, **other}
    assert len(merged(Hits([hit(10, 14, 0.9), hit(**given)]))) == 2


class ByLength(Reranker):
    """The shortest text first."""

    finalists = 7

    def __init__(self, scores=None) -> None:
        self.scores = scores

    def rerank(self, query, texts, scores):
        return self.scores or [-float(len(text)) for text in texts]


def test_a_reranker_sees_more_than_are_wanted_and_orders_them():
    hits = Hits([hit(0, 4, 0.9), hit(5, 6, 0.8), hit(7, 10, 0.7)])
    assert (hits_needed(None, 3), hits_needed(ByLength(), 3), hits_needed(ByLength(), 9)) == (3, 7, 9)
    ((first, second),) = reranked(ByLength(), [ASKED], [hits], 2)
    assert (first.text, second.text) == ("f", "hij")
    assert (first.score, second.score) == (-1.0, -3.0)
    assert list(reranked(ByLength(), [Query("", ASKED.vectors)], [hits], 2)[0]) == list(
        hits[:2]
    )  # no words to go by
    assert reranked(None, [ASKED], [hits], 2) == [hits]


@pytest.mark.parametrize("scores", [[1.0], [1.0, float("nan"), 2.0], ["a", "b", "c"]])
def test_scores_that_are_none_are_refused(scores):
    hits = Hits([hit(0, 4, 0.9), hit(5, 6, 0.8), hit(7, 10, 0.7)])
    with pytest.raises(InvalidInputError, match="the reranker"):
        reranked(ByLength(scores), [ASKED], [hits], 2)
