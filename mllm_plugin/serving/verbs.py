"""The verbs that both servers offer: one list of names, meanings, arguments and what each does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator

from mllm_plugin.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from mllm_plugin.agent import AgentScope, Forgotten

LONGEST = 100_000
"""Characters of a text: an item is a few sentences; `mllm index` takes files."""
_Name = Annotated[str, StringConstraints(min_length=1, max_length=500)]
_Text = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST)]
_Query = Annotated[str, StringConstraints(min_length=1, max_length=10_000)]
_Time = Annotated[str, Field(description="ISO 8601 with a time zone, such as 2026-05-01T12:00:00Z.")]
_Key = Literal["app", "user", "agent", "session"]
_Metadata = dict[str, JsonValue]
_Kinds = _Name | Annotated[list[_Name], Field(max_length=100)]
_FILTER = 'Condition on metadata, such as {"topic": "food"} or {"year": {"$gte": 2024}}.'


class _Given(BaseModel):
    """Named values; null is the same as left out, as some clients name every argument."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None}


class Arguments(_Given):
    """What every verb takes."""

    scope: dict[_Key, _Name] = Field(
        {}, description='Narrows the scope of this call, such as {"session": "s1"}.'
    )


class Item(_Given):
    """What is remembered."""

    text: _Text = Field(description="What to remember, in one or a few sentences.")
    id: _Name | None = Field(None, description="To write over later; made when left out.")
    kind: _Name | None = Field(
        None, description="Such as fact, preference or message; fact, or message with a speaker."
    )
    metadata: _Metadata | None = Field(None, description="Values by name, for filters.")
    at: _Time | None = Field(None, description="When it was said or became true; now when left out.")
    expires: _Time | None = Field(None, description="When to forget it.")
    supersedes: _Name | list[_Name] | None = Field(None, description="Ids that this one replaces.")
    source: JsonValue = Field(None, description="Where it comes from.")
    speaker: _Name | None = Field(None, description="Who said it.")
    derived_from: list[_Name] | None = Field(
        None, description="Ids that it was made of: it is forgotten with any of them."
    )


class Remember(Item, Arguments):
    """Arguments of `remember`."""


class RememberMany(Arguments):
    """Arguments of `remember_many`."""

    items: list[Item] = Field(min_length=1, max_length=1000, description="As for `remember`, each.")


class Recall(Arguments):
    """Arguments of `recall`."""

    query: _Query = Field(description="What you want to know, as a question or key words.")
    k: int = Field(5, ge=1, description="Most memories to return.")
    within: list[_Key] | None = Field(None, description="Look only in the scopes of these keys.")
    kind: _Kinds | None = Field(None, description="Only of this kind, or of these.")
    filter: _Metadata | None = Field(None, description=_FILTER)
    since: _Time | None = Field(None, description="Only what was said or became true then or later.")
    as_of: _Time | None = Field(None, description="What held at that time.")
    min_relevance: float | None = Field(None, ge=0, le=1, description="Least relevance, 0 to 1.")
    budget_tokens: int | None = Field(None, ge=1, description="Most tokens of text to return.")
    neighbours: int = Field(0, ge=0, le=10, description="Messages to bring before and after each.")


class Context(Arguments):
    """Arguments of `context`."""

    messages: str | list[str | dict[str, JsonValue]] = Field(
        description='A question, or the messages so far, such as {"role": "user", "content": "..."}.'
    )
    budget_tokens: int = Field(600, ge=1, description="Most tokens of the text.")
    k: int = Field(20, ge=1, description="Most memories in it.")


class One(Arguments):
    """One memory by its id."""

    id: _Name = Field(description="Id of the memory.")


class Which(Arguments):
    """Memories by their ids or by a condition."""

    id: _Name | Annotated[list[_Name], Field(min_length=1, max_length=1000)] | None = Field(
        None, description="Id of one memory, or of several."
    )
    filter: _Metadata | None = Field(None, min_length=1, description=_FILTER)


