"""Tenants that mean harm: whatever one of them asks, it gets, changes and removes its own alone.

`make soak` tries a hundred thousand calls ($MLLM_CALLS).
"""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from mllm_plugin import Document, MemoryIndex, MLLMError
from tests.helpers.fault_tools import SOAK
from tests.helpers.robustness_tools import CheapEncoder, contents

CALLS = int(os.environ.get("MLLM_CALLS", 100_000 if SOAK else 400))
TENANTS: list[tuple[str, ...]] = [
    (),
    ("a",),
    ("a", "b"),
    ("a/b",),
    ("a,b",),
    ("a\x1eb",),
    ("a", "b", "c"),
    ("ab",),
    ("A",),
    ("a ",),
    ("а",),
    ("ａ",),
    ("á",),
    ("a\u0301",),
    ("a\u200b",),
    ("a%",),
    ("a_",),
    ("%",),
    ("*",),
    ('["a"]',),
    ("('a',)",),
    ("a' OR '1'='1",),
    ("1",),
    ("-1",),
    ("🜁",),
]
EACH = 4


class Sly(str):
    """A string that says it is another one, and equals everything."""

    __slots__ = ("shown",)

    def __new__(cls, value: str, shown: str) -> Sly:
        made = super().__new__(cls, value)
        made.shown = shown
        return made

    def __repr__(self) -> str:
        return repr(self.shown)

    def __str__(self) -> str:
        return self.shown

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash(self.shown)


class SlyDict(dict):
    """A filter whose second look shows something else."""

    def __repr__(self) -> str:
        return "{}"


def documents(number: int) -> list[Document]:
    return [
        Document(
            f"shared words secret{number}x note{place}",
            id=f"note{place}",
            metadata={"owner": number, "place": place, "key": f"secret{number}x"},
            labels=("all", f"own{number}"),
        )
        for place in range(EACH)
    ]


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    with MemoryIndex.open(tmp_path_factory.mktemp("tenants") / "memory", encoder=CheapEncoder()) as memory:
        for number, name in enumerate(TENANTS):
            memory.add(documents(number), namespace=name)
        yield memory


def asked(draw: random.Random, name: tuple[str, ...], other: int) -> dict[str, Any]:
    """Arguments of a search that reaches for another tenant."""
    secret = f"secret{other}x"
    condition = draw.choice(
        [
            None,
            {"owner": other},
            {"$or": [{"owner": {"$gte": 0}}, {"key": secret}]},
            {"$not": {"owner": -1}},
            {"key": {"$in": [secret, Sly("nothing", secret)]}},
            SlyDict({"owner": other}),
            {Sly("owner", "place"): other},
            {"namespace": list(TENANTS[other])},
            {"key": "' OR 1=1 --"},
        ]
    )
    spelled: Any = tuple(Sly(part, TENANTS[other][0] if TENANTS[other] else part) for part in name)
    return {
        "namespace": draw.choice([name, spelled, list(name), "\x1f".join(name) or ()]),
        "filter": condition,
        "exclude_labels": draw.choice([(), (f"own{other}",), [Sly("none", "all")]]),
        "prefix": draw.random() < 0.3,
    }


def reached(memory: MemoryIndex, draw: random.Random, other: int, how: dict[str, Any]) -> set[tuple]:
    """Namespace and owner of all that a call returns."""
    query, call = f"shared secret{other}x note1", draw.randrange(5)
    where = {name: how[name] for name in ("namespace", "prefix")}
    mode = draw.choice(["auto", "beam", "flat", "exact"])
    if call == 0:
        found = list(memory.search(query, k=200, mode=mode, **how))
    elif call == 1:
        found = [
            hit for hits in memory.search_batch([query, "shared"], k=200, mode=mode, **how) for hit in hits
        ]
    elif call == 2:
        found = list(memory.documents(filter=how["filter"], **where))
    elif call == 3:
        found = memory.get(["note1", f"secret{other}x"], namespace=how["namespace"])
    else:
        return {(tuple(one["namespace"]), one["metadata"]["owner"]) for one in memory.export(**where)}
    return {(tuple(one.namespace), one.metadata["owner"]) for one in found}


def test_no_call_reaches_another_tenant(memory):
    draw, refused, answered = random.Random(5), 0, 0
    for _ in range(CALLS):
        number, other = draw.randrange(len(TENANTS)), draw.randrange(len(TENANTS))
        name = TENANTS[number]
        how = asked(draw, name, other)
        try:
            found = reached(memory, draw, other, how)
        except MLLMError:
            refused += 1
            continue
        own = {
            (one, place)
            for place, one in enumerate(TENANTS)
            if one == name or (how["prefix"] and one[: len(name)] == name)
        }
        assert found <= own, (name, other, how)
        answered += bool(found)
    print(f"{CALLS} calls: {answered} with results, {refused} refused")
    assert answered > CALLS / 3


def test_no_change_reaches_another_tenant(memory):
    draw, before = random.Random(6), contents(memory)
    for _ in range(max(20, CALLS // 100)):
        number = draw.randrange(len(TENANTS))
        name, other = TENANTS[number], f"own{draw.randrange(len(TENANTS))}"
        everything: dict[str, Any] = draw.choice(
            [{"filter": {"owner": {"$gte": 0}}}, {"label": "all"}, {"label": other}]
        )
        memory.mask(filter={"place": {"$gte": 0}}, label=other, namespace=name)
        masked = {one.namespace for one in memory.documents(prefix=True) if one.masks}
        assert masked == {name}
        memory.remove(namespace=name, wait=0, **everything)
        left = contents(memory)
        assert {key: one for key, one in left.items() if key[0] != name} == {
            key: one for key, one in before.items() if key[0] != name
        }
        memory.unmask(label=other, namespace=name)
        memory.add(documents(number), namespace=name)
        assert contents(memory) == before
    assert memory.verify().problems == ()
