"""Signatures, shapes and errors are those of mem0, as `recorded_2_2_1.json` has them.

It was recorded from the package mem0ai, which is no dependency: of the methods' signatures, and of what the
script below gives, with what differs from run to run (ids, times, hashes, scores) replaced by its type.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mem0_mllm import AsyncMemory, Memory

RECORDED = json.loads((Path(__file__).parent / "recorded_2_2_1.json").read_text(encoding="utf-8"))
UNKNOWN = "11111111-1111-1111-1111-111111111111"
OF_A = {"user_id": "a"}
ERRORS: dict[str, Callable[[Memory], Any]] = {
    "add without ids": lambda m: m.add("x"),
    "add no text": lambda m: m.add(3, user_id="a"),
    "delete unknown": lambda m: m.delete(UNKNOWN),
    "update unknown": lambda m: m.update(UNKNOWN, "x"),
    "update nothing": lambda m: m.update(UNKNOWN),
    "search without ids": lambda m: m.search("x"),
    "search blank": lambda m: m.search(" ", filters=OF_A),
    "search threshold": lambda m: m.search("x", filters=OF_A, threshold=2),
    "get_all top_k": lambda m: m.get_all(filters=OF_A, top_k=-1),
    "id with blank": lambda m: m.add("x", user_id="a b", infer=False),
    "delete_all nothing": lambda m: m.delete_all(),
    "expiration": lambda m: m.add("x", user_id="a", expiration_date="tomorrow", infer=False),
    "operator": lambda m: m.search("x", filters={"user_id": "a", "k": {"gte": 1, "like": 2}}),
    "timestamp": lambda m: m.add("x", user_id="a", timestamp=1, infer=False),
}


def signature(call: Any) -> list[list[Any]]:
    """As the recording has it; what is of ours alone is left out."""
    told = []
    for name, parameter in inspect.signature(call).parameters.items():
        if name not in ("self", "extract"):
            default = None if parameter.default is parameter.empty else repr(parameter.default)
            told.append([name, parameter.kind.name, "UNSET" if default == "'keep'" else default])
    return told


@pytest.mark.parametrize("kind", [Memory, AsyncMemory])
@pytest.mark.parametrize("name", sorted(RECORDED["signatures"]["Memory"]))
def test_signatures(kind: type, name: str) -> None:
    of_a_language_model = ["llm", "KEYWORD_ONLY", "None"]
    wanted = [one for one in RECORDED["signatures"][kind.__name__][name] if one != of_a_language_model]
    assert signature(getattr(kind, name)) == wanted
    awaited = kind is AsyncMemory and name not in ("from_config", "close")
    assert inspect.iscoroutinefunction(getattr(kind, name)) == awaited


def plain(value: Any, key: str | None = None) -> Any:
    if isinstance(value, dict):
        return {name: plain(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    varies = key in ("id", "memory_id", "created_at", "updated_at", "hash", "score")
    return type(value).__name__ if varies else value


def by_memory(result: Any) -> Any:
    return sorted(result["results"], key=lambda one: one["memory"])


def test_shapes(m: Memory) -> None:
    said = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "I like green tea", "name": "Ann"},
        {"role": "assistant", "content": "Noted"},
    ]
    about: Any = {"run_id": "r1", "metadata": {"topic": "drinks"}, "expiration_date": "2099-01-01"}
    ann = {"user_id": "ann"}
    given: dict[str, Any] = {"add": m.add(said, user_id="ann", infer=False, **about)}
    name = given["add"]["results"][0]["id"]
    other = m.add("plain fact", user_id="ann", infer=False)["results"][0]["id"]
    given["search"] = m.search("green tea", filters=ann, top_k=1)
    given["get"], given["get plain"] = m.get(name), m.get(other)
    given["get_all"] = m.get_all(filters=ann)
    given["update"] = m.update(name, "I like black tea", metadata={"mood": "good"})
    given["get updated"], given["history"] = m.get(name), m.history(name)
    given["delete"], given["get gone"] = m.delete(name), m.get(name)
    given["delete_all"] = m.delete_all(user_id="ann")
    given["get_all empty"] = m.get_all(filters=ann)
    for step, wanted in RECORDED["shapes"].items():
        found = plain(given[step])
        if step == "get_all":  # mem0's is in no order
            found, wanted = by_memory(found), by_memory(wanted)
        assert found == wanted, step
        assert json.dumps(found) == json.dumps(wanted), step  # and the keys in the same order


@pytest.mark.parametrize("name", sorted(RECORDED["errors"]))
def test_errors(m: Memory, name: str) -> None:
    assert RECORDED["errors"][name] in ("ValueError", "Exception")
    with pytest.raises(ValueError, match=r"\w"):
        ERRORS[name](m)
    assert m.get_all(filters=OF_A) == {"results": []}