class Forget(Which):
    """Arguments of `forget`."""

    everything: bool = Field(False, strict=True, description="All of the scope; needs neither id nor filter.")


class Mask(Which):
    """Arguments of `mask`."""

    label: str = Field("", max_length=500, description="Name of the mask, to lift it by.")


class Unmask(Which):
    """Arguments of `unmask`; without id and filter, all that the mask hides."""

    label: str | None = Field(None, max_length=500, description="Name of the mask, where it has one.")


class Update(One):
    """Arguments of `update`."""

    text: _Text | None = Field(None, description="Its new text.")
    metadata: _Metadata | None = Field(None, description="Its new metadata.")
    merge: bool = Field(False, description="Keep the metadata that is not named.")
    kind: _Name | None = Field(None, description="Its new kind.")
    expires: _Time | Literal["never"] | None = Field(None, description="When to forget it, or never.")
    at: _Time | None = Field(None, description="From when on it holds; now when left out.")
    if_version: int | None = Field(None, description="Refuse unless this is its version now.")


class List(Arguments):
    """Arguments of `list`."""

    order: Literal["id", "created_at", "updated_at", "-id", "-created_at", "-updated_at"] = Field(
        "-updated_at", description="What to sort by; with - from the last to the first."
    )
    limit: int = Field(20, ge=1, description="Most memories to return.")
    offset: int = Field(0, ge=0, le=2**53, description="Memories to pass over.")
    kind: _Kinds | None = Field(None, description="Only of this kind, or of these.")
    filter: _Metadata | None = Field(None, description=_FILTER)
    masked: bool = Field(False, description="Only what is hidden or was replaced, in place of the rest.")


class Overview(Arguments):
    """Arguments of `overview`."""

    topic: _Query | None = Field(None, description="What about; everything when left out.")
    nodes: int = Field(8, ge=1, le=100, description="Most parts.")


@dataclass(frozen=True)
class Verb:
    """One thing that a caller may ask for.

    Attributes:
        name: Of the tool, and of the path.
        title: For people.
        description: For the model that decides when to use it.
        arguments: Their names, types and meanings.
        run: Does it within a scope.
        writes: Whether it changes the memory.
        destructive: Whether what it changes may be lost.
        idempotent: Whether a second call changes nothing more.
        tool: Whether it is offered to language models; every one more costs room in their context.
    """

    name: str
    title: str
    description: str
    arguments: type[Arguments]
    run: Callable[[AgentScope, Any], Any]
    writes: bool = False
    destructive: bool = False
    idempotent: bool = False
    tool: bool = True


def _remember_many(scope: AgentScope, said: RememberMany) -> Any:
    return {"items": scope.remember_many(_given(said)["items"])}


def _get(scope: AgentScope, said: One) -> Any:
    found = scope.get(said.id)
    if found is None:
        raise NotFoundError(f"no memory {said.id!r} in this scope; `list` shows what there is")
    return found


def _update(scope: AgentScope, said: Update) -> Any:
    changes = _given(said)
    if not changes.keys() & {"text", "metadata", "kind", "expires", "at"}:
        raise InvalidInputError("say what changes: text, metadata, kind, expires or at")
    if said.expires == "never":
        changes["expires"] = None
    return scope.update(**changes)


def _forget(scope: AgentScope, said: Forget) -> Any:
    return _found(scope.forget(**_given(said)))


def _mask(scope: AgentScope, said: Mask) -> Any:
    return _found(scope.hide(**_given(said)))


def _found(report: Forgotten) -> Any:
    """What was done; where ids were named and nothing was there, that is an error."""
    if report.missing and not report.ids:
        absent = ", ".join(map(repr, report.missing[:3]))
        raise NotFoundError(f"no memory {absent} in this scope; `list` shows what there is")
    return replace(report, reports=())


def _overview(scope: AgentScope, said: Overview) -> Any:
    return {"items": [replace(one, ids=()) for one in scope.overview(**_given(said))]}  # `size` says how many


