"""`AgentScope`: the memory as one user, agent or session has it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from mllm_plugin.agent import forgetting, prompting, recalling, topics, writing
from mllm_plugin.agent.given import Given, given_item, given_items
from mllm_plugin.agent.items import AgentTopic, AuditEntry, Consolidated, Forgotten, Memory, Remembered
from mllm_plugin.agent.naming import (
    FIELD,
    HIDDEN,
    checked_keys,
    checked_names,
    hiding_mask,
    inner_keys,
    memory_of,
    names_in,
    names_of,
    namespace_of,
)
from mllm_plugin.agent.recalling import Wanted, condition_of
from mllm_plugin.agent.writing import Change
from mllm_plugin.calls.options import explain_calls
from mllm_plugin.calls.twins import twin
from mllm_plugin.errors import InvalidInputError, InvalidTypeError
from mllm_plugin.memory.checks import at_least, ids_of, positive, share
from mllm_plugin.memory.editing import KEEP
from mllm_plugin.reports import RemoveReport
from mllm_plugin.search.query import Recency
from mllm_plugin.store.listing import Order
from mllm_plugin.types import Moment, Namespace

if TYPE_CHECKING:
    from mllm_plugin.agent.shared import Shared


@explain_calls
class AgentScope:
    """What one user, agent or session remembers.

    It sees what is in it and in the scopes below it, and what the scopes around it hold themselves; never a
    sibling of it. It changes and forgets only what is in it and below it. It cannot be widened. Every call
    has an async twin, `arecall` for `recall`.

    Attributes:
        names: What it is bound to, by key.
        namespace: Where its items lie in the memory.
    """

    def __init__(
        self,
        shared: Shared,
        names: Mapping[str, str],
        participants: Sequence[str] = (),
        outermost: Namespace = (),
    ) -> None:
        self._shared, self.names, self._participants = shared, dict(names), tuple(participants)
        self.namespace, self._outermost = namespace_of(names), outermost

    def scope(
        self,
        *,
        app: str | None = None,
        user: str | None = None,
        agent: str | None = None,
        session: str | None = None,
        participants: Sequence[str] | None = None,
    ) -> AgentScope:
        """A narrower scope: this one with more names bound.

        Args:
            app, user, agent, session: From the widest to the narrowest; any may be left out.
            participants: Who speaks in it; their names are embedded with each message.

        Raises:
            InvalidInputError: A name is bound to another one, empty, or would widen the scope.
        """
        given = {"app": app, "user": user, "agent": agent, "session": session}
        names = checked_names(self.names, given)
        if namespace_of(names)[: len(self.namespace)] != self.namespace:
            raise InvalidInputError(
                f"a scope of {self.names} cannot be bound to {names}, which lies above it; begin with the "
                f"whole memory: memory.scope(…)"
            )
        who = self._participants if participants is None else names_in("participants", participants)
        return AgentScope(self._shared, names, who, self._outermost)

    def closed(self) -> AgentScope:
        """This scope for somebody who is never to reach out of it, not with the scopes made of it either.

        Nothing of the scopes around it is seen; a summary that lies there stays when what it was made of is
        forgotten in here.
        """
        return AgentScope(self._shared, self.names, self._participants, self.namespace)

    # -- writing

    def remember(
        self,
        text: str,
        *,
        id: str | None = None,
        kind: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        at: Moment | None = None,
        expires: Moment | None = None,
        supersedes: str | Sequence[str] | None = None,
        source: Any = None,
        speaker: str | None = None,
        session: str | None = None,
        participants: Sequence[str] | None = None,
        derived_from: Sequence[str] | None = None,
        mask: str | None = None,
        history: bool = True,
    ) -> Remembered:
        """Remembers a text: durable and searchable when it returns; no language model is asked.

        Args:
            text: One or a few sentences, or a message.
            id: Made when left out; one that is there gets a new version, which keeps what is not told anew,
                but for metadata and expiry.
            kind: "message" for what somebody said, "fact" for anything else, or a name of yours. Left out:
                a message where `speaker` is given. Messages of a session are in order, and are not compared
                with each other for duplicates.
            metadata: JSON values by name; filters read it. "item" is reserved.
            at: When it was said or became true; now when left out.
            expires: From when on it is hidden; `sweep` erases it then.
            supersedes: Items of this scope, one id or several, whose place it takes: they end at `at` and
                are masked.
            source: Where it comes from: any JSON value, such as a link with a span.
            speaker: Who said it.
            session: In which session, where the scope is not bound to one.
            participants: Who speaks with whom, where the scope does not say.
            derived_from: Id or ids of items that it was made of: it is forgotten with any of them.
            mask: Name of a mask that it has from the first: no recall finds it before `restore(label=...)`.
            history: False erases what it takes the place of, with all versions.

        Raises:
            InvalidInputError: The text or a name is empty, or a moment has no time zone.
            InvalidTypeError: An argument is of another type.
            InvalidDocumentError: The text or the metadata cannot be stored.
            NotFoundError: What it supersedes is not there.
        """
        item = {
            "text": text,
            "id": id,
            "kind": kind,
            "metadata": metadata,
            "at": at,
            "expires": expires,
            "supersedes": supersedes,
            "source": source,
            "speaker": speaker,
            "session": session,
            "participants": participants,
            "derived_from": derived_from,
            "mask": mask,
        }
        return self._remember([item], history)[0]

    aremember = twin(remember)

    def remember_many(
        self, items: Iterable[str | Mapping[str, Any]], *, history: bool = True
    ) -> list[Remembered]:
        """Remembers many at once: new ones in one transaction, all of them or none.

        An item whose id is there already, or that is merged with a duplicate, is a transaction of its own.

        Args:
            items: Texts, or dictionaries of the arguments of `remember`. They are compared with what is
                there, not with each other.
            history: As for `remember`.
        """
        return self._remember(given_items(items), history)

    aremember_many = twin(remember_many)

    def _remember(self, items: Sequence[Any], history: bool) -> list[Remembered]:
        bound = {"session": self.names.get("session"), "participants": self._participants}
        given: list[Given] = [given_item(item, bound) for item in items]
        return writing.remember(self._shared, self.namespace, given, self._shared.duplicates, history)

    def update(
        self,
        id: str,
        *,
        text: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        merge: bool = False,
        kind: str | None = None,
        expires: Moment | Literal["keep"] | None = KEEP,
        at: Moment | None = None,
        if_version: int | None = None,
        history: bool = True,
    ) -> Remembered:
        """Makes a new version of an item. The old one ends, is masked, and is found by `recall(as_of=…)`.

        Args:
            id: Which.
            text: Its new text; the encoder is asked for nothing else.
            metadata: Its new metadata.
            merge: Keep the metadata whose keys `metadata` does not name.
            kind: Its new kind.
            expires: When it expires; None for never, "keep" as it is.
            at: From when on it holds; now when left out.
            if_version: Only if this is its version.
            history: False erases the old version.

        Raises:
            NotFoundError: It is not there.
            InvalidInputError: Another item took its place, or an argument says nothing.
            VersionConflictError: It has another version than `if_version`; without one, what somebody else
                writes at the same time becomes a version too.
        """
        change = Change(text, metadata, merge, kind, expires, at, if_version)
        return writing.update(self._shared, self.namespace, id, change, history)

    aupdate = twin(update)

    # -- recalling

    def recall(
        self,
        query: str,
        *,
        k: int = 5,
        within: Sequence[str] | None = None,
        kind: str | Sequence[str] | None = None,
        filter: Mapping[str, Any] | None = None,
        since: Moment | None = None,
        as_of: Moment | None = None,
        recency: Recency | timedelta | float | None = None,
        min_relevance: float | None = None,
        budget_tokens: int | None = None,
        include_masked: Sequence[str] = (),
        neighbours: int = 0,
    ) -> list[Memory]:
        """The items that best answer a query, best first.

        Args:
            query: Text.
            k: Most items.
            within: Keys of the scopes to look in, such as ("session", "user"); all when left out.
            kind: Only items of this kind, or of these.
            filter: Metadata condition.
            since: Only what became true, or was written, then or later.
            as_of: What held then; superseded versions too.
            recency: Half-life of an advantage of the new over the old; none when left out.
            min_relevance: Least relevance, from 0 to 1.
            budget_tokens: Most tokens of all items' lines together.
            include_masked: Names of masks to look through.
            neighbours: Of each message, bring so many before and after it in its session.
        """
        wanted = Wanted(
            k=positive("k", k),
            within=inner_keys(self._outermost, None if within is None else checked_keys(within)),
            condition=condition_of(filter, kind),
            min_relevance=None if min_relevance is None else share("min_relevance", min_relevance),
            budget_tokens=None if budget_tokens is None else positive("budget_tokens", budget_tokens),
            neighbours=at_least("neighbours", neighbours, 0),
            options={
                "since": since,
                "as_of": as_of,
                "recency": recency,
                "include_masked": include_masked,
            },
        )
        return recalling.recall(self._shared, self.namespace, query, wanted)

    arecall = twin(recall)

    def context(
        self, messages: str | Sequence[Any], *, budget_tokens: int = 600, k: int = 20, **options: Any
    ) -> str:
        """What is remembered about a conversation, as text for a prompt, a line an item, oldest first.

        Args:
            messages: A question, or the messages so far: texts, dictionaries with "content", or objects with
                `.content`. The last ones are what is looked for.
            budget_tokens: Most tokens.
            k: Most items.
            options: Further arguments of `recall`.

        Returns:
            The text; empty where nothing is remembered.
        """
        query = prompting.query_of(messages)
        found = self.recall(query, k=k, budget_tokens=budget_tokens, **options) if query else []
        return "\n".join(item.line() for item in recalling.by_time(found))

    acontext = twin(context)

    def overview(self, topic: str | None = None, *, nodes: int = 8, faces: int = 2) -> list[AgentTopic]:
        """What is known, or what is known about a topic: parts of the memory, told from its upper levels.

        Args:
            topic: What about; the largest parts when left out.
            nodes: Most parts.
            faces: Of each, so many of its most central items.
        """
        return topics.overview(self._shared, self.namespace, topic, nodes, faces)

    aoverview = twin(overview)

    def consolidate(self, merge: topics.Merge | None = None, *, similar: float = 0.9) -> list[Consolidated]:
        """Groups of this scope's items that say nearly the same.

        Args:
            merge: Makes one text of the items of a group; it takes their place, as a new item derived from
                them. None only proposes.
            similar: Least cosine with the middle of a group.
        """
        if merge is not None and not callable(merge):
            raise InvalidTypeError(f"merge is a function of items, got {type(merge).__name__}")
        return topics.consolidate(self._shared, self.namespace, merge, share("similar", similar))

    aconsolidate = twin(consolidate)

    # -- reading

    def get(self, id: str) -> Memory | None:
        """An item by id, of this scope, those below it or those around it; None where there is none."""
        document = forgetting.find(self._shared, self.namespace, id, within=inner_keys(self._outermost))
        return None if document is None else memory_of(document)

    aget = twin(get)

    def list(
        self,
        *,
        order: Order | None = "-updated_at",
        limit: int | None = 20,
        offset: int = 0,
        kind: str | Sequence[str] | None = None,
        filter: Mapping[str, Any] | None = None,
        masked: bool | None = False,
    ) -> list[Memory]:
        """Items of this scope and of those below it.

        Args:
            order: As for `MemoryIndex.documents`; None for the order they were written.
            limit: At most so many; None for all.
            offset: Pass over so many first.
            kind: Only items of this kind, or of these.
            filter: Metadata condition.
            masked: True for what is hidden, superseded or expired, None for all.
        """
        found = self._shared.memory.documents(
            namespace=self.namespace,
            prefix=True,
            filter=condition_of(filter, kind),
            masked=masked,
            order=order,
            limit=limit,
            offset=offset,
        )
        return [memory_of(document) for document in found]

    alist = twin(list)

    def history(self, id: str) -> list[Memory]:  # type: ignore[valid-type]
        """All versions of an item, and what it took the place of, the newest first."""
        document = forgetting.found(self._shared, self.namespace, id, within=inner_keys(self._outermost))
        condition = {"$or": [{f"{FIELD}.of": id}, {f"{FIELD}.by": {"$in": [id]}}]}
        older = self._shared.memory.documents(namespace=document.namespace, filter=condition)
        versions = [memory_of(one) for one in older]
        return [memory_of(document), *sorted(versions, key=lambda one: one.valid_to or one.at, reverse=True)]

    ahistory = twin(history)

    # -- forgetting

    def forget(
        self,
        id: str | Sequence[str] | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        everything: bool = False,
        how: Literal["erase", "hide"] = "erase",
    ) -> Forgotten:
        """Forgets items, with their old versions and whatever was made of them.

        Args:
            id: Which; one id or several.
            filter: Those of this scope and below that match, as they are now; an empty one is refused.
            everything: All of this scope and below.
            how: "erase" leaves nothing in any file; "hide" masks, and `restore` brings back.
        """
        if how not in ("erase", "hide"):
            raise InvalidInputError(f"how must be 'erase' or 'hide', got {how!r}")
        named, missing = self._chosen(id, filter, everything)
        if how == "hide":
            return forgetting.hide(self._shared, self._here, named, missing, HIDDEN)
        return forgetting.erase(self._shared, self._here, named, missing)

    aforget = twin(forget)

    def hide(
        self,
        id: str | Sequence[str] | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        label: str = HIDDEN,
    ) -> Forgotten:
        """Masks items, as `forget(how="hide")`.

        Args:
            id, filter: As for `forget`.
            label: Name of the mask; "superseded" and "expired" are the memory's own.
        """
        named, missing = self._chosen(id, filter, False)
        return forgetting.hide(self._shared, self._here, named, missing, hiding_mask(label))

    ahide = twin(hide)

    def restore(
        self,
        id: str | Sequence[str] | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        label: str | None = None,
    ) -> tuple[str, ...]:
        """Lifts the mask of `hide`; returns the ids. With no id and no filter, from all of the scope.

        Args:
            id, filter: As for `forget`.
            label: Name of the mask.
        """
        named, _ = self._chosen(id, filter, id is None and filter is None)
        return forgetting.restore(self._shared, self._here, named, hiding_mask(label))

    @property
    def _here(self) -> forgetting.Here:
        return forgetting.Here(self.namespace, self._outermost)

    arestore = twin(restore)

    def _chosen(self, id: Any, filter: Any, everything: bool) -> Any:
        if (id is not None) + (filter is not None) + bool(everything) != 1:
            raise InvalidInputError("say which items: one of id, filter and everything=True")
        if filter is not None and not filter:
            raise InvalidInputError("an empty filter matches everything; pass everything=True for that")
        ids = ids_of(id)
        return forgetting.chosen(self._shared, self.namespace, ids, filter)

    def sweep(self) -> RemoveReport:
        """Erases what has expired in this scope and below, with its versions and whatever was made of it."""
        return forgetting.sweep(self._shared, self._here)

    asweep = twin(sweep)

    # -- upkeep

    def audit(self, *, limit: int = 100) -> list[AuditEntry]:  # type: ignore[valid-type]
        """What was done in this scope and below, the newest first; no entry holds a text."""
        most = positive("limit", limit)
        with self._shared.memory.snapshot():  # which a closed memory refuses
            found = self._shared.audit.entries(self.namespace, most)
        return [
            AuditEntry(entry.at, entry.action, names_of(entry.namespace), entry.ids, entry.count)
            for entry in found
        ]

    aaudit = twin(audit)

    def stats(self) -> dict[str, int]:
        """Items of this scope and below: live ones, and those that are masked."""
        count = self._shared.memory.count
        live, masked = (count(namespace=self.namespace, prefix=True, masked=one) for one in (False, True))
        return {"items": live, "masked": masked}

    astats = twin(stats)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={name!r}' for key, name in self.names.items())})"
