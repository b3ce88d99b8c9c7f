"""The store as LangGraph's clients use it: batches, expiry, async calls, LangMem, agents and graphs."""

import asyncio
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.store.base import BaseStore, GetOp, ListNamespacesOp, PutOp, SearchOp
from langgraph_mllm import HierarchicalMemoryStore

from mllm_plugin import MemoryIndex, clock
from mllm_plugin.errors import FilterError, InvalidInputError, InvalidTypeError
from tests.helpers.langmem_tools import create_manage_memory_tool, create_search_memory_tool
from tests.helpers.toy import ToyEncoder

NOTES = ("users", "ann")


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=timezone.utc)
        monkeypatch.setattr(clock, "now", lambda: self.now)

    def pass_minutes(self, minutes: float) -> None:
        self.now += timedelta(minutes=minutes)


class Scripted(GenericFakeChatModel):
    """Says what it was told to, whatever tools it is given."""

    def bind_tools(self, tools: Any, **options: Any) -> "Scripted":
        return self


def call(tool: str, **arguments: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": tool, "args": arguments, "id": "1"}])


# -- items


def test_a_replaced_item_keeps_when_it_was_made(store: HierarchicalMemoryStore) -> None:
    store.put(NOTES, "a", {"text": "tea"})
    before = store.get(NOTES, "a")
    store.put(NOTES, "a", {"text": "coffee"})
    after = store.get(NOTES, "a")
    assert before
    assert after
    assert after.value == {"text": "coffee"}
    assert after.created_at == before.created_at
    assert after.updated_at > before.updated_at


def test_reads_of_a_batch_see_what_was_there_before_it(store: HierarchicalMemoryStore) -> None:
    store.put(NOTES, "a", {"text": "tea"})
    found = store.batch(
        [
            PutOp(NOTES, "a", {"text": "coffee"}),
            GetOp(NOTES, "a"),
            SearchOp(("users",), limit=5),
            ListNamespacesOp(),
            PutOp(NOTES, "a", {"text": "water"}),
        ]
    )
    assert found[1].value == {"text": "tea"}
    assert [item.key for item in found[2]] == ["a"]
    assert found[3] == [NOTES]
    assert store.get(NOTES, "a").value == {"text": "water"}


def test_each_indexed_field_finds_its_item_once(tmp_path: Path) -> None:
    index: Any = {"fields": ["title", "notes[*]"]}
    with HierarchicalMemoryStore.open(tmp_path, encoder=ToyEncoder(64), index=index) as store:
        store.put(NOTES, "a", {"title": "garden shed", "notes": ["red door", "blue roof"]})
        store.put(NOTES, "b", {"title": "kitchen", "notes": ["green tiles"]})
        for query in ("garden shed", "red door", "blue roof"):
            assert [item.key for item in store.search(NOTES, query=query)] == ["a", "b"]
        store.put(NOTES, "a", {"title": "garden shed", "notes": []})
        left = sorted(one.text for one in store.memory.documents(namespace=NOTES))
        assert left == ["garden shed", "green tiles", "kitchen"]
        store.delete(NOTES, "a")
        assert store.memory.count(namespace=NOTES) == 2


def test_what_is_not_indexed_comes_last_and_unscored(store: HierarchicalMemoryStore) -> None:
    store.put(NOTES, "hidden", {"text": "apple pie"}, index=False)
    store.put(NOTES, "plain", {"text": "cars"})
    assert [(one.key, one.score is None) for one in store.search(NOTES, query="apple pie")] == [
        ("plain", False),
        ("hidden", True),
    ]


@pytest.mark.parametrize(
    ("condition", "keys"),
    [
        ({"price": {"$gt": 15}}, ["b"]),
        ({"price": {"$lt": float("inf")}}, ["a", "b"]),
        ({"price": {"$eq": float("nan")}}, []),
        ({"price": {"$lt": 10**100}}, ["a", "b"]),
        ({"tags": ["x"]}, ["a"]),
        ({"user": {"access-level": "open"}}, ["a"]),
        ({"user.access-level": "open"}, ["a"]),
        ({"name": "x') OR 1=1 --"}, []),
        ({"$or": [{"price": 10}, {"price": 20}]}, ["a", "b"]),
        ({"price": {"$in": [20, 30]}}, ["b"]),
        ({"price": {"$ne": 10}}, ["b", "c"]),
    ],
)
def test_filters(store: HierarchicalMemoryStore, condition: dict[str, Any], keys: list[str]) -> None:
    store.put(NOTES, "a", {"price": 10, "tags": ["x"], "user": {"access-level": "open"}})
    store.put(NOTES, "b", {"price": 20, "tags": ["x", "y"]})
    store.put(NOTES, "c", {"name": "free"})
    assert [item.key for item in store.search(NOTES, filter=condition)] == keys


def test_clear_errors(store: HierarchicalMemoryStore) -> None:
    store.put(NOTES, "a", {"a": 1})
    with pytest.raises(FilterError, match=r"\$near"):
        store.search(NOTES, filter={"a": {"$near": 1}})
    with pytest.raises(InvalidInputError, match="open"):
        HierarchicalMemoryStore(store.memory, index={"dims": 3, "embed": lambda texts: texts})
    with pytest.raises(InvalidInputError, match="unknown operation"):
        store.batch(["get"])  # type: ignore[list-item]


def test_a_namespace_is_no_prefix_of_its_namesake(store: HierarchicalMemoryStore) -> None:
    store.put(("user",), "a", {"text": "x"})
    store.put(("user2",), "b", {"text": "x"})
    assert [item.key for item in store.search(("user",), query="x")] == ["a"]


def test_documents_of_others_are_no_items(store: HierarchicalMemoryStore) -> None:
    from mllm_plugin import Document

    store.memory.add([Document("not an item", id="d", metadata={"value": {"x": 1}})], namespace=("else",))
    assert store.search((), query="item") == store.search(()) == store.list_namespaces() == []
    assert store.get(("else",), "d") is None


# -- expiry


def test_what_expires_is_gone_at_once_and_erased_by_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = Clock(monkeypatch)
    ttl: Any = {"default_ttl": 10, "refresh_on_read": True}
    with HierarchicalMemoryStore.open(tmp_path, encoder=ToyEncoder(), ttl=ttl) as store:
        store.put(NOTES, "short", {"text": "x"}, ttl=5)
        store.put(NOTES, "usual", {"text": "y"})
        store.put(("kept",), "long", {"text": "z"}, ttl=None)
        time.pass_minutes(4)
        assert store.get(NOTES, "short")  # a read starts the minutes anew
        time.pass_minutes(4)
        assert store.get(NOTES, "short", refresh_ttl=False)
        time.pass_minutes(1)
        assert store.get(NOTES, "short") is None
        assert [one.key for one in store.search(NOTES, query="x", refresh_ttl=False)] == ["usual"]
        assert store.sweep_ttl() == 1
        time.pass_minutes(1)
        assert store.search(NOTES) == []
        assert store.list_namespaces() == [("kept",)]
        assert store.sweep_ttl() == 1
        assert store.memory.count(prefix=True) == 1


def test_the_sweeper_sweeps_by_itself(store: HierarchicalMemoryStore) -> None:
    store.put(NOTES, "a", {"text": "x"}, ttl=0.001)
    store.start_ttl_sweeper(0.0005)
    for _ in range(200):
        if not [*store.memory.documents(prefix=True)]:
            break
        asyncio.run(asyncio.sleep(0.02))
    assert store.stop_ttl_sweeper(5)
    assert [*store.memory.documents(prefix=True)] == []


# -- clients


async def test_many_async_calls_at_once(store: HierarchicalMemoryStore) -> None:
    await asyncio.gather(*(store.aput(NOTES, f"k{i}", {"text": f"fact {i}"}) for i in range(20)))
    found = await store.asearch(NOTES, query="fact 7", limit=20)
    assert sorted(item.key for item in found) == sorted(f"k{i}" for i in range(20))
    await store.adelete(NOTES, "k7")
    assert await store.aget(NOTES, "k7") is None
    assert await store.alist_namespaces(prefix=("users", "*")) == [NOTES]


def test_langmem_tools_in_an_agent(store: HierarchicalMemoryStore) -> None:
    tools = [create_manage_memory_tool(NOTES), create_search_memory_tool(NOTES)]
    script = [
        call("manage_memory", content="Ann likes rainy mornings", action="create"),
        AIMessage("Noted."),
        call("search_memory", query="what weather does Ann like"),
        AIMessage("Rain."),
    ]
    agent = create_agent(Scripted(messages=iter(script)), tools, store=store)
    agent.invoke({"messages": [("user", "I like rainy mornings")]})
    answer = agent.invoke({"messages": [("user", "What do I like?")]})
    seen = [one for one in answer["messages"] if isinstance(one, ToolMessage)]
    assert "rainy mornings" in seen[0].text
    (item,) = store.search(NOTES)
    assert item.value["content"] == "Ann likes rainy mornings"


def test_a_graph_remembers_across_threads_and_forgets_on_request(tmp_path: Path) -> None:
    def node(state: MessagesState, *, store: BaseStore) -> dict[str, Any]:
        text = state["messages"][-1].text
        if text.startswith("remember "):
            store.put(NOTES, "fact", {"text": text.removeprefix("remember ")})
        elif text == "forget":
            store.delete(NOTES, "fact")
        found = store.search(NOTES, query=text)
        return {"messages": [AIMessage("; ".join(one.value["text"] for one in found) or "nothing")]}

    def ask(text: str) -> str:
        """In a process of its own, as far as the memory is concerned."""
        with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
            builder = StateGraph(MessagesState)
            builder.add_node("node", node)
            builder.add_edge(START, "node")
            graph = builder.compile(store=HierarchicalMemoryStore(memory))
            return graph.invoke({"messages": [("user", text)]})["messages"][-1].text

    assert ask("remember the zanzibar ferry") == "the zanzibar ferry"
    assert ask("which ferry") == "the zanzibar ferry"
    assert ask("forget") == "nothing"
    files = (path for path in (tmp_path / "memory").rglob("*") if path.is_file())
    assert not any(b"zanzibar" in path.read_bytes() for path in files)


@pytest.mark.parametrize(
    ("op", "error"),
    [
        (PutOp(NOTES, "k", "text"), InvalidTypeError),
        (PutOp(NOTES, "k", {"a": object()}), InvalidTypeError),
        (PutOp(NOTES, "k", {"a": "x"}, index="a"), InvalidTypeError),
        (PutOp(NOTES, "k", {"a": "x"}, ttl="5"), InvalidTypeError),
        (PutOp(NOTES, "k", {"a": "x"}, ttl=float("inf")), InvalidInputError),
        (PutOp(NOTES, "k", {"a": "x"}, ttl=1e12), InvalidInputError),
        (PutOp("abc", "k", {"a": "x"}), InvalidTypeError),
        (GetOp("abc", "k"), InvalidTypeError),
        (SearchOp("abc"), InvalidTypeError),
        (SearchOp(NOTES, query=5), InvalidTypeError),
        (SearchOp(NOTES, filter="x"), InvalidTypeError),
        (SearchOp(NOTES, limit=-1), InvalidInputError),
        (SearchOp(NOTES, query="x", offset=-1), InvalidInputError),
        (ListNamespacesOp(limit=-1), InvalidInputError),
        ("put", InvalidInputError),
    ],
)
def test_what_is_no_operation_is_refused_before_anything_is_written(
    store: HierarchicalMemoryStore, op: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        store.batch([PutOp(NOTES, "first", {"text": "tea"}), op])
    assert store.memory.count(prefix=True) == 0


def test_a_namespace_may_be_a_list(store: HierarchicalMemoryStore) -> None:
    store.batch([PutOp(list(NOTES), "k", {"text": "tea"})])  # type: ignore[arg-type]
    assert store.get(NOTES, "k").value == {"text": "tea"}


def test_what_is_no_memory_and_no_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidTypeError, match="MemoryIndex"):
        HierarchicalMemoryStore("memory")  # type: ignore[arg-type]
    with pytest.raises(InvalidTypeError, match="index"):
        HierarchicalMemoryStore.open(tmp_path / "m", index="text")  # type: ignore[arg-type]
    assert not (tmp_path / "m").exists()