def _given(said: Arguments) -> dict[str, Any]:
    """What the caller said, as arguments of the facade."""
    return said.model_dump(exclude={"scope"}, exclude_unset=True)


VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "remember",
            "Remember",
            "Stores one memory: a fact, a preference, a decision, something that was said. It is found "
            "at once. Says which memories are nearly the same. With an id that is there, or `supersedes`, "
            "the old one gives way.",
            Remember,
            lambda scope, said: scope.remember(**_given(said)),
            writes=True,
        ),
        Verb(
            "remember_many",
            "Remember many",
            "Stores many memories at once: new ones all together or none.",
            RememberMany,
            _remember_many,
            writes=True,
            tool=False,
        ),
        Verb(
            "recall",
            "Recall",
            "Finds the memories that answer a question, best first, each with its id, time and relevance "
            "from 0 to 1. Use it before you answer from what was said earlier.",
            Recall,
            lambda scope, said: {"items": scope.recall(**_given(said))},
            idempotent=True,
        ),
        Verb(
            "context",
            "Context",
            "What is remembered about a conversation, as text for a prompt: a line a memory, oldest first.",
            Context,
            lambda scope, said: {"text": scope.context(**_given(said))},
            idempotent=True,
            tool=False,
        ),
        Verb(
            "get",
            "Get",
            "One memory by its id, masked or not.",
            One,
            _get,
            idempotent=True,
            tool=False,
        ),
        Verb(
            "history",
            "History",
            "All versions of a memory and what it took the place of, the newest first.",
            One,
            lambda scope, said: {"items": scope.history(said.id)},
            idempotent=True,
            tool=False,
        ),
        Verb(
            "forget",
            "Forget for good",
            "Erases memories by id, by filter, or all of the scope, with their old versions and what was "
            "made of them. It cannot be undone; `mask` hides for a while.",
            Forget,
            _forget,
            writes=True,
            destructive=True,
            idempotent=True,
        ),
        Verb(
            "mask",
            "Hide for a while",
            "Hides memories by id or filter, until `unmask`.",
            Mask,
            _mask,
            writes=True,
            idempotent=True,
        ),
        Verb(
            "unmask",
            "Show again",
            "Shows masked memories again, by id or filter, or all of a mask; says which.",
            Unmask,
            lambda scope, said: {"ids": scope.restore(**_given(said))},
            writes=True,
            idempotent=True,
        ),
        Verb(
            "update",
            "Update",
            "Changes the text, metadata, kind or expiry of a memory. The old version is kept and no longer "
            "recalled. With `if_version` it fails when somebody else was faster.",
            Update,
            _update,
            writes=True,
        ),
        Verb(
            "list",
            "List",
            "Lists memories of the scope, the last changed first.",
            List,
            lambda scope, said: {"items": scope.list(**_given(said))},
            idempotent=True,
        ),
        Verb(
            "overview",
            "Overview",
            "What the memory holds, or holds about a topic: its parts, each with size, time span and most "
            "central memories.",
            Overview,
            _overview,
            idempotent=True,
        ),
        Verb(
            "sweep",
            "Sweep",
            "Erases the memories of the scope that have expired; hidden they were already.",
            Arguments,
            lambda scope, said: scope.sweep(),
            writes=True,
            destructive=True,
            idempotent=True,
            tool=False,
        ),
    )
}


def schema_of(verb: Verb) -> dict[str, Any]:
    """The JSON schema of a verb's arguments, without what repeats the names, and nulls."""
    return _short(verb.arguments.model_json_schema())


def _short(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_short(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:  # to any JSON value, which needs no words
        return {}
    found = {name: _short(one) for name, one in schema.items() if not _says_nothing(name, one)}
    kinds = [one for one in found.pop("anyOf", []) if one != {"type": "null"}]
    if len(kinds) == 1:
        return {**kinds[0], **found}
    return {"anyOf": kinds, **found} if kinds else found


def _says_nothing(name: str, value: Any) -> bool:
    titled = name == "title" and isinstance(value, str)
    return titled or name == "$defs" or (name == "default" and value is None)
