"""What the context of a hit adds: its neighbours for a message, the going rate for what stands alone."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from mllm_plugin.agent import AgentMemory
from mllm_plugin.agent.turns import DECAY, OTHERS, SHARE, in_context, named, weighed

JUNE = datetime(2025, 6, 1, tzinfo=timezone.utc)
HERE = ("user:ann",)


def at(turn: int) -> tuple[tuple[str, ...], int]:
    return (HERE, turn)


def test_a_message_gains_some_of_its_best_neighbour() -> None:
    assert in_context([1.0, 0.5], [at(1), at(2)], None) == [1.0 + SHARE * 0.5, 0.5 + SHARE]
    assert in_context([1.0, 0.5], [at(1), at(3)], None)[1] == 0.5 + SHARE / (1 + DECAY)
    assert in_context([1.0, 0.5], [at(1), at(9)], 0.25)[1] == 0.5 + SHARE * 0.25


@pytest.mark.parametrize("own", [1.2, 0.9, 0.1, -0.3])
def test_what_stands_alone_meets_the_best_message_by_its_own_score(own: float) -> None:
    scores = sorted([own, 1.0, 0.2], reverse=True)
    places = [{own: None, 1.0: at(1), 0.2: at(2)}[score] for score in scores]
    totals = dict(zip(scores, in_context(scores, places, None), strict=True))
    assert (totals[own] > totals[1.0]) == (own > 1.0)


def test_without_messages_nothing_is_added() -> None:
    assert in_context([1.0, 0.5], [None, None], 0.5) == [1.0, 0.5]
    assert in_context([1.0], [at(1)], None) == [1.0]


@pytest.mark.parametrize(
    ("query", "speaker"),
    [
        ("What did Ann paint?", "Ann Lee"),
        ("what did ann paint?", "Ann Lee"),
        ("What did Ann and Bob paint?", None),
        ("Who paints?", None),
        ("安娜画了什么？", None),
        ("What does Lee paint?", None),
    ],
)
def test_whom_a_query_names(query: str, speaker: str | None) -> None:
    assert named(query, ["Ann Lee", "Bob", "?!"]) == speaker


def test_what_another_says_counts_less_and_what_nobody_says_does_not() -> None:
    assert weighed(2.0, "Bob", "Ann") == OTHERS * 2.0
    assert weighed(2.0, "Ann", "Ann") == weighed(2.0, None, "Ann") == weighed(2.0, "Bob", None) == 2.0
    assert weighed(-2.0, "Bob", "Ann") == -2.0


@pytest.mark.parametrize("name", ["Ann", "Bob"])
def test_who_is_named_is_heard_first(tmp_path, name: str) -> None:
    with AgentMemory.open(tmp_path / "m") as memory:
        for number, (speaker, other) in enumerate([("Ann", "Bob"), ("Bob", "Ann")]):
            chat = memory.scope(user="both", session=f"s{number}", participants=("Ann", "Bob"))
            chat.remember("I went swimming in the lake.", speaker=speaker, at=JUNE)
            chat.remember("That sounds lovely.", speaker=other, at=JUNE)
        found = memory.scope(user="both").recall(f"Where did {name} go swimming?", k=2)
        assert next(item.speaker for item in found if "lake" in item.text) == name


def test_a_fact_is_told_before_messages_that_answer_worse(tmp_path) -> None:
    with AgentMemory.open(tmp_path / "m") as memory:  # the real encoder: it is about what texts mean
        ann = memory.scope(user="ann")
        chat = ann.scope(session="monday", participants=("Ann", "Assistant"))
        for speaker, text in (
            ("Ann", "I moved to Rome last week."),
            ("Assistant", "How do you like it there?"),
            ("Ann", "The coffee is wonderful."),
        ):
            chat.remember(text, speaker=speaker, at=JUNE)
        ann.remember("Ann works at Acme.", at=JUNE)
        for query in ("Where does Ann work?", "What is Ann's job?", "Who is Ann's employer?"):
            assert ann.recall(query, k=1)[0].text == "Ann works at Acme.", query
        assert ann.recall("Where did Ann move?", k=1)[0].text == "I moved to Rome last week."
