"""`Memory`: mem0's interface over an agent memory."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from typing_extensions import Self

from mem0_mllm.checks import (
    ENTITIES,
    entity_ids,
    expiration_of,
    expires_at,
    facts_of,
    messages_of,
    metadata_given,
    one_of_each,
    query_filters,
    text_of,
    threshold_of,
    top_k_of,
)
from mem0_mllm.config import opened
from mem0_mllm.filters import condition_of
from mem0_mllm.items import about_of, added, changes, metadata_of, relevance_of, result, stored
from mllm_plugin.agent import AgentMemory, AgentScope, Forgotten
from mllm_plugin.agent import Memory as Item
from mllm_plugin.errors import InvalidInputError

Extract = Callable[[list[dict[str, Any]]], Sequence[str]]
_KEEP = "keep"
_EXPIRED = "expired"  # the mask of what has expired
_PROCEDURAL = "procedural_memory"
_log = logging.getLogger("mem0_mllm")


class Memory:
    """What `mem0.Memory` does, in one file, without a language model or a server.

    A memory of a user, agent or run lies in the scope of these ids, and is found by any of them. A score is
    the square root of the relevance, from 0 to 1. `delete`, `delete_all` and `reset` erase from every file,
    so that `history` of what was deleted is empty.

    Args:
        config: A dictionary: `path` of the memory's folder, `encoder` and `options` of `AgentMemory.open`;
            settings of mem0 are taken too, and have an effect where they say where or with which local model.
        memory: An open agent memory in its place; who opened it closes it.
        extract: Makes facts of messages where `add` is called with `infer=True`; without it, messages are
            stored word for word.

    Attributes:
        memory: The agent memory below it.
    """

    def __init__(
        self, config: Any = None, *, memory: AgentMemory | None = None, extract: Extract | None = None
    ) -> None:
        self.memory = opened(config) if memory is None else memory
        self._owns_memory, self._extract = memory is None, extract

    @classmethod
    def from_config(cls, config_dict: dict[str, Any], *, extract: Extract | None = None) -> Self:
        """Opens what a configuration describes.

        Args:
            config_dict: As above.
            extract: As above.
        """
        return cls(config_dict, extract=extract)

    # -- writing

    def add(
        self,
        messages: Any,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        timestamp: Any = None,
        expiration_date: Any = None,
        infer: bool = True,
        memory_type: str | None = None,
        prompt: str | None = None,
    ) -> dict[str, Any]:
        """Adds memories, all of them or none.

        Args:
            messages: A text, a message, or a list of these; system messages are left out.
            user_id, agent_id, run_id: Whose they are; at least one.
            metadata: JSON values by name.
            timestamp: Not supported, as in mem0.
            expiration_date: Their last day in UTC, as YYYY-MM-DD.
            infer: Store what `extract` makes of the messages rather than these.
            memory_type: "procedural_memory" makes one memory of all messages.
            prompt: For the language model of mem0; without effect.

        Returns:
            `{"results": [...]}` with id, memory and event of each.
        """
        if timestamp is not None:
            raise InvalidInputError("timestamp is not supported; AgentScope.remember(at=...) takes it")
        if memory_type not in (None, _PROCEDURAL):
            raise InvalidInputError(f"Invalid 'memory_type': {memory_type!r}; expected {_PROCEDURAL!r}")
        day = expiration_of(expiration_date)
        ids = entity_ids({"user_id": user_id, "agent_id": agent_id, "run_id": run_id})
        one_of_each(ids)
        said = self._said(messages_of(messages), infer, memory_type)
        about = [{**ids, **_told(message), "expiration_date": day} for _, message in said]
        items = [
            {
                "id": None if message is None else str(uuid.uuid4()),
                "text": text,
                "kind": "fact" if message is None else "message",
                "speaker": None if message is None else message.get("name") or message["role"],
                "metadata": stored(own, metadata),
                "expires": expires_at(day),
            }
            for (text, message), own in zip(said, about, strict=True)
        ]
        written = self._scope(ids).remember_many(items) if items else []
        new = [(one, *given) for one, given in zip(written, said, strict=True) if not one.merged]
        return {"results": [added(one.id, text, message) for one, text, message in new]}

    def _said(
        self, messages: list[dict[str, Any]], infer: bool, memory_type: str | None
    ) -> list[tuple[str, dict[str, Any] | None]]:
        """Texts to store, each with its message, or None for a fact made of several."""
        if infer and self._extract is not None and messages:
            facts = facts_of(self._extract(messages))
        elif memory_type is not None and messages:
            facts = [f"{message['role']}: {message['content']}" for message in messages]
        else:
            if infer:
                _log.info("infer=True without extract=: messages are stored word for word")
            return [(message["content"], message) for message in messages]
        return [(text, None) for text in (["\n".join(facts)] if memory_type and facts else facts)]

    def update(
        self,
        memory_id: str,
        text: str | None = None,
        metadata: dict[str, Any] | None = None,
        expiration_date: Any = _KEEP,
        data: str | None = None,
    ) -> dict[str, str]:
        """Changes a memory; what it was before is in its `history`.

        Args:
            memory_id: Which.
            text: Its new text.
            metadata: Added to its metadata; ids of user, agent and run stay.
            expiration_date: Its last day; None for none, "keep" as it is.
            data: The name that `text` had before.

        Raises:
            InvalidInputError: Nothing is to be changed, or it is not there.
        """
        text = data if text is None else text
        if text is None and metadata is None and expiration_date == _KEEP:
            raise InvalidInputError("At least one of text, metadata, or expiration_date must be provided.")
        item = self._item(memory_id)
        about = about_of(item)
        if expiration_date != _KEEP:
            about["expiration_date"] = expiration_of(expiration_date)
        self.memory.update(
            item.id,
            text=None if text is None else text_of("text", text),
            metadata=stored(about, {**metadata_of(item), **metadata_given(metadata)}),
            expires=expires_at(about.get("expiration_date")),
        )
        return {"message": "Memory updated successfully!"}

    # -- reading

    def get(self, memory_id: str) -> dict[str, Any] | None:
        """A memory by id, expired or not; None where there is none."""
        item = self.memory.get(text_of("memory_id", memory_id))
        return result(item) if item is not None and _is_shown(item, expired=True) else None

    def get_all(
        self,
        *,
        filters: dict[str, Any] | None = None,
        top_k: int = 20,
        show_expired: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Memories that match, the newest first.

        Args:
            filters: With at least one of user_id, agent_id and run_id; as for `search`.
            top_k: Most of them.
            show_expired: Expired ones too.
            **kwargs: user_id, agent_id, run_id and limit, as scripts for earlier releases pass them.
        """
        top_k = top_k_of(top_k, kwargs)
        scope, condition = self._selection(query_filters(filters, kwargs))
        found = scope.list(
            order="-created_at",
            limit=None if show_expired else top_k,
            filter=condition,
            masked=None if show_expired else False,
        )
        shown = [item for item in found if _is_shown(item, expired=show_expired)]
        return {"results": [result(item, scored=False) for item in shown[:top_k]]}

    def search(
        self,
        query: str,
        *,
        top_k: int = 20,
        filters: dict[str, Any] | None = None,
        threshold: float = 0.1,
        rerank: bool = False,
        explain: bool = False,
        reference_date: Any = None,
        show_expired: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Memories that answer a query, best first.

        Args:
            query: Text.
            top_k: Most of them.
            filters: With at least one of user_id, agent_id and run_id, and conditions on metadata: values,
                "*" for any, eq, ne, gt, gte, lt, lte, in, nin, contains, and AND, OR, NOT of lists of these.
            threshold: Least score, from 0 to 1.
            rerank: Without effect.
            explain: Add `score_details`.
            reference_date: Not supported, as in mem0.
            show_expired: Expired ones too.
            **kwargs: user_id, agent_id, run_id and limit, as scripts for earlier releases pass them.
        """
        if reference_date is not None:
            raise InvalidInputError("reference_date is not supported; AgentScope.recall(as_of=...) takes it")
        top_k, least = top_k_of(top_k, kwargs), threshold_of(threshold)
        text = text_of("query", query).strip()
        scope, condition = self._selection(query_filters(filters, kwargs))
        if top_k == 0:
            return {"results": []}
        found = scope.recall(
            text,
            k=top_k,
            filter=condition,
            min_relevance=relevance_of(least),
            include_masked=(_EXPIRED,) if show_expired else (),
        )
        best = sorted(found, key=lambda item: -(item.relevance or 0.0))
        return {"results": [result(item, explain=explain) for item in best]}

    def history(self, memory_id: str) -> list[dict[str, Any]]:
        """The changes of a memory, the oldest first; empty where it is not there, or was deleted."""
        if self.memory.get(text_of("memory_id", memory_id)) is None:
            return []
        return changes(self.memory.history(memory_id)[::-1])

    # -- forgetting

    def delete(self, memory_id: str) -> dict[str, str]:
        """Erases a memory with its history.

        Raises:
            InvalidInputError: It is not there.
        """
        _report(self.memory.forget(self._item(memory_id).id))
        return {"message": "Memory deleted successfully!"}

    def delete_all(
        self, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None
    ) -> dict[str, str]:
        """Erases all memories of a user, agent or run.

        Args:
            user_id, agent_id, run_id: Whose; all that are given must agree.
        """
        ids = entity_ids({"user_id": user_id, "agent_id": agent_id, "run_id": run_id})
        one_of_each(ids)
        scope, condition = self._selection(ids)
        _report(scope.forget(filter=condition))
        return {"message": "Memories deleted successfully!"}

    def reset(self) -> None:
        """Erases everything."""
        _report(self.memory.forget(everything=True))

    def close(self) -> None:
        """Closes the memory, unless it was given."""
        if self._owns_memory:
            self.memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- scopes

    def _scope(self, ids: Mapping[str, str]) -> AgentScope:
        names = {ENTITIES[name]: value for name, value in ids.items()}
        return self.memory.scope(**names) if names else self.memory

    def _selection(self, filters: dict[str, Any]) -> tuple[AgentScope, dict[str, Any]]:
        """The narrowest scope that holds all that has these ids, and the condition on it."""
        given = entity_ids(filters)
        known = entity_ids(filters, wildcard=True)
        around: dict[str, str] = {}
        for name in ENTITIES:
            if name not in known:
                break
            around[name] = known[name]
        return self._scope(around), condition_of({**filters, **given})

    def _item(self, memory_id: str) -> Item:
        item = self.memory.get(text_of("memory_id", memory_id))
        if item is None or not _is_shown(item, expired=True):
            raise InvalidInputError(
                f"Memory with id {memory_id} not found. Please provide a valid 'memory_id'"
            )
        return item


def _told(message: Mapping[str, Any] | None) -> dict[str, Any]:
    return {} if message is None else {"role": message["role"], "actor_id": message.get("name")}


def _is_shown(item: Item, *, expired: bool) -> bool:
    """Whether nobody has hidden it."""
    return set(item.masks) <= ({_EXPIRED} if expired else set())


def _report(report: Forgotten) -> None:
    """mem0 has no room for a report, so what is not erased yet is logged."""
    if not report.erased:
        _log.warning("out of every result, but not erased from every file yet: %s", report.reason)
