"""The verbs that both servers offer: one list of names, meanings, arguments and what each does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from mllm_plugin.errors import InvalidInputError

if TYPE_CHECKING:
    from mllm_plugin.agent import AgentScope

_Name = Annotated[str, StringConstraints(min_length=1, max_length=500)]
_Text = Annotated[str, StringConstraints(min_length=1)]
_Time = Annotated[str, Field(description="ISO 8601 with a time zone, such as 2026-05-01T12:00:00Z.")]
KEYS = ("app", "user", "agent", "session")
"""What a scope may name, the widest first."""
Within = tuple[str, ...] | None
_Filter = dict[str, JsonValue]
_FILTER = 'Condition on metadata, such as {"kind": "fact"} or {"year": {"$gte": 2024}}.'


class Arguments(BaseModel):
    """What every verb takes."""

    model_config = ConfigDict(extra="forbid")

    scope: dict[Literal["app", "user", "agent", "session"], _Name] = Field(
        {}, description='Narrows the scope of this call, such as {"session": "s1"}.'
    )


class Remember(Arguments):
    """Arguments of `remember`."""

    text: _Text = Field(description="What to remember, in one or a few sentences.")
    id: _Name | None = Field(None, description="To write over later; made when left out.")
    kind: _Name = Field("fact", description="What sort of memory, such as fact, preference or message.")
    at: _Time | None = Field(None, description="When it was said or became true; now when left out.")
    expires: _Time | None = Field(None, description="When to forget it.")
    supersedes: _Name | None = Field(None, description="Id of a memory that this one replaces.")
    source: JsonValue = Field(None, description="Where it comes from.")


class Recall(Arguments):
    """Arguments of `recall`."""

    query: _Text = Field(description="What you want to know, as a question or key words.")
    k: int = Field(5, ge=1, description="Most memories to return.")
    since: _Time | None = Field(None, description="Only what was said or became true then or later.")
    as_of: _Time | None = Field(None, description="What held at that time.")
    min_relevance: float | None = Field(None, ge=0, le=1, description="Least relevance, 0 to 1.")
    budget_tokens: int | None = Field(None, ge=1, description="Most tokens of text to return.")


class Which(Arguments):
    """Memories by their ids or by a condition."""

    id: _Name | None = Field(None, description="Id of one memory.")
    filter: _Filter | None = Field(None, description=_FILTER)

    def check(self) -> None:
        """Refuses a call that names nothing.

        Raises:
            InvalidInputError: Neither an id nor a filter.
        """
        if self.id is None and not self.filter:
            raise InvalidInputError("say which memories: id or filter")


class Forget(Which):
    """Arguments of `forget`."""

    everything: bool = Field(False, description="All of the scope; needs neither id nor filter.")


class Mask(Which):
    """Arguments of `mask`."""

    label: str = Field("", description="Name of the mask, to lift it by.")


class Unmask(Which):
    """Arguments of `unmask`."""

    label: str | None = Field(None, description="Lift only the mask of this name; alone: wherever it lies.")


class Update(Arguments):
    """Arguments of `update`."""

    id: _Name = Field(description="Id of the memory.")
    text: _Text | None = Field(None, description="Its new text.")
    metadata: dict[str, JsonValue] | None = Field(None, description="Its new metadata.")
    expires: _Time | None = Field(None, description="When to forget it.")
    if_version: int | None = Field(None, description="Refuse unless this is its version now.")


class List(Arguments):
    """Arguments of `list`."""

    order: Literal["id", "created_at", "updated_at", "-id", "-created_at", "-updated_at"] = Field(
        "-updated_at", description="What to sort by; with - from the last to the first."
    )
    limit: int = Field(20, ge=1, description="Most memories to return.")
    offset: int = Field(0, ge=0, description="Memories to pass over.")
    filter: _Filter | None = Field(None, description=_FILTER)


class Overview(Arguments):
    """Arguments of `overview`."""

    topic: _Text | None = Field(None, description="What about; everything when left out.")


@dataclass(frozen=True)
class Verb:
    """One thing that a caller may ask for.

    Attributes:
        name: Of the tool, and of the path.
        title: For people.
        description: For the model that decides when to use it.
        arguments: Their names, types and meanings.
        run: Does it within a scope, given the keys that a recall may fall through to.
        writes: Whether it changes the memory.
        destructive: Whether what it changes may be lost.
        idempotent: Whether a second call changes nothing more.
        embeds: Whether it embeds a document, so that it waits for the whole encoder.
    """

    name: str
    title: str
    description: str
    arguments: type[Arguments]
    run: Callable[[AgentScope, Any, Within], Any]
    writes: bool = False
    destructive: bool = False
    idempotent: bool = False
    embeds: bool = False


def _remember(scope: AgentScope, said: Remember, within: Within) -> Any:
    return scope.remember(**_given(said))


def _recall(scope: AgentScope, said: Recall, within: Within) -> Any:
    return {"items": scope.recall(**_given(said), within=within)}


def _forget(scope: AgentScope, said: Forget, within: Within) -> Any:
    if not said.everything:
        said.check()
    return scope.forget(**_given(said))


def _mask(scope: AgentScope, said: Mask, within: Within) -> Any:
    said.check()
    return scope.hide(**_given(said))


def _unmask(scope: AgentScope, said: Unmask, within: Within) -> Any:
    if said.label is None:
        said.check()
    return scope.restore(**_given(said))


def _update(scope: AgentScope, said: Update, within: Within) -> Any:
    return scope.update(**_given(said))


def _list(scope: AgentScope, said: List, within: Within) -> Any:
    return {"items": scope.list(**_given(said))}


def _overview(scope: AgentScope, said: Overview, within: Within) -> Any:
    return {"items": scope.overview(**_given(said))}


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
            _remember,
            writes=True,
            embeds=True,
        ),
        Verb(
            "recall",
            "Recall",
            "Finds the memories that answer a question, best first, each with its id, time and relevance "
            "from 0 to 1. Use it before you answer from what was said earlier.",
            Recall,
            _recall,
            idempotent=True,
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
            "Shows masked memories again, by id, filter or label.",
            Unmask,
            _unmask,
            writes=True,
            idempotent=True,
        ),
        Verb(
            "update",
            "Update",
            "Changes the text, metadata or expiry of a memory. The old version is kept and no longer "
            "recalled. With `if_version` it fails when somebody else was faster.",
            Update,
            _update,
            writes=True,
            embeds=True,
        ),
        Verb(
            "list",
            "List",
            "Lists memories of the scope, the last changed first.",
            List,
            _list,
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
    )
}


def schema_of(verb: Verb) -> dict[str, Any]:
    """The JSON schema of a verb's arguments, without what repeats the names."""
    return _without_titles(verb.arguments.model_json_schema())


def _without_titles(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_titles(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: _without_titles(one)
        for name, one in schema.items()
        if not (name == "title" and isinstance(one, str))
    }
