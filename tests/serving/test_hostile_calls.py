"""Calls that try to get out of a scope, and calls that no honest client makes."""

from __future__ import annotations

import pytest

from mllm_plugin import InvalidInputError, StoreBusyError
from mllm_plugin.agent import AgentMemory
from mllm_plugin.errors import AccessError
from mllm_plugin.serving.access import Access
from mllm_plugin.serving.opening import Opening, Source
from mllm_plugin.serving.problems import problem_of
from mllm_plugin.serving.verbs import VERBS
from tests.helpers.serving_tools import Client, served
from tests.helpers.toy import ToyEncoder


@pytest.fixture
def opening(tmp_path):
    with AgentMemory.open(tmp_path / "agents", encoder=ToyEncoder()) as memory:
        ann = memory.scope(user="ann")
        ann.remember("Ann's herons.", id="ann's", metadata={"secret": 1})
        ann.remember("What the plan comes to.", id="sum", derived_from=["plan"])
        memory.scope(user="ann", agent="planner").remember("The planner's herons.", id="plan")
        memory.scope(user="ann", agent="planner", session="s1").remember("The chat's herons.", id="chat")
        memory.scope(user="ann", agent="other").remember("Another agent's herons.", id="theirs")
        memory.scope(user="bob").remember("Bob's herons.", id="bob's")
    opened = Opening(Source(tmp_path / "agents", ToyEncoder()).open).start()
    yield opened
    opened.close()


PLANNER = Access({"user": "ann", "agent": "planner"})
OUTSIDE = ("ann's", "sum", "theirs", "bob's")


def asked(opening: Opening, access: Access, name: str, **arguments):
    return access.call(opening, VERBS[name], VERBS[name].arguments.model_validate(arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"k": 100},
        {"filter": {"$or": [{"secret": 1}, {"secret": {"$exists": False}}]}},
        {"filter": {"item.kind": "fact"}},
        {"within": ["app", "user", "agent", "session"]},
        {"within": ["agent"]},
        {"scope": {"user": "ann", "agent": "planner"}},
        {"as_of": "2100-01-01T00:00:00Z"},
        {"neighbours": 2},
    ],
    ids=str,
)
def test_a_recall_finds_what_the_token_is_bound_to(opening, arguments) -> None:
    found = asked(opening, PLANNER, "recall", query="herons", **arguments)["items"]
    assert {one["id"] for one in found} <= {"plan", "chat"}
    assert found


def test_from_a_narrower_scope_it_falls_through_to_the_token_and_no_further(opening) -> None:
    inner = {"scope": {"session": "s1"}, "query": "herons"}
    found = asked(opening, PLANNER, "recall", **inner)["items"]
    assert {one["id"] for one in found} == {"plan", "chat"}
    found = asked(opening, PLANNER, "recall", **inner, within=["session"])["items"]
    assert {one["id"] for one in found} == {"chat"}
    with pytest.raises(InvalidInputError, match="within"):
        asked(opening, PLANNER, "recall", **inner, within=["user", "app"])


@pytest.mark.parametrize("outside", OUTSIDE)
def test_no_id_reaches_out(opening, outside) -> None:
    calls = {
        "get": {"id": outside},
        "history": {"id": outside},
        "update": {"id": outside, "text": "mine"},
        "mask": {"id": outside},
        "forget": {"id": [outside]},
        "remember": {"text": "mine", "supersedes": outside},
    }
    for name, arguments in calls.items():
        assert _status(opening, name, arguments) == 404, name
    assert asked(opening, PLANNER, "unmask", id=outside) == {"ids": []}


def test_what_lies_outside_stays_as_it_is(opening) -> None:
    for outside in OUTSIDE:
        asked(opening, PLANNER, "remember", text="mine", id=outside, derived_from=["ann's", "bob's"])
    asked(opening, PLANNER, "forget", id="plan")  # the user's summary is not the planner's to erase
    asked(opening, PLANNER, "mask", filter={"item.kind": "fact"})
    asked(opening, PLANNER, "forget", everything=True)
    assert asked(opening, PLANNER, "list", masked=True) == {"items": []}
    kept = asked(opening, Access(), "list", limit=100)["items"]
    assert {one["id"] for one in kept} == set(OUTSIDE)
    assert "mine" not in {one["text"] for one in kept}


@pytest.mark.parametrize(
    "scope",
    [
        {"user": "bob"},
        {"agent": "other"},
        {"app": "x"},
        {"user": ""},
        {"namespace": "x"},
        {"user": None},
        "x",
    ],
    ids=str,
)
def test_no_scope_reaches_out(opening, scope) -> None:
    assert _status(opening, "list", {"scope": scope}) in (403, 422)


def test_a_scope_between_two_bound_names_is_another(opening) -> None:
    access = Access({"user": "ann", "session": "s1"})
    with pytest.raises(AccessError, match="above"):
        asked(opening, access, "list", scope={"agent": "planner"})


def _status(opening: Opening, name: str, arguments: dict) -> int:
    try:
        asked(opening, PLANNER, name, **arguments)
    except Exception as error:
        return problem_of(error).status
    return 200


# -- over HTTP


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"text": ' + b"[" * 9000,
        b'{"text": "\xff"}',
        b'{"text": "\\ud800"}',
        b'{"text": "  "}',
        b'{"text": "a", "metadata": {"x": NaN}}',
        b'{"text": "a", "metadata": {"x": 1e999}}',
        b'{"text": "a", "metadata": {"item": 1}}',
        b'{"text": "a", "at": "tomorrow"}',
        b'{"text": "a", "id": {"$ne": ""}}',
        b'{"text": "a", "scope": {"session": "a\\u001fb"}}',
        b'{"text": "a", "source": ' + b'{"x":' * 500 + b"1" + b"}" * 501,
    ],
    ids=lambda body: body[:36].decode("latin-1"),
)
def test_a_body_that_cannot_be_remembered_is_refused(client: Client, tokens, body) -> None:
    status, answer, _ = client.get("/v1/remember", tokens["ann"], body)
    assert status in (400, 422)
    assert len(answer["error"]["message"]) < 1000


@pytest.mark.parametrize(
    "path", ["//v1/list", "/v1//list", "/V1/list", "/v1/../metrics", "/v1/list/", "/v1/"]
)
def test_paths_are_what_they_are(client: Client, tokens, path) -> None:
    assert client.get(path, tokens["ann"], {})[0] == 404
    assert client.get(path, None, {})[0] in (401, 404)


def test_a_filter_that_is_too_deep_is_refused_in_few_words(client: Client, tokens) -> None:
    deep: dict = {}
    for _ in range(500):
        deep = {"$not": deep}
    status, answer = client.call("recall", tokens["ann"], query="x", filter=deep)
    assert status == 422
    assert len(answer["error"]["message"]) < 1000


def test_null_is_the_same_as_left_out(client: Client, tokens) -> None:
    ann = tokens["ann"]
    client.call("remember", ann, text="kept", id="null", expires="2100-01-01T00:00:00Z", kind=None, at=None)
    client.call("update", ann, id="null", text="kept on", metadata=None, expires=None)
    assert client.call("get", ann, id="null")[1]["expires_at"] == "2100-01-01T00:00:00+00:00"
    client.call("update", ann, id="null", expires="never")
    assert "expires_at" not in client.call("get", ann, id="null")[1]
    assert client.call("update", ann, id="null", expires=None)[0] == 422
    assert client.call("forget", ann, id="null")[0] == 200


def test_without_tokens_pages_of_others_are_refused(tmp_path) -> None:
    with served(tmp_path) as client:
        assert client.get("/v1/list", None, {})[0] == 200
        for more in ({"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}):
            status, answer, _ = client.get("/v1/list", None, {}, **more)
            assert (status, answer["error"]["type"]) == (403, "AccessError")
        origin = f"http://localhost:{client.port}"
        assert client.get("/v1/list", None, {}, origin=origin)[0] == 200
        for kind in ("text/plain", "application/x-www-form-urlencoded"):
            assert client.get("/v1/list", None, {}, **{"content-type": kind})[0] == 422


def test_a_busy_store_says_when_to_come_back() -> None:
    problem = problem_of(StoreBusyError("another process writes"))
    assert problem.status == 503
    assert problem.headers()["retry-after"] == "1"


def test_only_a_plain_yes_erases_everything(client: Client, tokens) -> None:
    client.call("remember", tokens["ann"], text="kept", id="kept")
    for word in ("yes", "true", 1, [True]):
        assert client.call("forget", tokens["ann"], everything=word)[0] == 422
    assert client.call("get", tokens["ann"], id="kept")[0] == 200
    assert client.call("forget", tokens["ann"], id="kept")[0] == 200


def test_a_message_of_odd_parts_is_read_as_far_as_it_is_text(client: Client, tokens) -> None:
    messages = [{"content": [{"text": 5}, "x", {"text": None}]}]
    assert client.call("context", tokens["ann"], messages=messages)[0] == 200
